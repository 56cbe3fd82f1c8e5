"""What a command says where a package is not installed that it needs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needing(command: str) -> Iterator[None]:
    """End the process with a sentence where the imports in the block find no package.

    Args:
        command: that installs what the block imports, such as "make install-training".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        sys.exit(f"error: the package {package} is not installed; run: {command}")
