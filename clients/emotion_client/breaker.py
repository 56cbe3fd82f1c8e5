"""A circuit breaker, which lets calls fail at once during an outage instead of at their deadlines."""

import threading
import time

from emotion_client.errors import CircuitOpen

MIN_FAILURES = 5  # consecutive failures that open the circuit, if they span MIN_OUTAGE_S
MIN_OUTAGE_S = 10.0  # longer than a restart, which must not open the circuit
COOL_DOWN_S = 2.0  # between two trial calls while the circuit is open


class Breaker:
    """A thread-safe circuit breaker that rejects calls after many consecutive failures over a long time.

    A failure is a call that no server answered: no server was reachable, none answered in time, or the server was
    broken. A rejection, because the server is busy or the input is invalid, is an answer and no failure.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0  # consecutive ones
        self._since = 0.0  # time.monotonic() of the first failure
        self._next_trial: float | None = None  # time.monotonic() of the next trial call; None: the circuit is closed
        self._reason = ""  # of the last failure

    def check(self) -> None:
        """Let a call through if the circuit is closed, or as the one trial call every COOL_DOWN_S seconds.

        Raises:
            CircuitOpen: the call must not be sent.
        """
        with self._lock:
            now = time.monotonic()
            if self._next_trial is None:
                return
            if now >= self._next_trial:
                self._next_trial = now + COOL_DOWN_S
                return
            raise CircuitOpen(
                f"the call was not sent, since no server has answered for {now - self._since:.0f} s; one call is sent "
                f"every {COOL_DOWN_S:g} s until a server answers; the last error: {self._reason}"
            )

    def record_success(self) -> None:
        """Record that a server answered, which closes the circuit."""
        with self._lock:
            self._failures, self._next_trial = 0, None

    def record_failure(self, reason: str) -> None:
        """Record that no server answered a call, which opens the circuit after enough consecutive failures.

        Args:
            reason: message for callers whose calls are not sent.
        """
        with self._lock:
            now = time.monotonic()
            if not self._failures:
                self._since = now
            self._failures, self._reason = self._failures + 1, reason
            if self._next_trial is None and self._failures >= MIN_FAILURES and now - self._since >= MIN_OUTAGE_S:
                self._next_trial = now + COOL_DOWN_S
