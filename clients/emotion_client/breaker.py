"""A circuit breaker: while servers are out, callers learn it at once and not each at their own deadline."""

import threading
import time

from emotion_client.errors import CircuitOpen

FAILURES = 5  # in a row, at least,
OUTAGE = 10.0  # s from the first of them to the last: no restart opens the circuit, as one takes less than that
COOL_DOWN = 2.0  # s until a call is tried, and from one trial to the next


class Breaker:
    """Counts failures in a row, and refuses calls when there were many for long. Threads may share it.

    A failure is a call that got no answer from anybody: no server reached, none in time, or a broken one. A server that
    refuses, since it is busy or the input is wrong, has answered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0  # in a row
        self._since = 0.0  # s, time.monotonic() of the first of them
        self._trial: float | None = None  # when the next call is let through; None: the circuit is closed
        self._reason = ""

    def check(self) -> None:
        """Let a call through: any while the circuit is closed, or else one every COOL_DOWN seconds.

        Raises:
            CircuitOpen: the call is not to be sent.
        """
        with self._lock:
            now = time.monotonic()
            if self._trial is None:
                return
            if now >= self._trial:
                self._trial = now + COOL_DOWN
                return
            raise CircuitOpen(
                f"not sent, since no call was answered for {now - self._since:.0f} s (one is tried every "
                f"{COOL_DOWN:g} s); the last failure: {self._reason}"
            )

    def answered(self) -> None:
        """A server answered: close the circuit."""
        with self._lock:
            self._failures, self._trial = 0, None

    def failed(self, reason: str) -> None:
        """A call failed: open the circuit if many have, for long."""
        with self._lock:
            now = time.monotonic()
            if not self._failures:
                self._since = now
            self._failures, self._reason = self._failures + 1, reason
            if self._trial is None and self._failures >= FAILURES and now - self._since >= OUTAGE:
                self._trial = now + COOL_DOWN
