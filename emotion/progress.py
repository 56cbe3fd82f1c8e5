"""Show progress bars with the same columns in all commands."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress(console: Console | None = None, width: int = 24, **options: Any) -> Progress:
    """Return a progress bar with description, counts, elapsed time and remaining time.

    Args:
        console: where it is drawn; None is standard error.
        width: of the description, in characters.
        options: of `rich.progress.Progress`.
    """
    return Progress(
        TextColumn(f"{{task.description:<{width}}}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        **options,
    )
