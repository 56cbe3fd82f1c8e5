"""Triton stage `queue`: passes the counts of a request on when the models behind it are ready for more."""

import json
from typing import Any

from numpy.typing import NDArray

from stages.gate import Gate
from stages.instances import InstancesMetric
from stages.request_queue import RequestQueue
from stages.requests import tensor
from stages.triton_metrics import MetricsReader

Tensors = dict[str, NDArray[Any]]


class TritonPythonModel:
    """One instance: a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read which models are behind the stage."""
        parameters = json.loads(args["model_config"])["parameters"]
        models = parameters["models"]["string_value"].split(",")
        gate = Gate(MetricsReader(), models, int(parameters["max_waiting"]["string_value"]))
        self.queue = RequestQueue(args, self.counts, lambda counts: counts, gate)
        self.instances = InstancesMetric()

    def execute(self, requests: list[Any]) -> None:
        """Called by Triton with one request."""
        for request in requests:
            self.queue.put(request)

    def finalize(self) -> None:
        """Called by Triton before the process ends."""
        self.queue.close()
        self.instances.close()

    def counts(self, request: Any) -> Tensors:
        """Return PATCH_COUNT and TOKEN_COUNT, int32 [n, 1], as they came in."""
        return {name: tensor(request, name).copy() for name in ("PATCH_COUNT", "TOKEN_COUNT")}
