"""Publish in Triton's metrics how many instances the models have, and which models take turns.

Triton itself does not publish it. A model's busy time is the sum over its instances, so its utilisation can only be
calculated with their number. Models that take turns are fully used when their busy times add up to the elapsed time.
"""

import os
import threading
import time
from typing import Any

import triton_python_backend_utils as pb_utils

from stages.admission import InstancesReader
from stages.loopback import HTTP_URL

NAME = "emoserve_model_instances"
RETRY_INTERVAL_S = 0.5  # Triton answers over HTTP when all models are loaded


class InstancesMetric:
    """A gauge with one sample for each model behind the stage `queue`.

    Models that take turns have the same value of the label `turns`. The value is the model's name for all others.
    """

    def __init__(self) -> None:
        """Start a thread that adds the metric as soon as Triton answers, if Triton's address is known."""
        self._held: list[Any] = []  # Triton removes a metric when its object is deleted
        if os.environ.get(HTTP_URL):
            threading.Thread(target=self._add, name="instances", daemon=True).start()

    def close(self) -> None:
        """Remove the metric while Triton still listens; later, the process ends with signal 11 (seen on 24.10)."""
        self._held.clear()

    def _add(self) -> None:
        read = InstancesReader()
        while True:
            try:
                found = read()
                break
            except OSError:
                time.sleep(RETRY_INTERVAL_S)
        family = pb_utils.MetricFamily(
            name=NAME,
            description="Number of instances of a model that run at the same time",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self._held.append(family)
        for model, instances in found.items():
            sample = family.Metric(labels={"model": model, "turns": instances.resource or model})
            sample.set(instances.concurrent)
            self._held.append(sample)
