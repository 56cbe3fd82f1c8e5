"""The gate of the stage `queue`: no more wait behind it than may."""

from collections.abc import Mapping

import pytest

from stages.gate import POLL_INTERVAL_S, Gate
from stages.triton_metrics import parse

MODELS = ("vggish", "bert")


class Metrics:
    """Triton's metrics while requests wait, one number for each reading; None: it does not answer."""

    def __init__(self, *waiting: int | None) -> None:
        self.waiting = list(waiting)
        self.readings = 0

    def __call__(self) -> Mapping[tuple[str, str], float]:
        self.readings += 1
        number = self.waiting.pop(0) if len(self.waiting) > 1 else self.waiting[0]
        if number is None:
            raise OSError("no answer")
        return {
            ("pending_request_count", "vggish"): number - number // 2,
            ("pending_request_count", "bert"): number // 2,
            ("pending_request_count", "queue"): 300.0,
            ("count", "vggish"): 1000.0,
        }


def test_wait_with_room_reads_once_for_as_many_as_fit() -> None:
    metrics, pauses = Metrics(0), list[float]()
    gate = Gate(metrics, MODELS, 8, pauses.append)
    for _ in range(8):
        gate.wait()
    assert (metrics.readings, pauses) == (1, [])
    gate.wait()
    assert metrics.readings == 2


def test_wait_without_room_pauses_until_requests_have_gone() -> None:
    metrics, pauses = Metrics(9, 8, 5), list[float]()
    gate = Gate(metrics, MODELS, 8, pauses.append)
    for _ in range(3):
        gate.wait()
    assert pauses == [POLL_INTERVAL_S] * 2
    assert metrics.readings == 3


def test_wait_without_metrics_lets_requests_pass() -> None:
    metrics, pauses = Metrics(None), list[float]()
    gate = Gate(metrics, MODELS, 2, pauses.append)
    for _ in range(5):
        gate.wait()
    assert pauses == []


def test_wait_after_metrics_came_back_counts_again() -> None:
    metrics, pauses = Metrics(None, 4, 0), list[float]()
    gate = Gate(metrics, MODELS, 2, pauses.append)
    for _ in range(3):
        gate.wait()
    assert pauses == [POLL_INTERVAL_S]


def test_parse_sums_samples_that_differ_in_further_labels() -> None:
    text = """
# HELP nv_inference_request_failure Number of failed inference requests
nv_inference_request_failure{model="queue",reason="REJECTED",version="1"} 3
nv_inference_request_failure{model="queue",reason="OTHER",version="1"} 4
nv_inference_pending_request_count{model="vggish",version="1"} 2
nv_inference_queue_summary_us{model="vggish",version="1",quantile="0.5"} 7
nv_cpu_utilization 0.5
"""
    values = parse(text)
    assert values["request_failure", "queue"] == 7
    assert values["pending_request_count", "vggish"] == 2
    assert values["pending_request_count", "bert"] == pytest.approx(0)
