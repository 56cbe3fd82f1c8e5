"""Check a model repository before Triton loads it, so that errors are short and name the remedy."""

import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emotion.manifest import MANIFEST, digest
from serving.installation import TritonError

SPEECH_REPOSITORY = Path(__file__).parent.parent / "speech_repository"  # also served with --speech
DEFAULT_CONFIG = "default"  # name of each model's config.pbtxt
_BACKEND = re.compile(r'(?m)^\s*(?:backend|platform)\s*:\s*"onnxruntime')
_MODEL_FILE = re.compile(r'(?m)^\s*default_model_filename\s*:\s*"([^"]+)"')
_EXPORTED = re.compile(r"model(?:\.(\w+))?\.onnx")  # the export names files by precision; model.onnx is fp32


def check_repository(repository: Path) -> dict[str, Any] | None:
    """Check the exported files, and return the export's manifest; None for a repository without an `emotion` model.

    Args:
        repository: the model repository.

    Raises:
        TritonError: the directory is missing or has no exported models, or an exported file is missing or damaged.
    """
    if not repository.is_dir():
        raise TritonError(f"there is no model repository {repository}; create one with: python -m export CHECKPOINT")
    manifest = repository / MANIFEST
    if not manifest.is_file():
        if (repository / "emotion").is_dir():
            raise TritonError(f"{repository} contains no exported models, or an interrupted export; run: make export")
        if not any(repository.glob("*/config.pbtxt")):
            raise TritonError(f"{repository} holds no models; make some with: python -m export CHECKPOINT")
        return None
    try:
        content: dict[str, Any] = json.loads(manifest.read_text())
    except ValueError:
        raise TritonError(f"{manifest} is damaged; run: make export") from None
    for name, written in content["files"].items():
        path = repository / name
        if not path.is_file():
            raise TritonError(f"{path} is missing; run: make export")
        if digest(path) != written:  # weights with a flipped bit would load and give wrong answers
            raise TritonError(f"{path} has changed since the export (its SHA-256 differs); run: make export")
    return content


def check_config(repositories: Iterable[Path], config: str | None) -> str | None:
    """Return the value of Triton's flag --model-config-name, or None for each model's config.pbtxt.

    Triton itself silently uses config.pbtxt if no model has the configuration.

    Args:
        repositories: the model repositories that are served.
        config: name of a configuration; None, "" and DEFAULT_CONFIG are config.pbtxt.

    Raises:
        TritonError: no model has the configuration.
    """
    found = {path.stem for repository in repositories for path in repository.glob("*/configs/*.pbtxt")}
    if not config or config in found:
        return config or None
    if config == DEFAULT_CONFIG:
        return None
    raise TritonError(
        f"no model has a configuration {config!r}; choose from {', '.join([DEFAULT_CONFIG, *sorted(found)])} with "
        "--config or EMOSERVE_CONFIG"
    )


def check_exports(repository: Path, config: str | None) -> None:
    """Check that the repository has the ONNX files that the configuration names.

    Args:
        repository: the model repository.
        config: name of the configuration; None for each model's config.pbtxt.

    Raises:
        TritonError: a file is missing.
    """
    for default in sorted(repository.glob("*/config.pbtxt")):
        model, chosen = default.parent, default.parent / "configs" / f"{config}.pbtxt"
        text = (chosen if chosen.is_file() else default).read_text()
        if not _BACKEND.search(text):
            continue
        name = match[1] if (match := _MODEL_FILE.search(text)) else "model.onnx"
        if not any(model.glob(f"[0-9]*/{name}")):
            precision = (match[1] or "fp32") if (match := _EXPORTED.fullmatch(name)) else ""
            remedy = f"make export PRECISION={precision}" if precision else "make export"
            raise TritonError(
                f"{model / '1' / name} is missing; the configuration {config or DEFAULT_CONFIG} of the model "
                f"'{model.name}' needs it; run: {remedy} (and CHECKPOINT=DIR if the checkpoint is not the demo's)"
            )


def check_speech() -> None:
    """Check that the package for speech recognition is installed.

    Raises:
        TritonError: it is not.
    """
    if importlib.util.find_spec("faster_whisper") is None:
        raise TritonError("speech recognition is not installed; run: make install-web")
