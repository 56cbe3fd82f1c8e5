"""The machine's limits: the served ONNX files in one process with ideal batches, and the matrix-multiply peak."""

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
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from threadpoolctl import threadpool_limits

from benchmarks.load.workload import Utterance
from emotion.text import WordPiece
from export import parity
from export.onnx_files import IR_VERSION, OPSET
from export.parity import OnnxModels, front_ends

Run = Callable[[Sequence[Future[parity.Utterance]]], None]  # waits for each utterance of a batch

MATRIX = 2048  # rows and columns, large enough that a product is arithmetic alone
PRODUCTS = 10
BATCHES_ALL_CORES = (1, 4, 8, 16, 32)
SESSIONS, BATCHES_SIDE_BY_SIDE = 2, (4, 16)
STRATEGIES = len(BATCHES_ALL_CORES) + len(BATCHES_SIDE_BY_SIDE)


@dataclass(frozen=True)
class Cost:
    """The cost of a run: s by the wall clock, and CPU s of this process on all cores."""

    seconds: float
    cpu_seconds: float

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of both runs."""
        return Cost(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)


def peak_gflops() -> dict[str, float]:
    """Return the GFLOP/s of fp32 matrix products on all cores, by library.

    The fastest counts as the machine's peak: a library is slow if it does not know the CPU, or an environment variable
    selects the kernel of another one (`machine.kernels`).
    """
    matrix = np.random.default_rng(0).random((MATRIX, MATRIX), np.float32)
    session, tensor = _product_session(matrix), torch.from_numpy(matrix)
    return {
        "numpy": _gflops(lambda: matrix @ matrix),
        "onnxruntime": _gflops(lambda: session.run(None, {"A": matrix})),
        "torch": _gflops(lambda: tensor @ tensor),
    }


def _gflops(product: Callable[[], object]) -> float:
    times = []
    for _ in range(PRODUCTS + 1):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / median(times[1:]) / 1e9


def _product_session(matrix: NDArray[np.float32]) -> onnxruntime.InferenceSession:
    """Return a session that multiplies A with a constant matrix, as the models do with their weights."""
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
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in the served models
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def strategies(repository: Path, cores: int) -> dict[str, Run]:
    """Return ways to run the ONNX models of a repository in one process, by name."""
    one = [OnnxModels(repository)]
    several = [OnnxModels(repository, threads=cores // SESSIONS or 1) for _ in range(SESSIONS)]
    ways = {f"all cores for each batch, batches of {size}": _batches(one, size) for size in BATCHES_ALL_CORES}
    names = {f"{SESSIONS} batches side by side, of {size}": size for size in BATCHES_SIDE_BY_SIDE}
    return ways | {name: _batches(several, size) for name, size in names.items()}


def _batches(models: Sequence[OnnxModels], size: int) -> Run:
    """Return a way that runs batches in the workload's order; each is taken by the first model that is free."""

    def run(utterances: Sequence[Future[parity.Utterance]]) -> None:
        batches: SimpleQueue[Sequence[Future[parity.Utterance]] | None] = SimpleQueue()
        for start in range(0, len(utterances), size):
            batches.put(utterances[start : start + size])

        def work(model: OnnxModels) -> None:
            for batch in iter(batches.get, None):
                model([utterance.result() for utterance in batch])

        with ThreadPoolExecutor(len(models)) as executor:
            for _ in models:
                batches.put(None)  # ends one of them
            list(executor.map(work, models))

    return run


def cost(run: Run, utterances: Sequence[Utterance], pieces: WordPiece, graph_alone: bool = False) -> Cost:
    """Return the cost of all utterances, from their bytes to their probabilities.

    Args:
        run: the way to run them.
        utterances: audio and text; other threads decode them ahead of the batches.
        pieces: the tokenizer of the text encoder.
        graph_alone: decode before the measurement.
    """
    # one BLAS thread, as in the stage `preprocess`: more threads would spin between the front-end's small products
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as readers:
        start = time.perf_counter(), time.process_time()
        read = [readers.submit(front_ends, each.audio, each.text, pieces) for each in utterances]
        if graph_alone:
            wait(read)
            start = time.perf_counter(), time.process_time()
        run(read)
        return Cost(time.perf_counter() - start[0], time.process_time() - start[1])


def one_at_a_time_ms(repository: Path, utterance: Utterance, tokenizer: Path, repeats: int = 30) -> float:
    """Return the median ms of one utterance from its bytes to its probabilities, without a server."""
    model, pieces = OnnxModels(repository), WordPiece(tokenizer)
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        model([front_ends(utterance.audio, utterance.text, pieces)])
        times.append(1e3 * (time.perf_counter() - start))
    return median(times[3:])
