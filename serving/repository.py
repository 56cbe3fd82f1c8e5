"""Checks a model repository before Triton does, where a better sentence can be said."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from emotion.hashing import sha256
from serving.installation import TritonError

SPEECH_REPOSITORY = Path(__file__).parent.parent / "speech_repository"  # what is served beside it where asked for
MANIFEST = "export.json"  # export writes it as its last step


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
