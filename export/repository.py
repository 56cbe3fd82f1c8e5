"""Puts exported files into a model repository, all of them or none.

Everything is written to a directory beside the repository first. Then each file is moved to its place; the manifest
(export.json) is removed before the first move and written after the last, so that a half-done exchange is never served.
"""

import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from emotion.manifest import MANIFEST, digest

_ROOT = Path(__file__).parent.parent
TEMPLATE = _ROOT / "model_repository"  # hand-written files; nothing is written there
REPOSITORY = _ROOT / "build" / "model_repository"  # where exports go by default
# by precision; configurations choose by default_model_filename
FILE_NAMES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
ENCODERS = ("vggish", "bert")  # have a file for each precision; `fusion` is fp32 beside all of them
ONNX_MODELS = (*ENCODERS, "fusion")


def model_file(repository: Path, model: str, precision: str) -> Path:
    """Return the ONNX file of a served model, for fp32, fp16 or int8."""
    return repository / model / "1" / FILE_NAMES[precision if model in ENCODERS else "fp32"]


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """Yield an empty directory on the repository's file system, and remove it with what is left in it at the end.

    Each export has a directory of its own, so that two at once do not disturb each other. It is locked as long as its
    process lives; those of exports that were killed are removed.
    """
    parent, prefix = repository.resolve().parent, f".{repository.name}.export-"
    parent.mkdir(parents=True, exist_ok=True)
    with _locked(parent):
        for left in parent.glob(f"{glob.escape(prefix)}*"):
            with suppress(OSError), _locked(left, fcntl.LOCK_NB):
                shutil.rmtree(left, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = os.open(directory, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


@contextmanager
def _locked(directory: Path, flags: int = 0) -> Iterator[None]:
    """Hold the lock of a directory, which the kernel releases when its process ends."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)


def publish(staged: Path, repository: Path, manifest: dict[str, Any]) -> None:
    """Move the staged files into the repository. Of two exports at once, the later one waits, and then wins.

    Hand-written files are copied as `update_templates` does it. Files of another checkpoint are removed: precisions of
    one checkpoint live side by side, those of two don't.

    Args:
        manifest: completed here with the files' SHA-256, and with the other precisions of the same checkpoint.
    """
    repository.mkdir(parents=True, exist_ok=True)
    with _locked(repository):
        previous = read_manifest(repository)
        manifest["templates"] = _copy_templates(repository, previous)
        (repository / MANIFEST).unlink(missing_ok=True)
        kept: dict[str, str] = {}
        if previous and previous["checkpoint"] == manifest["checkpoint"]:
            kept = previous["files"]
            manifest["parity"] = previous["parity"] | manifest["parity"]
        elif previous:
            for name in previous["files"]:
                (repository / name).unlink(missing_ok=True)
        files = {path.relative_to(staged).as_posix(): digest(path) for path in staged.rglob("*") if path.is_file()}
        for name in files:
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).replace(repository / name)
        manifest["files"] = dict(sorted((kept | files).items()))
        _write_manifest(repository, manifest, staged)


def _write_manifest(repository: Path, manifest: dict[str, Any], staged: Path) -> None:
    path = staged / MANIFEST
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    path.replace(repository / MANIFEST)


def read_manifest(repository: Path) -> dict[str, Any] | None:
    """The manifest of what is exported in the repository, or None where there is none that can be read."""
    try:
        manifest: dict[str, Any] = json.loads((repository / MANIFEST).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return manifest


def update_templates(repository: Path) -> None:
    """Copy the hand-written files of emoserve (configurations, Python stages) that are new or have changed.

    Files that were edited in the repository since they were copied are left alone.

    Args:
        repository: one with an export.
    """
    with staging(repository) as staged, _locked(repository):
        manifest = read_manifest(repository) or {}
        manifest["templates"] = _copy_templates(repository, manifest)
        _write_manifest(repository, manifest, staged)


def differing(repository: Path) -> list[str]:
    """Hand-written files that are not as they come with emoserve, because they were edited in the repository."""
    return sorted(name for name, source in _templates() if source.read_bytes() != (repository / name).read_bytes())


def _copy_templates(repository: Path, manifest: dict[str, Any] | None) -> dict[str, str]:
    """Return the SHA-256 of each hand-written file as it was copied, by name."""
    copied: dict[str, str] = (manifest or {}).get("templates", {})
    for name, source in _templates():
        target, ours = repository / name, digest(source)
        if not target.exists() or digest(target) in (copied.get(name), ours):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            copied[name] = ours
    return copied


def _templates() -> Iterator[tuple[str, Path]]:
    """Yield the hand-written files by name."""
    for path in TEMPLATE.rglob("*"):
        if path.is_file() and path.parent.name != "__pycache__":
            yield path.relative_to(TEMPLATE).as_posix(), path
