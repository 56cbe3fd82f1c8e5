"""Versions of Node.js, which builds the page: every file names a release line that is still maintained."""

import json
import re
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# https://github.com/nodejs/Release/blob/main/schedule.json; odd numbers never become LTS
END_OF_LIFE = {
    18: date(2025, 4, 30),
    20: date(2026, 4, 30),
    22: date(2027, 4, 30),
    24: date(2028, 4, 30),
    26: date(2029, 4, 30),
}
PATTERNS = {
    "docker/web.Dockerfile": r"^ARG NODE=docker\.io/library/node:(\d+)-slim$",
    ".github/workflows/test.yml": r"^ +node-version: (\d+)$",
    ".github/workflows/supply-chain.yml": r"^ +node-version: (\d+)$",
    "web/ui/package.json": r'^ +"node": ">=(\d+)"$',
    "README.md": r"\bNode\.js (\d+)\b",
    "Makefile": r"\bNode\.js (\d+)\b",
}


def majors(path: str) -> list[int]:
    return [int(major) for major in re.findall(PATTERNS[path], (ROOT / path).read_text(), re.MULTILINE)]


@pytest.mark.parametrize("path", PATTERNS)
def test_node_release_line_is_maintained(path: str) -> None:
    assert majors(path)
    for major in majors(path):
        assert major in END_OF_LIFE, f"Node.js {major} is not in the table of this test; only LTS lines are"
        assert date.today() <= END_OF_LIFE[major], f"Node.js {major} is unsupported since {END_OF_LIFE[major]}"


def test_node_of_image_and_ci_is_the_same_and_accepted_by_the_package() -> None:
    (image,), (tests,), (audit,) = (
        majors(path)
        for path in ("docker/web.Dockerfile", ".github/workflows/test.yml", ".github/workflows/supply-chain.yml")
    )
    (oldest,) = majors("web/ui/package.json")
    assert image == tests == audit >= oldest
    locked = json.loads((ROOT / "web" / "ui" / "package-lock.json").read_text())["packages"][""]
    assert locked["engines"]["node"] == f">={oldest}"
