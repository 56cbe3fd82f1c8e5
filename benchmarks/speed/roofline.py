"""The machine's limits: the served ONNX files in one process with ideal batches, and the matrix-multiply peak."""

import json
import os
import time
import timeit
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Self

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.load.workload import Utterance, encode
from emotion import audio, decoding
from emotion.audio import PATCH_SHAPE
from emotion.model import AUDIO_EMBEDDING, TEXT_EMBEDDING, FusionHead, VGGish
from emotion.text import WordPiece
from export import parity, speech
from export.onnx_files import IR_VERSION, OPSET
from export.parity import OnnxModels, front_ends


@dataclass(frozen=True)
class Flops:
    """What the served models cost."""

    patch: int  # of `vggish`
    token: int  # of `bert`, everything that works on single tokens
    pair: int  # of `bert`'s attention, for each pair of tokens of an utterance
    text: int  # of the projection after `bert`'s mean, for each utterance
    head: int  # of `fusion`, for each utterance

    @classmethod
    def of(cls, checkpoint: Path) -> Self:
        """Return the costs of a checkpoint directory; VGGish is the same in all."""
        config = json.loads((checkpoint / "text_encoder" / "config.json").read_text())
        present = torch.empty(1, dtype=torch.bool, device="meta")
        sound, words = (torch.empty(1, width, device="meta") for width in (AUDIO_EMBEDDING, TEXT_EMBEDDING))
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        return cls(
            patch=_count(VGGish, (), [torch.empty(1, *PATCH_SHAPE, device="meta")]),
            token=layers * (2 * 4 * hidden * hidden + 2 * 2 * hidden * config["intermediate_size"]),
            pair=layers * 2 * 2 * hidden,
            text=2 * hidden * TEXT_EMBEDDING,
            head=_count(FusionHead, (hidden,), [sound, present, words, present]),
        )

    def needed(self, utterances: Sequence[Utterance]) -> int:
        """Return what the models need for all utterances, without padding."""
        patches, tokens = (sum(getattr(each, name) for each in utterances) for name in ("patches", "tokens"))
        pairs = sum(each.tokens**2 for each in utterances)
        per_utterance = len(utterances) * (self.text + self.head)
        return self.patch * patches + self.token * tokens + self.pair * pairs + per_utterance


def _count(module: type[nn.Module], arguments: Sequence[int], inputs: Sequence[Tensor]) -> int:
    """Return the FLOPs of a module for inputs without data."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module(*arguments)(*inputs)
    return int(counter.get_total_flops())


Model = Callable[[Sequence[parity.Utterance]], object]  # runs a batch
Run = Callable[[Sequence[Future[parity.Utterance]]], None]  # waits for each utterance of a batch

MATRIX = 2048  # rows and columns, large enough that a product is arithmetic alone
PRODUCTS = 10
BATCHES_ALL_CORES = (1, 4, 8, 16, 32)
SESSIONS, BATCHES_SIDE_BY_SIDE = 2, (4, 16)


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
    such as OPENBLAS_CORETYPE selects the kernel of another one.
    """
    matrix = np.random.default_rng(0).random((MATRIX, MATRIX), np.float32)
    session, tensor = _product_session(matrix), torch.from_numpy(matrix)
    return {
        "numpy": _gflops(lambda: matrix @ matrix),
        "onnxruntime": _gflops(lambda: session.run(None, {"A": matrix})),
        "torch": _gflops(lambda: tensor @ tensor),
    }


def _gflops(product: Callable[[], object]) -> float:
    return 2 * MATRIX**3 / median(timeit.repeat(product, number=1, repeat=PRODUCTS + 1)[1:]) / 1e9


def _product_session(matrix: NDArray[np.float32]) -> onnxruntime.InferenceSession:
    """Return a session that multiplies A with a constant matrix, as the models do with their weights."""
    size = f"float[{len(matrix)}, {len(matrix)}]"
    header = f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}]>'
    model = parser.parse_model(f"{header} product ({size} A) => ({size} C) {{ C = MatMul(A, B) }}")
    model.graph.initializer.append(numpy_helper.from_array(matrix, "B"))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in the served models
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def strategies(repository: Path, cores: int) -> dict[str, Run]:
    """Return ways to run the ONNX models of a repository in one process, by name."""
    several = [OnnxModels(repository, threads=cores // SESSIONS or 1) for _ in range(SESSIONS)]
    names = {f"{SESSIONS} batches side by side, of {size}": size for size in BATCHES_SIDE_BY_SIDE}
    return one_by_one(OnnxModels(repository)) | {name: _batches(several, size) for name, size in names.items()}


def one_by_one(model: Model) -> dict[str, Run]:
    """Return ways to run one batch at a time, by name."""
    return {f"all cores for each batch, batches of {size}": _batches([model], size) for size in BATCHES_ALL_CORES}


def _batches(models: Sequence[Model], size: int) -> Run:
    """Return a way that runs batches in the workload's order; each is taken by the first model that is free."""

    def run(utterances: Sequence[Future[parity.Utterance]]) -> None:
        batches: SimpleQueue[Sequence[Future[parity.Utterance]] | None] = SimpleQueue()
        for start in range(0, len(utterances), size):
            batches.put(utterances[start : start + size])

        def work(model: Model) -> None:
            for batch in iter(batches.get, None):
                model([utterance.result() for utterance in batch])

        with ThreadPoolExecutor(len(models)) as executor:
            for _ in models:
                batches.put(None)  # ends one of them
            list(executor.map(work, models))

    return run


def cost(run: Run, utterances: Sequence[Utterance], pieces: WordPiece) -> Cost:
    """Return the cost to run all utterances in one way, from their bytes, which other threads decode ahead."""
    # one BLAS thread, as in the stage `preprocess`: more threads would spin between the front-end's small products
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as readers:
        start = time.perf_counter(), time.process_time()
        run([readers.submit(front_ends, each.audio, each.text, pieces) for each in utterances])
        return Cost(time.perf_counter() - start[0], time.process_time() - start[1])


def one_at_a_time_ms(repository: Path, utterance: Utterance, tokenizer: Path, repeats: int = 30) -> float:
    """Return the median ms of one utterance from its bytes to its probabilities, without a server."""
    model, pieces = OnnxModels(repository), WordPiece(tokenizer)
    times = timeit.repeat(
        lambda: model([front_ends(utterance.audio, utterance.text, pieces)]), number=1, repeat=repeats + 3
    )
    return 1e3 * median(times[3:])


def frontend_ms(repeats: int = 100) -> float:
    """Return the median ms of the audio front-end for 3 s of WAV at 44.1 kHz, on one thread as in `preprocess`."""
    data = encode(np.resize(speech.waveform(), 3 * 44_100), 44_100)  # what is said does not change the work
    with threadpool_limits(limits=1):
        times = timeit.repeat(lambda: audio.sound_patches(decoding.decode(data)), number=1, repeat=repeats)
    return 1e3 * median(times)
