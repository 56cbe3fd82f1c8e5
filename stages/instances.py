"""Adds to Triton's metrics how many instances the models have, which Triton itself does not tell.

A model's busy time is the sum over its instances, so its utilisation is known only with their number.
"""

import os
import threading
import time
from typing import Any

import triton_python_backend_utils as pb_utils

from stages.admission import InstanceCounts
from stages.wakeup import HTTP_URL

NAME = "emoserve_model_instances"
RETRY_INTERVAL_S = 0.5  # Triton answers over HTTP once all models are loaded


class InstancesMetric:
    """A gauge with one sample for each model behind the stage `queue`."""

    def __init__(self) -> None:
        """Add it as soon as Triton answers, where its address is known."""
        self._held: list[Any] = []  # Triton removes a metric that no process holds
        if os.environ.get(HTTP_URL):
            threading.Thread(target=self._add, name="instances", daemon=True).start()

    def close(self) -> None:
        """Remove it, while Triton still listens: the process would end with signal 11 (seen on 24.10)."""
        self._held.clear()

    def _add(self) -> None:
        counts = InstanceCounts()
        while True:
            try:
                instances = counts()
                break
            except OSError:
                time.sleep(RETRY_INTERVAL_S)
        family = pb_utils.MetricFamily(
            name=NAME, description="Number of instances of a model", kind=pb_utils.MetricFamily.GAUGE
        )
        self._held.append(family)
        for model, count in instances.items():
            sample = family.Metric(labels={"model": model})
            sample.set(count)
            self._held.append(sample)
