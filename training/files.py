"""Write files of a run atomically, with errors that name the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from emotion import files
from training.errors import TrainingError


def write_atomically(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically, creating its directory.

    Raises:
        TrainingError: the file can't be written, for example because the disk is full.
    """
    try:
        files.write_atomically(path, text)
    except OSError as error:
        raise TrainingError(f"{path} can't be written ({error.strerror}); make room or choose another place") from None


@contextmanager
def resumable_write(place: Path) -> Iterator[None]:
    """Turn write errors in the block, which writes a checkpoint to `place`, into a TrainingError.

    Raises:
        TrainingError: a file can't be written, for example because the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(
            f"{place} can't be written ({reason}); the last whole state is kept: make room and repeat the command to "
            "go on from there"
        ) from None
