"""Divide a limited number of places among callers."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class NoPlaceError(Exception):
    """Every place is taken, or the free ones are for other callers."""


class Places:
    """Places for work that runs.

    A caller alone may take all of them. While there are others, a caller with its equal share or more leaves a quarter
    of the places free, so that the others find one.
    """

    def __init__(self, total: int, active_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with free places.

        Args:
            total: number of places.
            active_s: seconds after its last request in which a caller counts as one who wants places.
            clock: source of the time in seconds; tests inject their own.
        """
        self._total, self._active_s, self._clock = total, active_s, clock
        self._taken: Counter[str] = Counter()  # places by caller
        self._asked: dict[str, float] = {}  # time of the last request of each caller

    @property
    def taken(self) -> int:
        """The number of places that are taken."""
        return self._taken.total()

    @contextmanager
    def take(self, caller: str) -> Iterator[None]:
        """Hold a place for a caller while the block runs.

        Raises:
            NoPlaceError: there is none for this caller.
        """
        now = self._clock()
        self._asked[caller] = now
        self._asked = {
            one: asked for one, asked in self._asked.items() if now - asked < self._active_s or self._taken[one]
        }
        free = self._total - self.taken
        has_share = self._taken[caller] >= self._total / len(self._asked)
        if free <= (math.ceil(self._total / 4) if has_share and len(self._asked) > 1 else 0):
            raise NoPlaceError
        self._taken[caller] += 1
        try:
            yield
        finally:
            self._taken[caller] -= 1
            if not self._taken[caller]:
                del self._taken[caller]
