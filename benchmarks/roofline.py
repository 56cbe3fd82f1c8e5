"""What the machine allows: the served ONNX file in this process, batched ideally, and its matrix-multiply peak."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from statistics import median

import numpy as np

from benchmarks.workload import Utterance
from emotion.text import WordPiece
from export import parity
from export.parity import OnnxModel, front_ends

Run = Callable[[Sequence[Future[parity.Utterance]]], None]  # waits for each utterance when its batch's turn comes

MATRIX = 2048  # rows and columns: large enough that a product is all arithmetic
PRODUCTS = 10
BATCHES_TOGETHER = (1, 4, 8, 16, 32)
SIDE_BY_SIDE, BATCHES_APART = 2, (4, 16)
STRATEGIES = len(BATCHES_TOGETHER) + len(BATCHES_APART)


def peak_gflops() -> float:
    """Median GFLOP/s of fp32 matrix products on all cores, by numpy's BLAS."""
    matrix = np.random.default_rng(0).random((MATRIX, MATRIX), np.float32)
    times = []
    for _ in range(PRODUCTS + 1):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / median(times[1:]) / 1e9


def strategies(file: Path, cores: int) -> dict[str, Run]:
    """Ways to run the graph in one process, by name.

    Args:
        file: the ONNX file.
        cores: of this machine.
    """
    together = OnnxModel(file)
    apart = [OnnxModel(file, threads=cores // SIDE_BY_SIDE or 1) for _ in range(SIDE_BY_SIDE)]
    return {f"one session on all cores, batches of {size}": _batches([together], size) for size in BATCHES_TOGETHER} | {
        f"{SIDE_BY_SIDE} sessions side by side, batches of {size}": _batches(apart, size) for size in BATCHES_APART
    }


def _batches(models: Sequence[OnnxModel], size: int) -> Run:
    """Batches in the workload's order, each taken by the first of the models that is free."""

    def run(utterances: Sequence[Future[parity.Utterance]]) -> None:
        batches: SimpleQueue[Sequence[Future[parity.Utterance]] | None] = SimpleQueue()
        for start in range(0, len(utterances), size):
            batches.put(utterances[start : start + size])

        def work(model: OnnxModel) -> None:
            for batch in iter(batches.get, None):
                model([utterance.result() for utterance in batch])

        with ThreadPoolExecutor(len(models)) as executor:
            for _ in models:
                batches.put(None)  # to each its end
            list(executor.map(work, models))

    return run


def seconds(run: Run, utterances: Sequence[Utterance], pieces: WordPiece, graph_alone: bool = False) -> float:
    """How long a way takes for all of them, from their bytes to their probabilities.

    Args:
        run: the way.
        utterances: audio and text, which other threads read meanwhile, ahead of the batches.
        pieces: of the text encoder.
        graph_alone: leave out the time that reading takes, by doing it before.
    """
    with ThreadPoolExecutor(os.cpu_count()) as readers:
        start = time.perf_counter()
        read = [readers.submit(front_ends, each.audio, each.text, pieces) for each in utterances]
        if graph_alone:
            wait(read)
            start = time.perf_counter()
        run(read)
        return time.perf_counter() - start


def one_at_a_time_ms(file: Path, utterance: Utterance, tokenizer: Path, repeats: int = 30) -> float:
    """Median milliseconds of one utterance from its bytes to its probabilities, without a server."""
    model, pieces = OnnxModel(file), WordPiece(tokenizer)
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        model([front_ends(utterance.audio, utterance.text, pieces)])
        times.append(1e3 * (time.perf_counter() - start))
    return median(times[3:])
