"""Report the progress of a Triton start on standard error."""

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

from serving.log import CLEAR_LINE
from serving.triton import Triton

TERMINAL_INTERVAL_S = 1.0
INTERVAL_S = 10.0  # without a terminal, to keep logs short


class StartProgress:
    """A context manager that reports how many models are loaded while its block starts Triton.

    On a terminal the report is one line that is updated every second and cleared at the end. Elsewhere it is a new line
    every 10 s.
    """

    def __init__(self, triton: Triton, stream: TextIO | None = None) -> None:
        """Create a report that starts with the `with` block.

        Args:
            triton: the server that the block starts.
            stream: where to write; None for standard error.
        """
        self._triton = triton
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._interval = TERMINAL_INTERVAL_S if self._terminal else INTERVAL_S
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="start-progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._terminal:
            print(CLEAR_LINE, end="", file=self._stream, flush=True)

    def report(self, seconds: float) -> None:
        """Write the number of loaded models and the elapsed time.

        Args:
            seconds: time since the start.
        """
        loaded, models = len(self._triton.loaded), self._triton.model_count
        text = f"starting Triton: {loaded} of {models} models loaded, {seconds:.0f} s"
        if self._terminal:
            print(f"{CLEAR_LINE}{text}", end="", file=self._stream, flush=True)
        else:
            print(text, file=self._stream, flush=True)

    def _run(self) -> None:
        began = time.monotonic()
        while not self._done.wait(self._interval):
            self.report(time.monotonic() - began)
