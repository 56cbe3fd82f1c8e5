"""Limit the requests that wait for the models behind the stage `queue`.

The models run requests in the order of their arrival. Requests therefore wait in the queue of the stage, where
interactive requests come first and expired requests are dropped. Triton 25.11 and newer have `max_inflight_requests` of
an ensemble, which sets a limit without priorities.
"""

import time
from collections.abc import Callable, Sequence

from stages.triton_metrics import PENDING, Values

# While the gate is closed it pauses between readings, because a reading costs Triton 0.45 ms of CPU time. A pause is a
# share of the last closed period, which is about one batch, so a batch costs about four readings.
PAUSE_SHARE = 0.25
MIN_PAUSE_S, MAX_PAUSE_S = 0.005, 0.1


class Gate:
    """Limits the number of requests that wait for models.

    One reading of the metrics gives the number of requests that may pass until the next reading, so readings are rare
    when few requests wait.
    """

    def __init__(
        self,
        read: Callable[[], Values],
        models: Sequence[str],
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an open gate.

        Args:
            read: returns Triton's metrics; while it raises OSError, every request passes.
            models: names of the models behind the gate, in the order of their runs.
            max_waiting: largest number of requests that wait for the first model. All models together may have this
                number times the number of models, so that the first model always starts with a full batch.
            clock: returns the time in seconds; tests inject their own.
        """
        self._read = read
        self._models = tuple(models)
        self._max_waiting = max_waiting
        self._clock = clock
        self._room = 0  # requests that may pass before the next reading
        self._closed_since: float | None = None
        self._closed_s = 0.0  # duration of the last closed period

    def pause_s(self) -> float:
        """Return the seconds to wait before the next call, or 0.0 if one request may pass now."""
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
        """Count a request that has passed the gate."""
        self._room -= 1

    def _read_room(self) -> int:
        """Return how many requests may pass according to the current metrics."""
        try:
            values = self._read()
        except OSError:
            return self._max_waiting  # without metrics, only the limits of the queues apply
        waiting = [int(values.get((PENDING, model), 0.0)) for model in self._models]
        return min(self._max_waiting - waiting[0], self._max_waiting * len(waiting) - sum(waiting))
