"""Limit the rate of each caller with token buckets."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_CALLERS = 10_000  # buckets kept; the least recently used one is dropped first
BURST_S = 10.0  # a full bucket holds the calls of this time


class RateLimit:
    """One token bucket for each caller. A bucket holds the calls of BURST_S, at least one, and refills evenly."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets.

        Args:
            per_minute: calls that each caller may make in a minute.
            clock: source of the time in seconds; tests inject their own.
        """
        self._rate = per_minute / 60
        self._capacity = max(1.0, self._rate * BURST_S)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and the time of that count

    def try_acquire(self, caller: str) -> int:
        """Take a token from the caller's bucket if there is one.

        Returns:
            0 if a token was taken, else the whole seconds until the next token.
        """
        now = self._clock()
        tokens, counted = self._buckets.pop(caller, (self._capacity, now))
        tokens = min(self._capacity, tokens + self._rate * (now - counted))
        wait = 0 if tokens >= 1 else math.ceil((1 - tokens) / self._rate)
        self._buckets[caller] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return wait
