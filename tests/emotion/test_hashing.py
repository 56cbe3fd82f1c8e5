"""Test the SHA-256 of files."""

import hashlib
from pathlib import Path

import pytest

from emotion.hashing import _CHUNK, sha256


@pytest.mark.parametrize("size", [0, 1, _CHUNK, _CHUNK + 1])
def test_sha256_of_a_file_equals_that_of_its_content(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    assert sha256(tmp_path / "file") == hashlib.sha256(content[:size]).digest()
