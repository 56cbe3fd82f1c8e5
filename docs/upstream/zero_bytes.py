"""Show that a request without elements makes the requests behind it read stale memory (Triton's native backends).

Needs onnx, numpy and tritonclient[grpc], and a Triton with the native ONNX Runtime backend:

    python zero_bytes.py make models
    tritonserver --model-repository=models        # in another terminal
    python zero_bytes.py run localhost:8001
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

# LAST[b] is the last element of request b's own part of X. END, which Triton writes, says where each part ends.
MODEL = """
<ir_version: 8, opset_import: ["": 17]>
ragged (float[N] X, int32[B] END) => (float[B, 1] LAST) <int32 one = {1}, int64[1] axis = {1}> {
  index = Sub(END, one)
  column = Unsqueeze(index, axis)
  LAST = Gather(X, column)
}"""
CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input { name: "X" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }
batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "END" data_type: TYPE_INT32 source_input: "X" }
output { name: "LAST" data_type: TYPE_FP32 dims: [ 1 ] }
instance_group { kind: KIND_CPU count: 1 }
dynamic_batching { preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 2000000 }  # three requests make a batch
"""
TIMEOUT_S = 10

Request = tuple[int, int, float]  # the shape of X, and the value of each of its elements
OTHER: tuple[Request, ...] = ((1, 1000, 7.0),) * 3  # another caller's data
ONE, TWO = (1, 1500, 1.0), (1, 1500, 2.0)
EMPTY, NO_ROW = (1, 0, 0.0), (0, 0, 0.0)
BATCHES: dict[str, tuple[Request, ...]] = {
    "no empty request": ((1, 1000, 1.0), (1, 1000, 2.0), (1, 1000, 3.0)),
    "zero bytes, last": (ONE, TWO, EMPTY),
    "zero bytes, in the middle": (ONE, EMPTY, TWO),
    "zero bytes, first": (EMPTY, ONE, TWO),
    "batch dimension 0, last": (ONE, TWO, NO_ROW),
    "batch dimension 0, in the middle": (ONE, NO_ROW, TWO),
    "batch dimension 0, first": (NO_ROW, ONE, TWO),
    "batch dimension 0, alone": (NO_ROW,),
}


def make(directory: str) -> None:
    """Write the model repository."""
    import onnx.parser

    version = Path(directory, "ragged", "1")
    version.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.parser.parse_model(MODEL), version / "model.onnx")
    (version.parent / "config.pbtxt").write_text(CONFIG)


def run(url: str) -> None:
    """Send each of BATCHES after a batch of another caller, and print what comes back."""
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(url)

    def infer(request: Request) -> str:
        rows, columns, value = request
        x = np.full((rows, columns), value, np.float32)
        tensor = triton.InferInput("X", x.shape, "FP32")
        tensor.set_data_from_numpy(x)
        try:
            answer = client.infer("ragged", [tensor], client_timeout=TIMEOUT_S).as_numpy("LAST")
        except triton.InferenceServerException as error:
            return f"<-- WRONG: {error.message()} after {TIMEOUT_S} s"
        if not x.size:
            return "answered"  # it has no last element
        return f"last element {answer[0, 0]:g}{' <-- WRONG' * bool(answer[0, 0] != value)}"

    def send(batch: tuple[Request, ...]) -> list[str]:
        with ThreadPoolExecutor(len(batch)) as pool:
            calls = []
            for request in batch:
                calls.append(pool.submit(infer, request))
                time.sleep(0.1)  # keeps the order within the batch
            return [call.result() for call in calls]

    for title, batch in BATCHES.items():
        send(OTHER)
        print(title)
        for (rows, columns, value), answer in zip(batch, send(batch), strict=True):
            print(f"  [{rows}, {columns}] of {value:g}: {answer}")


if __name__ == "__main__":
    {"make": make, "run": run}[sys.argv[1]](sys.argv[2])
