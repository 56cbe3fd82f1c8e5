"""Rate limit of each caller, by token buckets."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_CALLERS = 10_000  # remembered; beyond that, the one that was quiet for longest is forgotten
BURST_S = 10.0  # s whose calls may come at once


class RateLimit:
    """Token buckets by caller. A bucket holds the calls of BURST_S, at least one, and is refilled evenly."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets.

        Args:
            per_minute: calls that each caller may make.
            clock: replaces time.monotonic in tests.
        """
        self._rate = per_minute / 60
        self._capacity = max(1.0, self._rate * BURST_S)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted

    def try_acquire(self, caller: str) -> int:
        """Take a token of a caller, if there is one.

        Returns:
            0 if there was one, else the whole seconds until there is one.
        """
        now = self._clock()
        tokens, counted = self._buckets.pop(caller, (self._capacity, now))
        tokens = min(self._capacity, tokens + self._rate * (now - counted))
        wait = 0 if tokens >= 1 else math.ceil((1 - tokens) / self._rate)
        self._buckets[caller] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return wait
