"""Budget of hedged calls: calls that are sent a second time because the first answer is late."""

import threading

from tritonclient.utils import InferenceServerException

_CALLS_PER_HEDGE = 10  # answered calls that allow one hedge
_MAX_SAVED = 10 * _CALLS_PER_HEDGE  # also saved at the start: a server that stops has several calls in flight


class Budget:
    """A thread-safe budget of hedged calls, so that a slow server does not get twice the load."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._saved = _MAX_SAVED

    def record_success(self) -> None:
        """Record an answered call, which adds a tenth of a hedge to the budget."""
        with self._lock:
            self._saved = min(_MAX_SAVED, self._saved + 1)

    def try_acquire(self) -> bool:
        """Take one hedge from the budget.

        Returns:
            Whether the call may be hedged.
        """
        with self._lock:
            if self._saved < _CALLS_PER_HEDGE:
                return False
            self._saved -= _CALLS_PER_HEDGE
            return True


def is_final(error: InferenceServerException) -> bool:
    """Return whether the other attempt would end in the same error, so that waiting for it is useless."""
    return bool(error.status() == "StatusCode.INVALID_ARGUMENT")
