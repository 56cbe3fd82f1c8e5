"""Write files of a run atomically, with errors that name the remedy."""

from pathlib import Path

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
