"""The gate of the stage `queue`: it limits the requests that wait behind it."""

from collections.abc import Mapping

import pytest

from stages.gate import MAX_PAUSE_S, MIN_PAUSE_S, PAUSE_SHARE, Gate, size

MODELS = ("vggish", "bert")
Waiting = tuple[int, int] | None  # requests before vggish and bert; None if Triton does not answer


class Metrics:
    """Fake metrics with one state for each reading; the last state is repeated."""

    def __init__(self, *states: Waiting) -> None:
        self.states = list(states)
        self.readings = 0

    def __call__(self) -> Mapping[tuple[str, str], float]:
        self.readings += 1
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state is None:
            raise OSError("no answer")
        waiting = {("pending_request_count", model): float(count) for model, count in zip(MODELS, state, strict=True)}
        return waiting | {("pending_request_count", "queue"): 300.0, ("count", "vggish"): 1000.0}


class Clock:
    """A fake clock that only pauses advance."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def gate_of(
    metrics: Metrics, max_waiting: int = 8, clock: Clock | None = None, max_bulk_waiting: int | None = 4
) -> Gate:
    return Gate(metrics, MODELS, max_waiting, max_bulk_waiting, clock or Clock())


def pauses_of(metrics: Metrics, requests: int, max_waiting: int = 8) -> list[float]:
    """Return the pauses of a gate, in seconds, for a number of requests."""
    clock = Clock()
    gate = gate_of(metrics, max_waiting, clock)
    for _ in range(requests):
        pass_one(gate, clock)
    return clock.pauses


def pass_one(gate: Gate, clock: Clock, cost: float = 4.0, gives_way: bool = False) -> None:
    """Pass one request as stages.request_queue does: pause while the gate is closed."""
    while pause_s := gate.pause_s(cost, gives_way):
        clock.sleep(pause_s)
        assert len(clock.pauses) < 100, "the request never passes"
    gate.passed(cost)


def test_gate_with_room_reads_once_for_all_requests_that_fit() -> None:
    metrics = Metrics((0, 0))
    assert pauses_of(metrics, 8) == []
    assert metrics.readings == 1
    metrics = Metrics((0, 0))
    assert pauses_of(metrics, 9) == []
    assert metrics.readings == 2


def test_gate_with_a_full_first_model_pauses_until_requests_have_left() -> None:
    metrics = Metrics((9, 0), (8, 0), (5, 0))
    assert pauses_of(metrics, 3) == [MIN_PAUSE_S] * 2
    assert metrics.readings == 3


def test_gate_with_requests_before_a_later_model_fills_the_first_model() -> None:
    """Otherwise the first model would start with a part of a batch."""
    metrics = Metrics((0, 8))
    assert pauses_of(metrics, 8) == []
    assert metrics.readings == 1


def test_gate_with_all_models_full_together_pauses() -> None:
    metrics = Metrics((1, 15), (1, 16), (1, 12))
    assert pauses_of(metrics, 1) == [MIN_PAUSE_S] * 2


def test_gate_without_metrics_is_open() -> None:
    assert pauses_of(Metrics(None), 5, max_waiting=2) == []


def test_gate_with_metrics_after_an_outage_counts_again() -> None:
    assert pauses_of(Metrics(None, (4, 0), (0, 0)), 3, max_waiting=2) == [MIN_PAUSE_S]


def test_gate_pauses_for_a_share_of_the_last_closed_period() -> None:
    clock, full, empty = Clock(), (8, 0), (0, 0)
    gate = gate_of(Metrics(*[full] * 30, empty, *[full] * 2, empty), 1, clock)
    pass_one(gate, clock)
    first = list(clock.pauses)
    closed_s = sum(first)
    assert first == sorted(first)
    assert (first[0], first[-1]) == (MIN_PAUSE_S, MAX_PAUSE_S)
    clock.pauses.clear()
    pass_one(gate, clock)
    assert clock.pauses == [min(PAUSE_SHARE * closed_s, MAX_PAUSE_S)] * 2


def test_pause_s_of_an_open_gate_does_not_count_the_request() -> None:
    metrics = Metrics((7, 0))
    gate = gate_of(metrics)
    assert [gate.pause_s(4.0, gives_way=False) for _ in range(3)] == [0.0] * 3
    assert metrics.readings == 1


@pytest.mark.parametrize(("cost", "expected"), [(0.0, 1.0), (4.5, 1.0), (8.0, 1.0), (16.0, 3.0), (64.0, 15.0)])
def test_size_of_a_request_grows_with_its_cost(cost: float, expected: float) -> None:
    assert size(cost) == pytest.approx(expected)


def test_gate_lets_a_minute_of_speech_pass_only_when_no_other_request_waits() -> None:
    clock = Clock()
    gate = gate_of(Metrics((0, 0), (2, 0), (1, 0), (0, 6)), clock=clock)
    for _ in range(2):
        pass_one(gate, clock)
    pass_one(gate, clock, cost=2.0**31)  # no request is too long
    assert len(clock.pauses) == 2


def test_gate_counts_a_waiting_minute_of_speech_as_several_requests() -> None:
    clock = Clock()
    gate = gate_of(Metrics((0, 0), (1, 0), (0, 1)), clock=clock)
    pass_one(gate, clock, cost=64.0)
    pass_one(gate, clock)
    assert len(clock.pauses) == 1


def test_gate_counts_both_models_by_the_sizes_of_the_requests() -> None:
    clock = Clock()
    gate = gate_of(Metrics((0, 0), (0, 1), (0, 2), (0, 1)), clock=clock)
    for _ in range(3):
        pass_one(gate, clock, cost=64.0)
    assert len(clock.pauses) == 1


def test_request_that_gives_way_leaves_room_for_others() -> None:
    metrics = Metrics((4, 0), (3, 0))
    gate = gate_of(metrics)
    assert gate.pause_s(4.0, gives_way=True)
    assert not gate.pause_s(4.0, gives_way=False)
    clock = Clock()
    pass_one(gate_of(Metrics((4, 0), (3, 0)), clock=clock), clock, gives_way=True)
    assert len(clock.pauses) == 1


def test_pauses_of_a_request_that_gives_way_grow_while_others_pass() -> None:
    clock, full = Clock(), (4, 0)
    gate = gate_of(Metrics(*[full] * 40, (0, 0)), clock=clock)
    pauses = []
    while pause_s := gate.pause_s(4.0, gives_way=True):
        pauses.append(pause_s)
        clock.sleep(pause_s)
        pass_one(gate, clock)
    assert len(pauses) > 5
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE_S


def test_long_request_that_gives_way_passes_when_no_other_waits() -> None:
    clock = Clock()
    pass_one(gate_of(Metrics((1, 0), (0, 0)), clock=clock), clock, cost=64.0, gives_way=True)
    assert len(clock.pauses) == 1


def test_gate_without_a_limit_for_bulk_treats_all_requests_alike() -> None:
    gate = gate_of(Metrics((7, 0)), max_bulk_waiting=None)
    assert not gate.pause_s(4.0, gives_way=True)


def test_larger_limit_for_bulk_than_for_all_requests_is_lowered() -> None:
    """A tuned `max_waiting` may be below the default of `max_bulk_waiting`."""
    clock = Clock()
    gate = gate_of(Metrics((4, 0), (3, 0)), 4, clock, max_bulk_waiting=8)
    pass_one(gate, clock, gives_way=True)
    assert len(clock.pauses) == 1
