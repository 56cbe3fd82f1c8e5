"""What the machine allows: the served ONNX file in this process, batched ideally, and its matrix-multiply peak."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.workload import Utterance
from emotion.text import WordPiece
from export import parity
from export.parity import OnnxModel, front_ends

Run = Callable[[Sequence[parity.Utterance]], None]

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
    """Batches in the workload's order, over models side by side."""

    def run(utterances: Sequence[parity.Utterance]) -> None:
        batches = [utterances[start : start + size] for start in range(0, len(utterances), size)]
        with ThreadPoolExecutor(len(models)) as executor:
            shares = [batches[number :: len(models)] for number in range(len(models))]
            list(executor.map(lambda model, share: [model(batch) for batch in share], models, shares))

    return run


def seconds(run: Run, utterances: Sequence[parity.Utterance]) -> float:
    """How long a way takes for all of them."""
    start = time.perf_counter()
    run(utterances)
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
