"""Publish in Triton's metrics how many requests wait in a stage's own queue, and how its requests end.

Triton itself counts a request of such a stage as executed as soon as the stage has accepted it
(stages/request_queue.py).
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from stages.requests import OUTCOMES
from stages.triton_metrics import COST, REQUESTS, WAIT_SECONDS, WAITING, WAITING_COST, WORK_SECONDS

PREFIX = "emoserve_"
PRIORITIES = ("interactive", "bulk")
PUBLISH_INTERVAL_S = 0.05  # half of admission's POLL_INTERVAL_S; an update costs about 0.1 ms


class QueueMetrics:
    """The metrics of one stage process; a value is published when it has changed.

    The gauges have the label `priority`, and the counters have `outcome`. All have `model` and `process`, because two
    processes must not share a sample.
    """

    def __init__(self, model: str, process: str, waiting: Callable[[], Sequence[tuple[int, float]]]) -> None:
        """Add the metrics to Triton's, unless Triton runs without metrics, and start to publish in a thread.

        Args:
            model, process: values of the labels.
            waiting: returns the values of both gauges for each of PRIORITIES.
        """
        self._waiting = waiting
        self._ended: dict[str, list[float]] = {}  # of the counters by outcome, not published yet
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_publishing, name="queue metrics", daemon=True)
        self._families: list[Any] = []
        self._gauges: list[list[Any]] = []  # of each of PRIORITIES
        self._counters: dict[str, list[Any]] = {}
        labels = {"model": model, "process": process}
        try:
            self._families = [
                pb_utils.MetricFamily(PREFIX + name, description, kind)
                for name, description, kind in (
                    (WAITING, "Requests that wait in a stage's own queue", pb_utils.MetricFamily.GAUGE),
                    (WAITING_COST, "Cost of what waits ahead of a usual new request", pb_utils.MetricFamily.GAUGE),
                    (REQUESTS, "Requests of a stage by how they ended", pb_utils.MetricFamily.COUNTER),
                    (
                        WAIT_SECONDS,
                        "Seconds that requests waited in a stage's own queue",
                        pb_utils.MetricFamily.COUNTER,
                    ),
                    (WORK_SECONDS, "Seconds that a stage worked on requests", pb_utils.MetricFamily.COUNTER),
                    (COST, "Cost of requests by how they ended", pb_utils.MetricFamily.COUNTER),
                )
            ]
        except Exception as error:  # Triton was started without metrics
            pb_utils.Logger.log_warn(f"the queue of {model} has no metrics: {error}")
            return
        gauges, counters = self._families[:2], self._families[2:]
        self._gauges = [
            [gauge.Metric(labels=labels | {"priority": priority}) for gauge in gauges] for priority in PRIORITIES
        ]
        self._counters = {
            outcome: [counter.Metric(labels=labels | {"outcome": outcome}) for counter in counters]
            for outcome in OUTCOMES
        }
        self._thread.start()

    def ended(self, outcome: str, waited_s: float = 0.0, worked_s: float = 0.0, cost: float = 0.0) -> None:
        """Count a request that has its response.

        Args:
            outcome: one of OUTCOMES.
            waited_s, worked_s: seconds that the request waited and was processed.
            cost: its cost in patches.
        """
        with self._lock:
            sums = self._ended.setdefault(outcome, [0.0] * 4)
            for index, value in enumerate((1.0, waited_s, worked_s, cost)):
                sums[index] += value

    def close(self) -> None:
        """Remove the metrics while Triton still listens; later, the process ends with signal 11 (seen on 24.10)."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)
        self._gauges.clear()
        self._counters.clear()
        self._families.clear()  # after its metrics

    def _keep_publishing(self) -> None:
        published = [(0, 0.0)] * len(PRIORITIES)
        while not self._stopped.wait(PUBLISH_INTERVAL_S):
            for index, waiting in enumerate(self._waiting()):
                for gauge, old, new in zip(self._gauges[index], published[index], waiting, strict=True):
                    if old != new:
                        gauge.set(new)
                published[index] = waiting
            with self._lock:
                ended, self._ended = self._ended, {}
            for outcome, sums in ended.items():
                for counter, value in zip(self._counters[outcome], sums, strict=True):
                    if value:
                        counter.increment(value)
