"""A stage's own queue: order, limits, timeouts, cancellation, and one response to each request."""

import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import quantiles
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from emotion_client import EmotionClient

from emotion.errors import BusyError, InputError
from serving import Triton

Sent = tuple[str, int, str]  # name of the request, code of the error (-1 for none), message
INVALID, UNAVAILABLE, INTERNAL, CANCELLED = range(4)
PAIRS = 16


class Stage:
    """A stage with a gate that is closed until `open` is set; it records the sent responses in order."""

    def __init__(self, run_stages: ModuleType, max_queue_size: int = 8) -> None:
        from stages.request_queue import RequestQueue

        self.sent: list[Sent] = []
        self.now = 1000.0
        self.open = False
        self.errors: list[Exception] = []  # raised by the gate, one per call
        self.passed_count = 0
        self.gave_way = False  # argument of the last call of `pause_s`
        self.bulk_pause_s = 0.0  # the gate is closed for bulk requests that give way if it is not 0
        self.canceled: set[str] = set()
        self._utilities = run_stages
        parameters = {"max_queue_size": str(max_queue_size), "max_wait_seconds": "30"}
        config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
        args = {"model_config": json.dumps(config), "model_name": "m", "model_instance_name": "m_0_0"}
        self.queue = RequestQueue(args, self.read, self.work, self, self.cost, lambda: self.now)

    def pause_s(self, cost: float, gives_way: bool) -> float:
        if self.errors:
            raise self.errors.pop()
        self.gave_way = gives_way
        if gives_way and self.bulk_pause_s:
            return self.bulk_pause_s
        return 0.0 if self.open else 0.001

    def passed(self, cost: float) -> None:
        self.passed_count += 1

    def cost(self, inputs: str) -> float:
        """Return the number after a colon in the name, or 0."""
        return float(inputs.partition(":")[2] or 0)

    def read(self, request: Any) -> str:
        if request.name == "unreadable":
            raise InputError("cannot be read")
        return str(request.name)

    def work(self, held: Any) -> dict[str, Any]:
        if held.inputs == "bug":
            raise KeyError("bug")
        return {"Y": np.zeros(1)}

    def put(self, name: str, bulk: bool = False, timeout_s: float = 0.0) -> None:
        stage = self

        class Request(self._utilities.Request):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                self.name = name

            def get_response_sender(self) -> Any:
                return self

            def parameters(self) -> str:
                return '{"bulk": true}' if bulk else ""

            def timeout(self) -> int:
                return int(1e6 * timeout_s)

            def is_cancelled(self) -> bool:
                return name in stage.canceled

            def send(self, response: Any, flags: int) -> None:
                assert flags
                error = response.error
                code, message = (error.args[1], error.args[0]) if error else (-1, "")
                stage.sent.append((name, code, message))

        self.queue.put(Request())

    def names(self, count: int) -> list[str]:
        """Wait for `count` responses, and return the names of the answered requests in order."""
        wait_until(lambda: len(self.sent) >= count)
        return [name for name, _, _ in self.sent]


def wait_until(done: Callable[[], bool]) -> None:
    """Poll until a condition is true, at most for 10 s."""
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def stage(run_stages: ModuleType) -> Iterator[Stage]:
    stage = Stage(run_stages)
    yield stage
    stage.queue.close()


def test_interactive_requests_leave_first_and_each_priority_in_order(stage: Stage) -> None:
    for name in ("b1", "b2", "i1", "b3", "i2"):
        stage.put(name, bulk=name.startswith("b"))
    stage.open = True
    assert stage.names(5) == ["i1", "i2", "b1", "b2", "b3"]
    assert [code for _, code, _ in stage.sent] == [-1] * 5
    assert stage.passed_count == 5


def test_bulk_request_gives_way_for_10_s_after_the_last_interactive_request(stage: Stage) -> None:
    stage.open = True
    stage.put("b1", bulk=True)
    assert stage.names(1) == ["b1"]
    assert not stage.gave_way
    stage.put("i1")
    assert stage.names(2)[1:] == ["i1"]
    assert not stage.gave_way
    stage.now += 9.9
    stage.put("b2", bulk=True)
    assert stage.names(3)[2:] == ["b2"]
    assert stage.gave_way
    stage.now += 0.2
    stage.put("b3", bulk=True)
    assert stage.names(4)[3:] == ["b3"]
    assert not stage.gave_way


def test_interactive_request_does_not_wait_for_the_pause_of_a_bulk_one(stage: Stage) -> None:
    stage.open, stage.bulk_pause_s = True, 60.0
    stage.put("i1")
    assert stage.names(1) == ["i1"]
    stage.put("b1", bulk=True)
    wait_until(lambda: stage.gave_way)
    stage.put("i2")
    assert stage.names(2) == ["i1", "i2"]


def test_long_request_lets_requests_pass_that_arrive_up_to_50_ms_later_for_each_patch(stage: Stage) -> None:
    for name, now in (("long:50", 1000.0), ("short:4", 1002.2), ("late:4", 1002.4), ("short:1", 1002.44)):
        stage.now = now
        stage.put(name)
    stage.open = True
    assert stage.names(4) == ["short:4", "short:1", "long:50", "late:4"]


def test_long_request_waits_for_later_ones_at_most_a_fifth_of_its_timeout(stage: Stage) -> None:
    for name, now in (("long:2000", 1000.0), ("short:0", 1000.9), ("late:0", 1001.1)):
        stage.now = now
        stage.put(name, timeout_s=5.0)
    stage.open = True
    assert stage.names(3) == ["short:0", "long:2000", "late:0"]


def test_published_cost_is_what_waits_ahead_of_a_usual_new_request(
    run_stages: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_queue = importlib.import_module("stages.request_queue")  # each test has its own

    readers = []

    class Metrics(request_queue.QueueMetrics):  # type: ignore[name-defined, misc]
        def __init__(self, model: str, process: str, waiting: Callable[[], Any]) -> None:
            readers.append(waiting)
            super().__init__(model, process, waiting)

    monkeypatch.setattr(request_queue, "QueueMetrics", Metrics)
    stage = Stage(run_stages)
    for name in ("short:4", "long:60", "bulk:5"):
        stage.put(name, bulk=name.startswith("bulk"))
    (waiting,) = readers
    assert waiting() == ((2, 4.0), (1, 5.0))  # later requests pass the long one for 3 s, less the 0.4 s of a usual one
    stage.now += 2.7
    assert waiting() == ((2, 64.0), (1, 5.0))
    stage.queue.close()


def test_canceled_long_request_is_dropped_though_others_pass_it(stage: Stage) -> None:
    stage.put("long:60")
    stage.now += 1.0
    stage.put("short:1")
    stage.canceled.add("long:60")
    assert stage.names(1) == ["long:60"]
    assert stage.sent[0][1] == CANCELLED


def test_request_above_the_limit_of_its_priority_is_rejected_immediately(stage: Stage) -> None:
    for number in range(9):
        stage.put(f"i{number}")
    stage.put("b0", bulk=True)
    assert stage.sent == [("i8", UNAVAILABLE, "the server is busy: 8 requests wait already; try again later")]
    stage.open = True
    assert stage.names(10)[1:] == [*(f"i{number}" for number in range(8)), "b0"]


def test_request_with_an_expired_timeout_is_rejected_while_the_gate_is_closed(stage: Stage) -> None:
    stage.put("patient")
    stage.put("hasty", timeout_s=0.2, bulk=True)
    stage.put("too long", timeout_s=99)
    stage.now += 0.19
    time.sleep(0.02)
    assert not stage.sent
    stage.now += 0.02
    assert stage.names(1) == ["hasty"]
    _, code, message = stage.sent[0]
    assert (code, message) == (
        UNAVAILABLE,
        "the request waited 0.2 s, as long as its timeout; try again later",
    )
    stage.now += 30  # max_wait_seconds
    assert sorted(stage.names(3)[1:]) == ["patient", "too long"]
    assert stage.passed_count == 0


def test_canceled_request_is_dropped_without_work_and_without_passing_the_gate(stage: Stage) -> None:
    for name in ("gone", "here"):
        stage.put(name)
    stage.canceled.add("gone")
    time.sleep(0.02)
    assert not stage.sent  # a new request is not checked for cancellation
    stage.now += 1
    assert stage.names(1) == ["gone"]
    assert stage.sent[0][1:] == (CANCELLED, "the caller has left")
    stage.open = True
    assert stage.names(2) == ["gone", "here"]
    assert stage.passed_count == 1


def test_error_of_one_request_fails_only_that_request(stage: Stage) -> None:
    stage.open = True
    for name in ("unreadable", "bug", "good"):
        stage.put(name)
    stage.names(3)
    found = {name: (code, message) for name, code, message in stage.sent}
    assert found["unreadable"] == (INVALID, "cannot be read")
    assert found["bug"] == (INTERNAL, "the stage failed (KeyError: 'bug')")
    assert found["good"] == (-1, "")


def test_queue_after_an_error_of_its_gate_answers_waiting_requests(stage: Stage) -> None:
    stage.errors = [ValueError("metrics of another kind"), OSError("no metrics")]
    stage.put("waits")
    stage.open = True
    assert stage.names(1) == ["waits"]
    assert stage.sent[0][1] == -1


def test_close_rejects_waiting_and_later_requests(stage: Stage) -> None:
    stage.put("waits")
    stage.queue.close()
    stage.put("late")
    assert [sent[:2] for sent in stage.sent] == [("waits", UNAVAILABLE), ("late", UNAVAILABLE)]
    assert {message for _, _, message in stage.sent} == {"the server is stopping; try again later"}


def test_requests_of_many_threads_get_one_response_each(run_stages: ModuleType) -> None:
    stage = Stage(run_stages, max_queue_size=1000)
    stage.open = True

    def put_many(caller: int) -> None:
        for number in range(100):
            stage.put(f"{caller}-{number}", bulk=number % 2 == 0)

    threads = [threading.Thread(target=put_many, args=(caller,)) for caller in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stage.names(800)
    assert len({name for name, _, _ in stage.sent}) == len(stage.sent) == 800
    stage.queue.close()


def test_respond_with_a_closed_sender_raises_nothing(run_stages: ModuleType) -> None:
    from stages.requests import respond

    class Gone:
        def send(self, response: Any, flags: int) -> None:
            raise RuntimeError("Response sender has been closed.")

    assert respond(Gone(), dict) == "failed"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(InputError("x"), "invalid"), (BusyError("x"), "busy"), (ValueError("x"), "failed")],
)
def test_respond_returns_the_outcome_of_the_error(run_stages: ModuleType, error: Exception, outcome: str) -> None:
    from stages.requests import OUTCOMES, respond

    def fail() -> dict[str, Any]:
        raise error

    class Sender:
        def send(self, response: Any, flags: int) -> None:
            pass

    assert respond(Sender(), fail) == outcome in OUTCOMES


def test_second_of_two_callers_is_answered_without_a_third(server: Triton, recordings: dict[str, bytes]) -> None:
    """With Triton's queue policies the batcher would sleep for 0.5 s in about every second pair."""
    clip = recordings["austen-0880.flac"]
    slower = []
    with EmotionClient(server.grpc_url) as client, ThreadPoolExecutor(2) as pool:

        def ask(_: int) -> float:
            began = time.monotonic()
            client.analyze(clip, "hello there")
            return time.monotonic() - began

        ask(0)
        for _ in range(PAIRS):
            slower.append(max(pool.map(ask, range(2))))
            time.sleep(0.05)
    assert quantiles(slower, n=4)[2] < 0.45, slower
