"""Show that the dynamic batcher is not woken when an instance becomes idle, if its queue has a policy.

Needs numpy and tritonclient[grpc], and any Triton with the Python backend:

    python lost_wakeup.py make models
    tritonserver --model-repository=models        # in another terminal
    python lost_wakeup.py run localhost:8001
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

WORK_S = 0.05  # of every batch
ROUNDS = 9
MODEL = f"""
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep({WORK_S})
        outputs = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("Y", output)]) for output in outputs]
"""
CONFIG = """
backend: "python"
max_batch_size: 1
input {{ name: "X" data_type: TYPE_FP32 dims: [ 1 ] }}
output {{ name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }}
instance_group {{ kind: KIND_CPU count: 1 }}
dynamic_batching {{ {policy} }}
"""
MODELS = {
    "no_policy": "",
    "limit": "default_queue_policy { max_queue_size: 100 }",
    "deadline": "default_queue_policy { default_timeout_microseconds: 30000000 }",
    "priorities": "priority_levels: 2 default_priority_level: 1",
}


def make(directory: str) -> None:
    """Write the model repository: one model for each queue policy."""
    for name, policy in MODELS.items():
        version = Path(directory, name, "1")
        version.mkdir(parents=True, exist_ok=True)
        (version / "model.py").write_text(MODEL)
        (version.parent / "config.pbtxt").write_text(CONFIG.format(policy=policy))


def run(url: str) -> None:
    """Send two requests, the second while the first runs, and print how long the second takes."""
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(url)

    def infer(model: str) -> float:
        tensor = triton.InferInput("X", [1, 1], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 1), np.float32))
        begun = time.monotonic()
        client.infer(model, [tensor])
        return 1e3 * (time.monotonic() - begun)

    def second(model: str) -> float:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(infer, model)
            time.sleep(WORK_S / 2)
            found = pool.submit(infer, model).result()
            first.result()
        return found

    for model in MODELS:
        infer(model)
        took = median(second(model) for _ in range(ROUNDS))
        print(f"{model:<12} the second request takes {took:4.0f} ms{' <-- WRONG' * (took > 4e3 * WORK_S)}")


if __name__ == "__main__":
    {"make": make, "run": run}[sys.argv[1]](sys.argv[2])
