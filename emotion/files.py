"""Write files atomically: readers see the old content or the new content, never a part of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears at `path` when the block ends without an exception.

    The content is written to a hidden file in the same directory, flushed to the disk, and renamed. The file has the
    permissions that the umask gives, as with `open`.

    Args:
        path: the file; its directory is created if it does not exist.

    Raises:
        OSError: the directory or the file can't be written; `path` keeps its old content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically.

    Args:
        path: the file; its directory is created if it does not exist.
        text: the whole content.

    Raises:
        OSError: the directory or the file can't be written; `path` keeps its old content.
    """
    with open_atomically(path) as file:
        file.write(text.encode())
