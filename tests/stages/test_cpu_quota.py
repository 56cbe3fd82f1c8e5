"""Reading a container's CPU limit."""

from pathlib import Path

import pytest

from stages import cpu_quota


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000", None),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("5000 100000", 1),
        ("", None),
        ("nonsense", None),
    ],
)
def test_limit_rounds_up_the_quota(text: str, expected: int | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert cpu_quota.limit(tmp_path / "cpu.max") == expected


def test_limit_without_a_cgroup_is_none(tmp_path: Path) -> None:
    assert cpu_quota.limit(tmp_path / "cpu.max") is None
