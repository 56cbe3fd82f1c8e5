"""Test atomic writes."""

from pathlib import Path

import pytest

from emotion.files import open_atomically, write_atomically


def test_write_atomically_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.txt"
    write_atomically(path, "first")
    write_atomically(path, "señor\n")
    assert path.read_bytes() == "señor\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_write_atomically_gives_the_permissions_of_an_ordinary_file(tmp_path: Path) -> None:
    ordinary, atomic = tmp_path / "ordinary", tmp_path / "atomic"
    ordinary.write_text("")
    write_atomically(atomic, "")
    assert atomic.stat().st_mode == ordinary.stat().st_mode


def test_open_atomically_after_an_exception_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), open_atomically(path) as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
