"""Triton stage `queue`: passes the counts of a request on when the models behind it are ready for more."""

import json
from typing import Any

from numpy.typing import NDArray

from stages.gate import Gate
from stages.instances import InstancesMetric
from stages.requests import respond_per_request, tensor
from stages.triton_metrics import MetricsReader
from stages.wakeup import BatcherWaker


class TritonPythonModel:
    """One instance: a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read which models are behind the stage."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.gate = Gate(MetricsReader(), parameters["models"].split(","), int(parameters["max_waiting"]))
        self.waker = BatcherWaker(config)
        self.instances = InstancesMetric()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Called by Triton with a batch of requests."""
        with self.waker.batch():
            return respond_per_request(requests, self.tensors)

    def finalize(self) -> None:
        """Called by Triton before the process ends."""
        self.instances.close()

    def tensors(self, request: Any) -> dict[str, NDArray[Any]]:
        """Return PATCH_COUNT and TOKEN_COUNT, int32 [n, 1], as they came in."""
        self.gate.wait()
        return {name: tensor(request, name) for name in ("PATCH_COUNT", "TOKEN_COUNT")}
