"""What the machine allows: the served ONNX files in this process, batched ideally, and its matrix-multiply peak."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from statistics import median

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from threadpoolctl import threadpool_limits

from benchmarks.workload import Utterance
from emotion.text import WordPiece
from export import parity
from export.onnx_files import IR_VERSION, OPSET
from export.parity import OnnxModels, front_ends

Run = Callable[[Sequence[Future[parity.Utterance]]], None]  # waits for each utterance when its batch's turn comes

MATRIX = 2048  # rows and columns: large enough that a product is all arithmetic
PRODUCTS = 10  # of which the median is taken
BATCHES_TOGETHER = (1, 4, 8, 16, 32)
SIDE_BY_SIDE, BATCHES_APART = 2, (4, 16)
STRATEGIES = len(BATCHES_TOGETHER) + len(BATCHES_APART)


@dataclass(frozen=True)
class Cost:
    """What a run took: s by the wall clock, and s of CPU time of this process, on all cores together."""

    seconds: float
    cpu_seconds: float

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of both runs."""
        return Cost(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)


def peak_gflops() -> float:
    """Return the GFLOP/s of fp32 matrix products on all cores: numpy's or ONNX Runtime's, whichever is more.

    numpy's alone would be too little where its BLAS runs a kernel for another CPU: an environment variable such as
    OPENBLAS_CORETYPE can name one, and an old OpenBLAS does not know new CPUs.
    """
    matrix = np.random.default_rng(0).random((MATRIX, MATRIX), np.float32)
    session = _product_session(matrix)
    return max(_gflops(lambda: matrix @ matrix), _gflops(lambda: session.run(None, {"A": matrix})))


def _gflops(product: Callable[[], object]) -> float:
    times = []
    for _ in range(PRODUCTS + 1):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / median(times[1:]) / 1e9


def _product_session(matrix: NDArray[np.float32]) -> onnxruntime.InferenceSession:
    """Return a session that multiplies A with a constant matrix, as the models multiply with their weights."""
    shape = list(matrix.shape)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["A", "B"], ["C"])],
        "product",
        [helper.make_tensor_value_info("A", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("C", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(matrix, "B")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the models run
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def strategies(repository: Path, cores: int) -> dict[str, Run]:
    """Return ways to run the models in one process, by name.

    Args:
        repository: holds the ONNX files of vggish, bert and fusion.
        cores: of this machine.
    """
    together = OnnxModels(repository)
    apart = [OnnxModels(repository, threads=cores // SIDE_BY_SIDE or 1) for _ in range(SIDE_BY_SIDE)]
    return {f"all cores for each batch, batches of {size}": _batches([together], size) for size in BATCHES_TOGETHER} | {
        f"{SIDE_BY_SIDE} batches side by side, of {size}": _batches(apart, size) for size in BATCHES_APART
    }


def _batches(models: Sequence[OnnxModels], size: int) -> Run:
    """Batches in the workload's order, each taken by the first of the models that is free."""

    def run(utterances: Sequence[Future[parity.Utterance]]) -> None:
        batches: SimpleQueue[Sequence[Future[parity.Utterance]] | None] = SimpleQueue()
        for start in range(0, len(utterances), size):
            batches.put(utterances[start : start + size])

        def work(model: OnnxModels) -> None:
            for batch in iter(batches.get, None):
                model([utterance.result() for utterance in batch])

        with ThreadPoolExecutor(len(models)) as executor:
            for _ in models:
                batches.put(None)  # to each its end
            list(executor.map(work, models))

    return run


def cost(run: Run, utterances: Sequence[Utterance], pieces: WordPiece, graph_alone: bool = False) -> Cost:
    """Return what a way takes for all of them, from their bytes to their probabilities.

    Args:
        run: the way.
        utterances: audio and text, which other threads read meanwhile, ahead of the batches.
        pieces: of the text encoder.
        graph_alone: leave out what reading takes, by doing it before.
    """
    # one BLAS thread, as the stage `preprocess` has: more would spin between the small products of the front-end
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as readers:
        start = time.perf_counter(), time.process_time()
        read = [readers.submit(front_ends, each.audio, each.text, pieces) for each in utterances]
        if graph_alone:
            wait(read)
            start = time.perf_counter(), time.process_time()
        run(read)
        return Cost(time.perf_counter() - start[0], time.process_time() - start[1])


def one_at_a_time_ms(repository: Path, utterance: Utterance, tokenizer: Path, repeats: int = 30) -> float:
    """Return the median milliseconds of one utterance from its bytes to its probabilities, without a server."""
    model, pieces = OnnxModels(repository), WordPiece(tokenizer)
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        model([front_ends(utterance.audio, utterance.text, pieces)])
        times.append(1e3 * (time.perf_counter() - start))
    return median(times[3:])
