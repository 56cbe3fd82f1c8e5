"""Lets requests pass to the models behind the stage `queue` only while few wait there.

What is passed on runs in the order of its arrival. So it waits in front, where Triton puts interactive requests first
and drops those whose deadline is over. Triton 25.11 and newer have `max_inflight_requests` of an ensemble for the limit
alone, without priorities.
"""

import time
from collections.abc import Callable, Sequence

from stages.triton_metrics import Values

# Pauses between two readings while the gate is closed; each costs Triton 0.45 ms of CPU time. They are a share
# of how long the gate stayed closed before, which is about a batch's time: so a batch costs about four readings.
PAUSE_SHARE = 0.25
MIN_PAUSE_S, MAX_PAUSE_S = 0.005, 0.1


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start open.

        Args:
            read: returns Triton's metrics; while it raises OSError, everything passes.
            models: those that the requests go to, one after the other.
            max_waiting: requests that may wait in front of the first model; in front of all of them together, as many
                for each. Fewer would let the first model start with a part of a batch.
            sleep, clock: replace time.sleep and time.monotonic in tests.
        """
        self._read = read
        self._models = tuple(models)
        self._max_waiting = max_waiting
        self._sleep = sleep
        self._clock = clock
        self._room = 0  # requests that may pass before the next reading
        self._closed_s = 0.0  # how long the gate stayed closed the last time

    def wait(self) -> None:
        """Return when one more request may pass."""
        began = self._clock()
        while self._room <= 0:
            self._room = self._read_room()
            closed_s = self._clock() - began
            if self._room <= 0:
                pause = PAUSE_SHARE * max(self._closed_s, closed_s)
                self._sleep(min(max(pause, MIN_PAUSE_S), MAX_PAUSE_S))
            elif closed_s > MIN_PAUSE_S:
                self._closed_s = closed_s
        self._room -= 1

    def _read_room(self) -> int:
        """Return how many requests may pass, by the metrics of this moment."""
        try:
            values = self._read()
        except OSError:
            return self._max_waiting  # nothing is known: the limits of Triton's own queues are what is left
        waiting = [int(values.get(("pending_request_count", model), 0.0)) for model in self._models]
        return min(self._max_waiting - waiting[0], self._max_waiting * len(waiting) - sum(waiting))
