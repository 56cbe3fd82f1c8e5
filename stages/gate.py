"""Lets requests pass to the models behind the stage `queue` only while few wait there.

What is passed on runs in the order of its arrival. So it waits in front, where Triton puts interactive requests first
and drops those whose deadline is over. Triton 25.11 and newer have `max_inflight_requests` of an ensemble for the limit
alone, without priorities.
"""

import contextlib
import time
from collections.abc import Callable, Sequence

from stages.triton_metrics import Values

POLL_INTERVAL_S = 0.02  # between two readings while the gate is closed; one costs Triton 0.45 ms of CPU time


class Gate:
    """Counts requests in front of models.

    One reading of the metrics tells how many may pass until the next one, so that a reading is rare when little waits.
    """

    def __init__(
        self,
        read: Callable[[], Values],
        models: Sequence[str],
        max_waiting: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start open.

        Args:
            read: returns Triton's metrics; while it raises OSError, everything passes.
            models: those that the requests go to, one after the other.
            max_waiting: requests that may wait in front of the first model; in front of all of them together, as many
                for each. Fewer would let the first model start with a part of a batch.
            sleep: replaces time.sleep in tests.
        """
        self._read = read
        self._models = tuple(models)
        self._max_waiting = max_waiting
        self._sleep = sleep
        self._room = 0  # requests that may pass before the next reading

    def wait(self) -> None:
        """Return when one more request may pass."""
        while self._room <= 0:
            with contextlib.suppress(OSError):
                values = self._read()
                waiting = [int(values.get(("pending_request_count", model), 0.0)) for model in self._models]
                together = self._max_waiting * len(waiting) - sum(waiting)
                self._room = min(self._max_waiting - waiting[0], together)
                if self._room <= 0:
                    self._sleep(POLL_INTERVAL_S)
                continue
            self._room = self._max_waiting  # nothing is known: the limits of Triton's own queues are what is left
        self._room -= 1
