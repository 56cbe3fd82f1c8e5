"""Optional packages: which command installs a missing one, and where one that carries model weights lies."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def require_packages(command: str) -> Iterator[None]:
    """Exit with an error message if an import in the block fails because a package is not installed.

    Args:
        command: the command that installs the packages, such as "make install-training".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        sys.exit(f"error: the package {package} is not installed; run: {command}")


def weights_directory(package: str) -> Path | None:
    """Return the directory `model` of an installed package that carries model weights; None if it is not installed.

    Args:
        package: name of the package to import; it is found, but not imported.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "model"
