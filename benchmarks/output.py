"""What all benchmark commands print and write: tables, progress bars, whole files."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.errors import BenchmarkError
from emotion.files import write_atomically
from emotion.progress import progress as columns

T = TypeVar("T")


def progress(console: Console | None = None) -> Progress:
    """Return a progress bar with counts, elapsed time and remaining time, on standard error."""
    # drawing takes CPU time from what is measured in this process; one step may take minutes
    return columns(console, width=44, refresh_per_second=1, speed_estimate_period=3600)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int = 150) -> str:
    """Return a plain-text table without colours; the first column is aligned left, the others right."""
    grid = Table(box=SIMPLE, pad_edge=False)
    for place, heading in enumerate(headings):
        grid.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False, markup=False)
    console.print(grid)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().strip("\n").splitlines())


def middle(values: Sequence[float]) -> float | None:
    """Return the median of the finite values, or None if there are none."""
    known = [value for value in values if math.isfinite(value)]
    return median(known) if known else None


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file or none, and make its directory. Raises BenchmarkError if the file cannot be written."""
    try:
        write_atomically(path, text)
    except OSError as error:
        raise BenchmarkError(f"{path} can't be written ({error.strerror}); make room or choose another place") from None


def read_json(kind: TypeAdapter[T], path: Path, command: str) -> T:
    """Return the results in a JSON file.

    Args:
        kind: the type of the results.
        path: the file.
        command: the command that writes the file, for the error message.

    Raises:
        BenchmarkError: the file cannot be read, or has another format.
    """
    try:
        return kind.validate_json(path.read_bytes())
    except OSError as error:
        raise BenchmarkError(f"{path} can't be read ({error.strerror}); `{command}` writes it") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise BenchmarkError(
            f"{path} is no result of this version's `{command}` (at {where}: {first['msg']}); run it again"
        ) from None
