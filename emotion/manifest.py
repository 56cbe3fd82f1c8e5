"""Name and hash the files of an exported model repository: `export` writes its manifest, and `serving` checks it."""

from pathlib import Path

from emotion.hashing import sha256

MANIFEST = "export.json"  # file in the repository; an export writes it as its last step


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, as the manifest lists it.

    Args:
        path: the file.

    Raises:
        OSError: the file can't be read.
    """
    return sha256(path).hex()
