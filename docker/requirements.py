"""Print the requirements of extras of pyproject.toml, one a line: `python docker/requirements.py stages serving`.

An image installs these alone, in a layer of its own that stays while the code changes.
"""

import re
import sys
from pathlib import Path

try:
    import tomllib  # novm: Python 3.10 takes the way below
except ModuleNotFoundError:
    from pip._vendor import tomli as tomllib  # type: ignore[no-redef]

PYPROJECT = Path("pyproject.toml")


def requirements(extras: list[str]) -> list[str]:
    """Return what the extras ask for, without repetition; extras of our own that they name are expanded."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    found: dict[str, None] = {}

    def add(extra: str) -> None:
        for line in project["optional-dependencies"][extra]:
            if ours := re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", line):
                for name in ours[1].split(","):
                    add(name)
            else:
                found[line] = None

    for extra in extras:
        add(extra)
    return list(found)


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
