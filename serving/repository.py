"""Checks a model repository before Triton does, where a better sentence can be said."""

import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emotion.hashing import sha256
from serving.installation import TritonError

SPEECH_REPOSITORY = Path(__file__).parent.parent / "speech_repository"  # what is served beside it where asked for
MANIFEST = "export.json"  # export writes it as its last step
DEFAULT_CONFIG = "default"  # stands for each model's config.pbtxt
_BACKEND = re.compile(r'(?m)^\s*(?:backend|platform)\s*:\s*"onnxruntime')
_MODEL_FILE = re.compile(r'(?m)^\s*default_model_filename\s*:\s*"([^"]+)"')
_EXPORTED = re.compile(r"model(?:\.(\w+))?\.onnx")  # the export names files by precision; model.onnx is fp32


def check_repository(repository: Path) -> dict[str, Any] | None:
    """The export's manifest, or None for a repository that isn't ours.

    Raises:
        TritonError: no such directory, nothing exported into it, or an exported file missing or damaged.
    """
    if not repository.is_dir():
        raise TritonError(f"there is no model repository {repository}; make one with: python -m export CHECKPOINT")
    manifest = repository / MANIFEST
    if not manifest.is_file():
        if (repository / "emotion").is_dir():
            raise TritonError(f"{repository} holds no exported models (or an interrupted export); run: make export")
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
        if digest(path) != written:  # weights with a bit flipped would load, and answer wrongly
            raise TritonError(f"{path} is not what the export wrote (its SHA-256 differs); run: make export")
    return content


def check_config(repositories: Iterable[Path], config: str | None) -> str | None:
    """Return the configuration to ask Triton for, or None for each model's config.pbtxt.

    Triton itself takes config.pbtxt, in silence, where no model has the configuration.

    Raises:
        TritonError: no model has it.
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
    """Check that the ONNX files are there that the configuration names.

    Raises:
        TritonError: one is missing.
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
                f"{model / '1' / name} is missing, which the configuration {config or DEFAULT_CONFIG} of the model "
                f"'{model.name}' names; run: {remedy}"
            )


def digest(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    return sha256(path).hex()


def check_speech() -> None:
    """Whether speech can be recognised here.

    Raises:
        TritonError: a package is missing.
    """
    if importlib.util.find_spec("faster_whisper") is None:
        raise TritonError("speech recognition is not installed; run: make install-web")
