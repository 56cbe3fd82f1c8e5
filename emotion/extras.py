"""Explain on the command line which command installs a missing package."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def require_packages(command: str) -> Iterator[None]:
    """End the process with a sentence if an import in the block does not find its package.

    Args:
        command: that installs what the block imports, such as "make install-training".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        sys.exit(f"error: the package {package} is not installed; run: {command}")
