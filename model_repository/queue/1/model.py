"""Triton stage `queue`: hold each request until the models behind the stage can accept it."""

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
    """The only instance of the stage, in its own process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the models behind the stage, and start the queue."""
        parameters = json.loads(args["model_config"])["parameters"]
        models = parameters["models"]["string_value"].split(",")
        max_waiting = int(parameters["max_waiting"]["string_value"])
        bulk = parameters.get("max_bulk_waiting")  # absent: bulk requests do not give way
        gate = Gate(MetricsReader(), models, max_waiting, int(bulk["string_value"]) if bulk else None)
        self.queue = RequestQueue(args, self.counts, lambda held: held.inputs, gate)
        self.instances = InstancesMetric()

    def execute(self, requests: list[Any]) -> None:
        """Add the requests to the queue; Triton calls it with one request."""
        for request in requests:
            self.queue.put(request)

    def finalize(self) -> None:
        """Close the queue, and remove the metrics; Triton calls it before the process ends."""
        self.queue.close()
        self.instances.close()

    def counts(self, request: Any) -> Tensors:
        """Return copies of PATCH_COUNT and TOKEN_COUNT, int32 [n, 1]."""
        return {name: tensor(request, name).copy() for name in ("PATCH_COUNT", "TOKEN_COUNT")}
