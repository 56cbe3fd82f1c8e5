"""Put all files of an export into a model repository, or none of them.

All files are first written to a staging directory beside the repository, and then moved into the repository. The
manifest (export.json) is removed before the first move and written after the last one, so that an incomplete update is
never served.
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

from emotion.files import write_atomically
from emotion.manifest import MANIFEST, digest

_ROOT = Path(__file__).parent.parent
TEMPLATE = _ROOT / "model_repository"  # hand-written files; exports don't write there
REPOSITORY = _ROOT / "build" / "model_repository"  # default target of exports
# file name by precision; configurations select a file by default_model_filename
FILE_NAMES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
ENCODERS = ("vggish", "bert")  # models with a file for each precision; `fusion` is always fp32
ONNX_MODELS = (*ENCODERS, "fusion")


def model_file(repository: Path, model: str, precision: str) -> Path:
    """Return the path of the ONNX file of a served model.

    Args:
        repository: the model repository.
        model: one of ONNX_MODELS.
        precision: precision of the encoders: fp32, fp16 or int8.
    """
    return repository / model / "1" / FILE_NAMES[precision if model in ENCODERS else "fp32"]


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """Yield an empty directory on the repository's file system, and remove it at the end.

    Each export has its own directory, so that two exports can run at the same time. The directory is locked while its
    process runs. Directories of killed exports are removed.

    Raises:
        OSError: the directory can't be created.
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
    """Hold the lock of a directory; the kernel releases it when the process ends."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)


def publish(staged: Path, repository: Path, manifest: dict[str, Any]) -> None:
    """Move the staged files into the repository, and write the manifest.

    If two exports run at the same time, the later one waits and then replaces the files of the other. Hand-written
    files are copied as in `update_templates`. Other precisions of the same checkpoint are kept, and files of another
    checkpoint are removed.

    Args:
        staged: directory with the exported files.
        repository: the model repository; it is created if it does not exist.
        manifest: the manifest; the files' SHA-256 and the other precisions of the same checkpoint are added here.

    Raises:
        OSError: a file can't be written.
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
        _write_manifest(repository, manifest)


def _write_manifest(repository: Path, manifest: dict[str, Any]) -> None:
    write_atomically(repository / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def read_manifest(repository: Path) -> dict[str, Any] | None:
    """Return the manifest of the repository, or None if it is missing or damaged."""
    try:
        manifest: dict[str, Any] = json.loads((repository / MANIFEST).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return manifest


def update_templates(repository: Path) -> None:
    """Copy the hand-written files of emoserve (configurations and Python stages) that are new or have changed.

    Files that were edited in the repository are kept.

    Args:
        repository: a repository with an export.

    Raises:
        OSError: a file can't be written.
    """
    with _locked(repository):
        manifest = read_manifest(repository) or {}
        manifest["templates"] = _copy_templates(repository, manifest)
        _write_manifest(repository, manifest)


def edited_templates(repository: Path) -> list[str]:
    """Return the names of the hand-written files that were edited in the repository."""
    return sorted(name for name, source in _templates() if source.read_bytes() != (repository / name).read_bytes())


def _copy_templates(repository: Path, manifest: dict[str, Any] | None) -> dict[str, str]:
    """Copy new and changed hand-written files, and return the SHA-256 of each copied file by name."""
    copied: dict[str, str] = (manifest or {}).get("templates", {})
    for name, source in _templates():
        target, ours = repository / name, digest(source)
        if not target.exists() or digest(target) in (copied.get(name), ours):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            copied[name] = ours
    return copied


def _templates() -> Iterator[tuple[str, Path]]:
    """Yield the name and the path of each hand-written file."""
    for path in TEMPLATE.rglob("*"):
        if path.is_file() and path.parent.name != "__pycache__":
            yield path.relative_to(TEMPLATE).as_posix(), path
