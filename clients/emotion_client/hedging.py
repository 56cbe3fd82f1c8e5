"""Hedging: a call whose answer is long in coming is sent once more, and the first answer counts."""

import threading

from tritonclient.utils import InferenceServerException

_PRICE = 10  # answered calls that pay for a hedge
_MOST = 10 * _PRICE  # that are saved up, and there from the start: a server that stops has several calls under way


class Budget:
    """How many calls may be sent a second time: a slow server must not get twice the work. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._saved = _MOST

    def answered(self) -> None:
        """A call was answered."""
        with self._lock:
            self._saved = min(_MOST, self._saved + 1)

    def take(self) -> bool:
        """Whether there is enough for a hedge, which is then spent."""
        with self._lock:
            if self._saved < _PRICE:
                return False
            self._saved -= _PRICE
            return True


def is_final(error: InferenceServerException) -> bool:
    """Whether the other attempt would end in the same error, so that it need not be waited for."""
    return bool(error.status() == "StatusCode.INVALID_ARGUMENT")
