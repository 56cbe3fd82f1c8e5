"""Compute hashes of files."""

import hashlib
from pathlib import Path

_CHUNK = 1 << 20  # bytes read at a time


def sha256(path: Path) -> bytes:
    """Return the SHA-256 of a file; images have Python 3.10, which lacks hashlib.file_digest."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.digest()
