"""What all benchmark commands print and write: tables, progress bars, whole files."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.errors import BenchmarkError
from emotion.files import write_atomically

console = Console(stderr=True)  # for progress


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int = 150) -> str:
    """Return a plain-text table without colours; the first column is aligned left, the others right."""
    grid = Table(box=SIMPLE, pad_edge=False)
    for place, heading in enumerate(headings):
        grid.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    file = io.StringIO()
    Console(file=file, width=width, color_system=None, legacy_windows=False, markup=False).print(grid)
    return "\n".join(line.rstrip() for line in file.getvalue().strip("\n").splitlines())


def verdict(violations: Sequence[str], promise: str) -> int:
    """Print `promise` as kept, or what violated it; return the exit status: 1 if anything did, else 0."""
    print(f"FAIL: {'; '.join(violations)}" if violations else f"PASS: {promise}")
    return int(bool(violations))


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
