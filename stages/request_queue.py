"""Holds the requests of a Python stage by priority, and answers them in a thread of its own.

Triton's queues have priorities, deadlines and limits, too. With any of them, Triton does not notice when an instance
becomes idle, and lets the next request wait for up to 0.5 s (docs/upstream-lost-wakeup.md). So a stage takes each
request from Triton at once: `execute` puts it here and returns, and the response is sent when it is ready. That a model
in Triton's default mode may respond after `execute` has returned is so since Triton 24.06.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from emotion.errors import BusyError
from stages.queue_metrics import QueueMetrics
from stages.requests import CanceledError, ExpiredError, QueueFullError, respond

BULK = "bulk"  # parameter of a request; Triton tells no Python model the `priority`
PATIENCE_S = 0.05  # a request that waited no longer is not checked for a caller who left, which costs about 0.1 ms


class Gate(Protocol):
    """Says when a request may be taken from the queue."""

    def pause_s(self) -> float:
        """Return how long to wait before asking again, in seconds; 0.0 if one request may be taken now."""

    def passed(self) -> None:
        """Count a request that was taken."""


@dataclass(frozen=True)
class HeldRequest:
    """A request that waits.

    Attributes:
        sender: takes its response.
        inputs: what was read of it.
        arrived, expires: s, of the queue's clock.
    """

    sender: Any
    inputs: Any
    arrived: float
    expires: float


class RequestQueue:
    """The queue of one process of a stage, and the thread that empties it.

    Interactive requests leave before those with the parameter `bulk`, and each of these two in the order of arrival.
    A request that waits longer than its timeout is rejected, and one whose caller has left is dropped when its turn
    comes.
    """

    def __init__(
        self,
        args: Mapping[str, str],
        read: Callable[[Any], Any],
        work: Callable[[Any], dict[str, NDArray[Any]]],
        gate: Gate | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread.

        Args:
            args: those of `initialize`. The model's parameters `max_queue_size` (requests of each priority that may
                wait) and `max_wait_seconds` (how long each may wait, unless its own timeout is shorter) are read.
            read: maps a request of Triton to the inputs for `work`, copied out of Triton's memory. It runs when the
                request arrives; an error that it raises is the request's response.
            work: maps inputs to the output tensors by name.
            gate: is asked before each request is taken; None: there is no limit.
            clock: replaces time.monotonic in tests.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        self._max_size = int(parameters["max_queue_size"]["string_value"])
        self._max_wait_s = float(parameters["max_wait_seconds"]["string_value"])
        self._read, self._work, self._gate, self._clock = read, work, gate, clock
        self._changed = threading.Condition()
        self._held: dict[bool, deque[HeldRequest]] = {False: deque(), True: deque()}  # by whether it is bulk
        self._next_expiry = float("inf")  # none of the held requests expires earlier
        self._open = True
        self._metrics = QueueMetrics(args["model_name"], args["model_instance_name"], self._waiting)
        self._thread = threading.Thread(target=self._empty, name="requests", daemon=True)
        self._thread.start()

    def put(self, request: Any) -> None:
        """Take a request of `execute`."""
        sender = request.get_response_sender()
        try:
            bulk = BULK in json.loads(request.parameters() or "{}")
            inputs = self._read(request)
            now = self._clock()
            waits = min(request.timeout() / 1e6 or self._max_wait_s, self._max_wait_s)
            self._append(HeldRequest(sender, inputs, now, now + waits), bulk)
        except Exception as error:
            self._reject(sender, error)

    def close(self) -> None:
        """Reject what waits, and stop. Triton calls `finalize` once the requests in flight are answered or given up."""
        with self._changed:
            self._open = False
            rest = [held for level in self._held.values() for held in level]
            for level in self._held.values():
                level.clear()
            self._changed.notify()
        for held in rest:
            self._reject(held.sender, BusyError("the server is stopping; try again later"))
        self._thread.join(timeout=1.0)
        self._metrics.close()

    def _append(self, held: HeldRequest, bulk: bool) -> None:
        with self._changed:
            level = self._held[bulk]
            if not self._open:
                raise BusyError("the server is stopping; try again later")
            if len(level) >= self._max_size:
                raise QueueFullError(f"the server is busy: {len(level)} requests wait already; try again later")
            level.append(held)
            self._next_expiry = min(self._next_expiry, held.expires)
            self._changed.notify()

    def _empty(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(self._held.values()) or not self._open)
                if not self._open:
                    return
            self._drop_expired()
            self._drop_canceled()
            pause_s = self._gate.pause_s() if self._gate else 0.0
            if pause_s:
                time.sleep(pause_s)
            elif held := self._take():
                self._answer(held)

    def _take(self) -> HeldRequest | None:
        """Remove the request whose turn it is."""
        with self._changed:
            level = self._held[False] or self._held[True]
            if not level:
                return None
            held = level.popleft()
        if self._gate:
            self._gate.passed()
        return held

    def _answer(self, held: HeldRequest) -> None:
        begun = self._clock()
        outcome = respond(held.sender, lambda: self._work(held.inputs))
        self._metrics.ended(outcome, begun - held.arrived, self._clock() - begun)

    def _drop_expired(self) -> None:
        now = self._clock()
        if now < self._next_expiry:
            return
        expired = []
        with self._changed:
            for bulk, level in self._held.items():
                expired += [held for held in level if held.expires <= now]
                self._held[bulk] = deque(held for held in level if held.expires > now)
            left = [held.expires for level in self._held.values() for held in level]
            self._next_expiry = min(left, default=float("inf"))
        for held in expired:
            waited_s = now - held.arrived
            error = ExpiredError(f"the request waited {waited_s:.1f} s, as long as its timeout; try again later")
            self._reject(held.sender, error, waited_s)

    def _drop_canceled(self) -> None:
        """Drop the requests at the front whose callers have left: those who waited longest leave first."""
        while True:
            with self._changed:
                level = self._held[False] or self._held[True]
                front = level[0] if level else None
            if front is None or self._clock() - front.arrived < PATIENCE_S or not front.sender.is_cancelled():
                return
            with self._changed:
                if level and level[0] is front:
                    level.popleft()
            self._reject(front.sender, CanceledError("the caller has left"), self._clock() - front.arrived)

    def _reject(self, sender: Any, error: Exception, waited_s: float = 0.0) -> None:
        def fail() -> dict[str, NDArray[Any]]:
            raise error

        self._metrics.ended(respond(sender, fail), waited_s)

    def _waiting(self) -> tuple[int, int]:
        """Return how many interactive and bulk requests wait."""
        return len(self._held[False]), len(self._held[True])
