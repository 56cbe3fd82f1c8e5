"""Run the Python stages of a model repository without Triton: `python docker/run_stages.py TASK.json`.

The script runs in the environment under test, so it imports only packages that a stage may import. image_check.py
writes the task: `steps` (model directory, configuration and name maps, in the ensemble's order), `utterances` (audio
path and text by name) and `result` (path of the file for the tensors).
"""

import importlib.util
import json
import platform
import queue
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np


class Tensor:
    """A stand-in for the tensors of Triton's Python backend."""

    def __init__(self, name: str, array: Any) -> None:
        self._name, self._array = name, np.asarray(array)

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array


class TritonError(Exception):
    """A stand-in for the errors of Triton's Python backend."""

    INVALID_ARG, UNAVAILABLE, INTERNAL, CANCELLED = range(4)


class InferenceResponse:
    """A stand-in for the responses of Triton's Python backend."""

    def __init__(self, output_tensors: Any = (), error: Any = None) -> None:
        self.output_tensors, self.error = output_tensors, error


class Request:
    """A stand-in for a request without parameters and timeout; it is also its own response sender."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors = tensors
        self._responses: queue.Queue[InferenceResponse] = queue.Queue()

    def get_response_sender(self) -> Any:
        return self

    def send(self, response: InferenceResponse, flags: int) -> None:
        self._responses.put(response)

    def response(self) -> InferenceResponse:
        """Return the response.

        Raises:
            queue.Empty: there is no response after 60 s.
        """
        return self._responses.get(timeout=60)

    def is_cancelled(self) -> bool:
        return False

    def parameters(self) -> str:
        return ""

    def timeout(self) -> int:
        return 0


class MetricFamily:
    """A stand-in for metric families and their metrics that discards all values."""

    GAUGE, COUNTER = range(2)

    def __init__(self, *description: Any) -> None:
        pass

    def Metric(self, labels: dict[str, str]) -> "MetricFamily":
        return self

    def set(self, value: float) -> None:
        pass

    increment = set


def backend_utilities() -> types.ModuleType:
    """Return a stand-in for Triton's module triton_python_backend_utils with the parts that the stages use."""
    module: Any = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse, module.TritonError = Tensor, InferenceResponse, TritonError
    module.MetricFamily, module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = MetricFamily, 1
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request.tensors[name])
    module.Logger = types.SimpleNamespace(log_error=lambda line: print(line, file=sys.stderr))
    return module


def load(model: Path, config: dict[str, Any]) -> Any:
    """Load and initialise the stage of a model directory as Triton does.

    Args:
        model: the model directory.
        config: the model configuration.
    """
    spec = importlib.util.spec_from_file_location(model.name, model / "1" / "model.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stage = module.TritonPythonModel()
    arguments = {"model_config": json.dumps(config), "model_repository": str(model), "model_version": "1"}
    names = {"model_name": model.name, "model_instance_name": f"{model.name}_0"}
    stage.initialize(arguments | names | {"model_instance_kind": "CPU"})
    return stage


def main() -> None:
    """Run all stages on each utterance, and write their output tensors.

    Raises:
        TritonError: a stage responds with an error.
    """
    sys.modules["triton_python_backend_utils"] = backend_utilities()
    task = json.loads(Path(sys.argv[1]).read_text())
    stages = [load(Path(step["model"]), step["config"]) for step in task["steps"]]
    result: dict[str, Any] = {}
    for name, (path, text) in task["utterances"].items():
        audio = Path(path).read_bytes() if path else b""
        known = {"AUDIO": np.array([[audio]], object), "TEXT": np.array([[text.encode()]], object)}
        for step, stage in zip(task["steps"], stages, strict=True):
            inputs = {own: known[outer] for own, outer in step["inputs"].items()}
            request = Request(inputs)
            stage.execute([request])
            response = request.response()
            if response.error:
                raise response.error
            for tensor in response.output_tensors:
                known[step["outputs"][tensor.name()]] = tensor.as_numpy()
        for tensor_name in known.keys() - {"AUDIO", "TEXT"}:
            array = known[tensor_name]
            result[f"{name}: {tensor_name}"] = array.astype(np.bytes_) if array.dtype == object else array
    np.savez(task["result"], **result)
    names = ", ".join(Path(step["model"]).name for step in task["steps"])
    print(f"Python {platform.python_version()}, numpy {np.__version__}: {names} ran")


if __name__ == "__main__":
    main()
