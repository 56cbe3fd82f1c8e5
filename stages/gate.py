"""Lets requests pass to the models behind the stage `queue` only while few wait there.

What is passed on runs in the order of its arrival. So it waits in front, where interactive requests go first and
requests whose deadline is over are dropped. Triton 25.11 and newer have `max_inflight_requests` of an ensemble for the
limit alone, without priorities.
"""

import time
from collections.abc import Callable, Sequence

from stages.triton_metrics import PENDING, Values

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start open.

        Args:
            read: returns Triton's metrics; while it raises OSError, everything passes.
            models: those that the requests go to, one after the other.
            max_waiting: requests that may wait in front of the first model; in front of all of them together, as many
                for each. Fewer would let the first model start with a part of a batch.
            clock: replaces time.monotonic in tests.
        """
        self._read = read
        self._models = tuple(models)
        self._max_waiting = max_waiting
        self._clock = clock
        self._room = 0  # requests that may pass before the next reading
        self._closed_since: float | None = None
        self._closed_s = 0.0  # how long the gate stayed closed the last time

    def pause_s(self) -> float:
        """Return how long to wait before asking again, in seconds; 0.0 if one request may pass now."""
        if self._room > 0:
            return 0.0
        if self._closed_since is None:
            self._closed_since = self._clock()
        self._room = self._read_room()
        closed_s = self._clock() - self._closed_since
        if self._room <= 0:
            return min(max(PAUSE_SHARE * max(self._closed_s, closed_s), MIN_PAUSE_S), MAX_PAUSE_S)
        self._closed_since = None
        if closed_s > MIN_PAUSE_S:
            self._closed_s = closed_s
        return 0.0

    def passed(self) -> None:
        """Count a request that has passed."""
        self._room -= 1

    def _read_room(self) -> int:
        """Return how many requests may pass, by the metrics of this moment."""
        try:
            values = self._read()
        except OSError:
            return self._max_waiting  # nothing is known: the limits of the queues are what is left
        waiting = [int(values.get((PENDING, model), 0.0)) for model in self._models]
        return min(self._max_waiting - waiting[0], self._max_waiting * len(waiting) - sum(waiting))
