"""Print the requirements of extras of pyproject.toml, one per line: `python docker/requirements.py stages serving`.

An image installs them in a separate layer, which is reused when only the code has changed.
"""

import re
import sys
from pathlib import Path

try:
    import tomllib  # novm: Python 3.10 uses pip's copy below
except ModuleNotFoundError:
    from pip._vendor import tomli as tomllib  # type: ignore[no-redef]

PYPROJECT = Path("pyproject.toml")


def requirements(extras: list[str]) -> list[str]:
    """Return the requirements of extras without duplicates; extras of this project are expanded.

    Args:
        extras: names of extras in pyproject.toml.

    Raises:
        KeyError: an extra does not exist.
    """
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
