"""Limit the work that waits for the models behind the stage `queue`.

The models run requests in the order of their arrival. Requests therefore wait in the queue of the stage, where
interactive requests come first and expired requests are dropped. Triton 25.11 and newer have `max_inflight_requests` of
an ensemble, which sets a limit without priorities.

Triton limits the requests of a batch, but a request may have one second of speech or sixty. What waits for a model
becomes its next batch, so the gate limits the work of a batch.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence

from stages.cost import USUAL_COST
from stages.triton_metrics import PENDING, Values

# While the gate is closed it pauses between readings, because a reading costs Triton 0.45 ms of CPU time. A pause is a
# share of the last closed period, which is about one batch, so a batch costs about four readings.
PAUSE_SHARE = 0.25
MIN_PAUSE_S, MAX_PAUSE_S = 0.005, 0.1


class Gate:
    """Limits the number of requests that wait for models; a long request counts as several.

    One reading of the metrics gives the number of requests that may pass until the next reading, so readings are rare
    when few requests wait. The metrics have the number of waiting requests. As the models keep the order of the
    requests, these are the last ones that passed, whose sizes are known here.
    """

    def __init__(
        self,
        read: Callable[[], Values],
        models: Sequence[str],
        max_waiting: int,
        max_bulk_waiting: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an open gate.

        Args:
            read: returns Triton's metrics; while it raises OSError, every request passes.
            models: names of the models behind the gate, in the order of their runs.
            max_waiting: largest size of the requests that wait for the first model, as `size` returns it. All models
                together may have this size times the number of models, so that the first model always starts with a
                full batch.
            max_bulk_waiting: the same limit for a request that gives way; None for no other limit. The rest of the
                next batch is kept for interactive requests.
            clock: returns the time in seconds; tests inject their own.
        """
        self._read = read
        self._models = tuple(models)
        self._max_waiting = max_waiting
        self._max_bulk_waiting = max_waiting if max_bulk_waiting is None else min(max_bulk_waiting, max_waiting)
        self._clock = clock
        self._room = 0.0  # size of the requests that may pass before the next reading
        self._passed: deque[float] = deque(maxlen=len(self._models) * max_waiting)  # sizes of the last requests
        # by whether the request gives way: the begin of the closed period, and the duration of the last one
        self._closed_since: dict[bool, float] = {}
        self._closed_s = {False: 0.0, True: 0.0}

    def pause_s(self, cost: float, gives_way: bool) -> float:
        """Return the seconds to wait before the next call, or 0.0 if the request may pass now.

        Args:
            cost: cost of the request, in patches.
            gives_way: whether it is a bulk request while interactive requests arrive.
        """
        limit = self._max_bulk_waiting if gives_way else self._max_waiting
        needed = min(size(cost), limit) + self._max_waiting - limit
        if self._room >= needed:
            return 0.0
        since = self._closed_since.setdefault(gives_way, self._clock())
        self._room = self._read_room()
        closed_s = self._clock() - since
        if self._room < needed:
            return min(max(PAUSE_SHARE * max(self._closed_s[gives_way], closed_s), MIN_PAUSE_S), MAX_PAUSE_S)
        del self._closed_since[gives_way]
        if closed_s > MIN_PAUSE_S:
            self._closed_s[gives_way] = closed_s
        return 0.0

    def passed(self, cost: float) -> None:
        """Count a request of this cost, in patches, that has passed the gate."""
        self._passed.append(min(size(cost), self._max_waiting))  # every request can pass when none waits
        self._room -= self._passed[-1]

    def _read_room(self) -> float:
        """Return the size of the requests that may pass according to the current metrics."""
        try:
            values = self._read()
        except OSError:
            return self._max_waiting  # without metrics, only the limits of the queues apply
        waiting = [int(values.get((PENDING, model), 0.0)) for model in self._models]
        sizes = [self._passed[-at] if at <= len(self._passed) else 1.0 for at in range(1, sum(waiting) + 1)]
        return min(self._max_waiting - sum(sizes[: waiting[0]]), self._max_waiting * len(waiting) - sum(sizes))


def size(cost: float) -> float:
    """Return the number of usual requests that a request of this cost, in patches, counts as.

    Up to USUAL_COST, a request counts as 1. Each further half of USUAL_COST counts as one more, because that is little
    less than the cost of the mean request. A minute of speech (64) counts as 15.
    """
    return max(1.0, 2 * cost / USUAL_COST - 1)
