"""Test the strategies to run the models in one process, and the machine's peak."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.load import workload
from benchmarks.speed import roofline
from benchmarks.speed.roofline import Cost
from emotion.errors import InputError
from emotion.text import WordPiece
from export import parity
from tests.conftest import ROOT

COUNT = 11


class Recorder:
    """Stub of a model that records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, utterances: Sequence[parity.Utterance]) -> None:
        self.batches.append([str(utterance) for utterance in utterances])


@pytest.fixture
def tokenizer(repository: Path) -> Path:
    """Return the path of the tokenizer in the demo's repository."""
    return repository / "preprocess" / "1" / "tokenizer.json"


@pytest.mark.parametrize("models", [1, 2])
def test_cost_runs_every_utterance_once_in_ordered_batches(tokenizer: Path, models: int) -> None:
    utterances, pieces = workload.mixed(COUNT, tokenizer), WordPiece(tokenizer)
    recorders = [Recorder() for _ in range(models)]
    way = roofline._batches(recorders, 4)
    assert roofline.cost(way, utterances, pieces).seconds > 0
    expected = [str(parity.front_ends(each.audio, each.text, pieces)) for each in utterances]
    batches = [batch for recorder in recorders for batch in recorder.batches]
    assert sorted(batches) == sorted(expected[start : start + 4] for start in range(0, COUNT, 4))


def test_cost_with_unreadable_audio_raises(tokenizer: Path) -> None:
    broken = workload.Utterance(audio=b"not audio", text="", seconds=1.0, tokens=0, patches=1)
    way = roofline._batches([Recorder(), Recorder()], 1)
    with pytest.raises(InputError):
        roofline.cost(way, [broken, *workload.mixed(3, tokenizer)], WordPiece(tokenizer))


def test_strategies_run_the_served_files(repository: Path, tokenizer: Path) -> None:
    ways = roofline.strategies(repository, cores=2)
    assert len(ways) == len(roofline.BATCHES_ALL_CORES) + len(roofline.BATCHES_SIDE_BY_SIDE)
    for way in ways.values():
        taken = roofline.cost(way, workload.mixed(4, tokenizer), WordPiece(tokenizer))
        assert taken.seconds > 0 and taken.cpu_seconds > 0


def test_cost_counts_the_cpu_time_of_all_threads_without_waiting(tokenizer: Path) -> None:
    def work(_: object) -> None:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda _: spin(0.3), range(2)))
        time.sleep(0.5)

    def spin(seconds: float) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    taken = roofline.cost(work, [], WordPiece(tokenizer))
    assert 0.6 <= taken.cpu_seconds < 0.8
    assert taken.seconds >= 0.8
    assert taken + taken == Cost(2 * taken.seconds, 2 * taken.cpu_seconds)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names a kernel for x86-64")
def test_peak_gflops_with_a_slow_blas_kernel_measures_a_faster_library() -> None:
    """With OpenBLAS's kernel for an old CPU, numpy is slow, but ONNX Runtime is not."""
    code = "import json; from benchmarks.speed import machine, roofline; roofline.PRODUCTS = 1; "
    code += "print(json.dumps([roofline.peak_gflops(), machine.versions()]))"
    environment = os.environ | {"OPENBLAS_CORETYPE": "PRESCOTT"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    peaks, versions = json.loads(done.stdout)
    assert max(peaks["onnxruntime"], peaks["torch"]) > 1.5 * peaks["numpy"]
    assert (versions["OPENBLAS_CORETYPE"], versions["numpy kernels"]) == ("PRESCOTT", "Prescott")
