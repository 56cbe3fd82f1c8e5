"""Queue the requests of a Python stage by priority, and answer them in a thread.

Triton's queues have priorities, timeouts and limits too. If any of them is configured, Triton does not detect that an
instance becomes idle, and the next request waits for up to 0.5 s (docs/upstream-lost-wakeup.md). A stage therefore
accepts each request immediately: `execute` puts it into this queue and returns, and the response is sent when it is
ready. Since Triton 24.06, a model in the default mode may respond after `execute` has returned.
"""

from __future__ import annotations  # Triton adds its classes to pb_utils only after the import

import json
import threading
import time
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from emotion.errors import BusyError
from stages.cost import USUAL_COST, cost, delay_s
from stages.queue_metrics import QueueMetrics
from stages.requests import CanceledError, ExpiredError, QueueFullError, respond

BULK = "bulk"  # name of a request parameter; Triton does not pass the `priority` to Python models
ERROR_PAUSE_S = 0.1  # after an unexpected error of the queue itself
# Bulk requests give way for this long after the arrival of the last interactive request: some batches, and longer than
# the pauses of a live stream or of somebody who tries one recording after another.
INTERACTIVE_S = 10.0
MIN_CANCEL_CHECK_S = 0.05  # a request is checked for cancellation after this wait, because a check costs about 0.1 ms


class Gate(Protocol):
    """Decides when a request may leave the queue."""

    def pause_s(self, cost: float, gives_way: bool) -> float:
        """Return the seconds to wait before the next call, or 0.0 if a request of this cost may leave now.

        `gives_way` is true for a bulk request while interactive requests arrive.
        """

    def passed(self, cost: float) -> None:
        """Count a request of this cost that has left the queue."""


@dataclass(frozen=True, eq=False)
class HeldRequest:
    """A request that waits in the queue.

    Attributes:
        sender: sends the response.
        inputs: the inputs that were read from the request.
        cost: how much work the request is for the models behind the stage, in patches; 0.0 in a stage without a gate.
        timeout: time that the caller waits, in microseconds; 0 if the request has no timeout.
        bulk: whether interactive requests are served before this request.
        arrived, expires: times on the queue's clock, in seconds.
        order: the time by which requests of the same priority are ordered: `arrived` and `stages.cost.delay_s`.
    """

    sender: Any
    inputs: Any
    cost: float
    timeout: int
    bulk: bool
    arrived: float
    expires: float
    order: float


class RequestQueue:
    """The queue of one stage process, and the thread that answers its requests.

    Interactive requests leave the queue before requests with the parameter `bulk`. Requests of the same priority leave
    it in the order of arrival, but long ones later (`stages.cost.delay_s`). A request that waits longer than its
    timeout is rejected. A canceled request is dropped when it is the next one, or has waited longest.
    """

    def __init__(
        self,
        args: Mapping[str, str],
        read: Callable[[Any], Any],
        work: Callable[[HeldRequest], dict[str, NDArray[Any]]],
        gate: Gate | None = None,
        cost: Callable[[Any], float] = cost,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread.

        Args:
            args: the argument of `initialize`. The model's parameter `max_queue_size` is the largest number of waiting
                requests of each priority. `max_wait_seconds` is the longest wait, unless the request's own timeout is
                shorter.
            read: maps a request of Triton to its inputs, copied out of Triton's memory. It runs when the request
                arrives; an error that it raises becomes the response.
            work: maps a request to its output tensors by name.
            gate: decides when a request may leave the queue; None for no limit.
            cost: maps the inputs of a request to its cost; it is used only with a gate.
            clock: returns the time in seconds; tests inject their own.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        self._max_size = int(parameters["max_queue_size"]["string_value"])
        self._max_wait_s = float(parameters["max_wait_seconds"]["string_value"])
        self._read, self._work, self._gate, self._cost, self._clock = read, work, gate, cost, clock
        self._changed = threading.Condition()
        self._held: dict[bool, list[HeldRequest]] = {False: [], True: []}  # by whether they are bulk; in order
        self._next_expiry = float("inf")  # none of the held requests expires earlier
        self._interactive_at = float("-inf")  # when the last interactive request arrived
        self._open = True
        self._metrics = QueueMetrics(args["model_name"], args["model_instance_name"], self._waiting)
        self._thread = threading.Thread(target=self._empty, name="requests", daemon=True)
        self._thread.start()

    def put(self, request: Any) -> None:
        """Add a request to the queue, or reject it.

        Args:
            request: a request from `execute`.
        """
        sender = request.get_response_sender()
        try:
            bulk = BULK in json.loads(request.parameters() or "{}")
            inputs = self._read(request)
            timeout, now = request.timeout(), self._clock()
            waits = min(timeout / 1e6 or self._max_wait_s, self._max_wait_s)
            cost = self._cost(inputs) if self._gate else 0.0
            order = now + delay_s(cost, waits)
            self._append(HeldRequest(sender, inputs, cost, timeout, bulk, now, now + waits, order))
        except Exception as error:
            self._reject(sender, error)

    def close(self) -> None:
        """Reject the waiting requests, and stop.

        Triton calls `finalize` when the requests in flight are answered or abandoned.
        """
        with self._changed:
            self._open = False
            rest = [held for level in self._held.values() for held in level]
            for level in self._held.values():
                level.clear()
            self._changed.notify()
        for held in rest:
            self._reject(held.sender, BusyError("the server is stopping; try again later"), cost=held.cost)
        self._thread.join(timeout=1.0)
        self._metrics.close()

    def _append(self, held: HeldRequest) -> None:
        with self._changed:
            level = self._held[held.bulk]
            if not self._open:
                raise BusyError("the server is stopping; try again later")
            if len(level) >= self._max_size:
                raise QueueFullError(f"the server is busy: {len(level)} requests wait already; try again later")
            if not held.bulk:
                self._interactive_at = held.arrived
            insort(level, held, key=lambda other: other.order)
            self._next_expiry = min(self._next_expiry, held.expires)
            self._changed.notify()

    def _empty(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(self._held.values()) or not self._open)
                if not self._open:
                    return
            try:
                self._serve_one()
            except Exception as error:  # without this thread, all later requests would wait for ever
                pb_utils.Logger.log_error(f"the queue failed ({type(error).__name__}: {error})")
                time.sleep(ERROR_PAUSE_S)

    def _serve_one(self) -> None:
        """Drop the requests that nobody waits for. Answer the next one, or pause while the gate is closed for it."""
        self._drop_expired()
        self._drop_canceled()
        front = self._front()
        if self._gate and front and (pause_s := self._gate.pause_s(front.cost, self._gives_way(front))):
            self._pause(pause_s, front.bulk)
        elif held := self._take():
            self._answer(held)

    def _pause(self, seconds: float, bulk: bool) -> None:
        """Wait; if the next request is a bulk one, only until an interactive request arrives."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or (bulk and bool(self._held[False])), seconds)

    def _front(self) -> HeldRequest | None:
        """Return the first request of the highest priority, or None."""
        with self._changed:
            level = self._held[False] or self._held[True]
            return level[0] if level else None

    def _gives_way(self, held: HeldRequest) -> bool:
        """Return whether the request must leave room for interactive ones."""
        return held.bulk and self._clock() - self._interactive_at < INTERACTIVE_S

    def _take(self) -> HeldRequest | None:
        """Remove and return the first request of the highest priority, or None."""
        with self._changed:
            level = self._held[False] or self._held[True]
            if not level:
                return None
            held = level.pop(0)
        if self._gate:
            self._gate.passed(held.cost)
        return held

    def _answer(self, held: HeldRequest) -> None:
        started = self._clock()
        outcome = respond(held.sender, lambda: self._work(held))
        self._metrics.ended(outcome, started - held.arrived, self._clock() - started, held.cost)

    def _drop_expired(self) -> None:
        now = self._clock()
        if now < self._next_expiry:
            return
        expired = []
        with self._changed:
            for bulk, level in self._held.items():
                expired += [held for held in level if held.expires <= now]
                self._held[bulk] = [held for held in level if held.expires > now]
            left = [held.expires for level in self._held.values() for held in level]
            self._next_expiry = min(left, default=float("inf"))
        for held in expired:
            waited_s = now - held.arrived
            error = ExpiredError(f"the request waited {waited_s:.1f} s, as long as its timeout; try again later")
            self._reject(held.sender, error, waited_s, held.cost)

    def _drop_canceled(self) -> None:
        """Drop the next request and the one that has waited longest, as long as their callers have left."""
        while True:
            with self._changed:
                level = self._held[False] or self._held[True]
                checked = {level[0], min(level, key=lambda held: held.arrived)} if level else set()
            canceled = [held for held in checked if self._is_canceled(held)]
            if not canceled:
                return
            with self._changed:
                level = self._held[canceled[0].bulk]
                canceled = [held for held in canceled if held in level]  # close() may have rejected them
                level[:] = [held for held in level if held not in canceled]
            for held in canceled:
                waited_s = self._clock() - held.arrived
                self._reject(held.sender, CanceledError("the caller has left"), waited_s, held.cost)

    def _is_canceled(self, held: HeldRequest) -> bool:
        return self._clock() - held.arrived >= MIN_CANCEL_CHECK_S and bool(held.sender.is_cancelled())

    def _reject(self, sender: Any, error: Exception, waited_s: float = 0.0, cost: float = 0.0) -> None:
        def fail() -> dict[str, NDArray[Any]]:
            raise error

        self._metrics.ended(respond(sender, fail), waited_s, cost=cost)

    def _waiting(self) -> tuple[tuple[int, float], tuple[int, float]]:
        """Return the number of waiting requests, and the cost of those that are ahead of a usual one that arrives now.

        Returns:
            Both figures for interactive requests, and for bulk ones.
        """
        order = self._clock() + delay_s(USUAL_COST, self._max_wait_s)
        with self._changed:
            levels = self._held[False], self._held[True]
            interactive, bulk = (
                (len(level), sum(held.cost for held in level if held.order <= order)) for level in levels
            )
        return interactive, bulk
