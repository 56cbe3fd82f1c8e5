"""Adds to Triton's metrics how many instances the models have, and which of them take turns.

Triton itself does not tell. A model's busy time is the sum over its instances, so its utilisation is known only with
their number. Models that take turns are fully used when their busy times add up to the elapsed time.
"""

import os
import threading
import time
from typing import Any

import triton_python_backend_utils as pb_utils

from stages.admission import InstancesReader
from stages.loopback import HTTP_URL

NAME = "emoserve_model_instances"
RETRY_INTERVAL_S = 0.5  # Triton answers over HTTP once all models are loaded


class InstancesMetric:
    """A gauge with one sample for each model behind the stage `queue`.

    Its label `turns` is the same for models that take turns. A model that shares nothing has its own name there.
    """

    def __init__(self) -> None:
        """Add it as soon as Triton answers, where its address is known."""
        self._held: list[Any] = []  # Triton removes a metric that no process holds
        if os.environ.get(HTTP_URL):
            threading.Thread(target=self._add, name="instances", daemon=True).start()

    def close(self) -> None:
        """Remove it, while Triton still listens: the process would end with signal 11 (seen on 24.10)."""
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
            sample.set(instances.at_once)
            self._held.append(sample)
