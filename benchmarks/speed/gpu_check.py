"""`python -m benchmarks gpu-check`: a GPU beside the CPU of the same machine, in under 8 minutes.

The checkpoint is exported in fp32 and fp16. A server in its own environment (the extra `gpu`) runs the fp16 files on
the GPU, then one in this environment runs the fp32 files on the CPU. Each answers the parity gate's utterances, closed
loops with several numbers of callers, and an open loop.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from emotion_client import EmotionClient, EmotionResult, Utterance

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.load import runner
from benchmarks.load.sampling import cpu_seconds
from benchmarks.load.workload import encode, tokenizer_file
from benchmarks.processes import HOST, ROOT, http_ready, running
from benchmarks.speed import machine
from benchmarks.speed.peers.service import VIEWS
from emotion import checkpoint as checkpoints
from emotion.checkpoint import Checkpoint
from emotion.text import WordPiece
from export import parity
from serving.triton import free_ports

DIRECTORY = ROOT / "build" / "gpu"  # the environment and the exported models
CALLERS = (1, 8, 32, 128)  # of the closed loops
LOAD_S = 15.0
WARM_UP_S = 5.0  # of 32 callers: a GPU chooses its kernels at new shapes
OPEN_SHARE = 0.8  # arrivals of the open loop over the best closed loop's throughput


@dataclass(frozen=True)
class Parity:
    """The largest absolute difference between a served probability and eager PyTorch in fp32, and where it is."""

    difference: float
    tolerance: float
    where: str


@dataclass(frozen=True)
class Point:
    """One load on one device."""

    load: str  # such as "8 callers" or "open loop"
    throughput: float  # answers/s
    p50: float  # ms
    p99: float  # ms
    failures: int
    cpu_cores: float  # mean, of the server's processes


@dataclass(frozen=True)
class Device:
    """The answers of a device, which served files of one precision."""

    precision: str
    parity: Parity
    points: list[Point]


def run(arguments: argparse.Namespace) -> int:
    """Measure both devices and print the table; return 1 if an answer or a request failed, else 0."""
    gpus = find_gpus()
    checkpoint = checkpoints.load(arguments.checkpoint)
    python = DIRECTORY / "venv" / "bin" / "python"
    if not python.is_file():
        raise BenchmarkError(f"there is no environment for the GPU in {python.parent.parent}; run: make gpu-check")
    repository = DIRECTORY / "repository"
    for precision in ("fp32", "fp16"):
        command = [sys.executable, "-m", "export", str(arguments.checkpoint), "--repository", str(repository)]
        with output.console.status(f"exporting in {precision}"):
            if subprocess.call([*command, "--precision", precision], cwd=ROOT, stdout=subprocess.DEVNULL):
                raise BenchmarkError(f"the export in {precision} failed; its message is above")
    tokenizer = tokenizer_file(repository)
    with output.console.status("measuring the GPU"), serve(python, repository, "gpu") as (url, pid):
        gpu = measure(url, pid, tokenizer, checkpoint, "fp16")
    with output.console.status("measuring the CPU"), serve(Path(sys.executable), repository) as (url, pid):
        cpu = measure(url, pid, tokenizer, checkpoint, "fp32")
    here = machine.describe()
    print(f"GPU: {', '.join(gpus)}, {gpu.precision}\nCPU: {here.cpu}, {here.cores:g} cores, {cpu.precision}")
    print(table(gpu, cpu))
    return output.verdict(violations(gpu, cpu), "all requests were answered, within the tolerance")


def find_gpus() -> list[str]:
    """Return the names of the GPUs that CUDA sees. Raises BenchmarkError if there is no driver, or no GPU."""
    if shutil.which("nvidia-smi") is None:
        raise BenchmarkError("no NVIDIA GPU can be used here: nvidia-smi, which comes with the driver, is not on PATH")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=name", *([f"--id={visible}"] if visible else []), "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = done.stdout.strip().splitlines()
    if done.returncode or not names:
        reason = " ".join((done.stdout + done.stderr).split()) or f"exit status {done.returncode}"
        raise BenchmarkError(f"nvidia-smi finds no GPU ({reason}); look at the driver, and at CUDA_VISIBLE_DEVICES")
    return names


@contextmanager
def serve(python: Path, repository: Path, config: str = "default") -> Iterator[tuple[str, int]]:
    """Run `python -m serving` in the environment of an interpreter; yield HOST:PORT of gRPC and Triton's process id.

    Raises BenchmarkError if the server does not start.
    """
    ports = free_ports(HOST, {"http": 0, "grpc": 0, "metrics": 0})
    command = [str(python), "-m", "serving", "--repository", str(repository.resolve()), "--config", config]
    command += [f"--{name}-port={port}" for name, port in ports.items()]
    with running("the server", command, http_ready(f"http://{HOST}:{ports['http']}/v2/health/ready")) as it:
        children = psutil.Process(it.pid).children()
        yield f"{HOST}:{ports['grpc']}", next(child.pid for child in children if child.name() == "tritonserver")


def measure(url: str, pid: int, tokenizer: Path, checkpoint: Checkpoint, precision: str) -> Device:
    """Compare the answers of a server at host:port with those of the served checkpoint, then load it.

    `pid` leads the server's process group; the precision decides the tolerance. Raises BenchmarkError if the server
    answers nothing.
    """
    worst = check_parity(url, checkpoint, parity.TOLERANCES[precision].eager)
    host = f"grpc://{url}"
    runner.run(host, tokenizer, users=32, seconds=WARM_UP_S)

    def point(name: str, users: int, rate: float | None = None) -> Point:
        used, clock = sum(cpu_seconds(pid).values()), time.monotonic()
        load = runner.run(host, tokenizer, users=users, seconds=LOAD_S, rate=rate)
        cores = (sum(cpu_seconds(pid).values()) - used) / (time.monotonic() - clock)
        return Point(name, load.throughput, load.percentile(50), load.percentile(99), load.failures.total(), cores)

    points = [point(f"{users} caller{'s' if users > 1 else ''}", users) for users in CALLERS]
    rate = OPEN_SHARE * max(one.throughput for one in points)
    if not rate:
        raise BenchmarkError(f"the server answered nothing in {LOAD_S:g} s; look at its log")
    return Device(precision, worst, [*points, point("open loop", max(CALLERS), rate)])


def check_parity(url: str, checkpoint: Checkpoint, tolerance: float) -> Parity:
    """Compare what is served with eager PyTorch in fp32, on the utterances of the export's parity gate.

    Raises BenchmarkError if an utterance is not answered.
    """
    tokenizer = WordPiece(checkpoint.tokenizer)
    asked = [
        (encode(waveform, subtype="FLOAT") if len(waveform) else b"", sentence)
        for waveform, sentence in parity.mixed_speech()
    ]
    with EmotionClient(url) as client:
        answers = client.analyze_many([Utterance(data or None, sentence or None) for data, sentence in asked])
    worst = Parity(0.0, tolerance, "nowhere")
    for (data, sentence), answer in zip(asked, answers, strict=True):
        if not isinstance(answer, EmotionResult):
            raise BenchmarkError(f"the parity gate's utterances were not answered: {answer}")
        utterance = parity.front_ends(data, sentence, tokenizer)
        expected = parity.eager(checkpoint, utterance)
        views = (answer.probabilities, answer.audio_probabilities, answer.text_probabilities)
        for name, view in zip(VIEWS, views, strict=True):
            served = list(view.values()) if view else [0.0] * expected[name].shape[1]
            difference = float(np.abs(np.array(served) - expected[name][0]).max())
            if not difference <= worst.difference:  # NaN is above any
                worst = Parity(difference, tolerance, f"{name} of {utterance}")
    return worst


def violations(gpu: Device, cpu: Device) -> list[str]:
    """Return one sentence for each answer above the tolerance and each load with failed requests."""
    found = []
    for name, device in (("GPU", gpu), ("CPU", cpu)):
        worst = device.parity
        if not worst.difference <= worst.tolerance:
            what = f"{worst.difference:.2g} (tolerance {worst.tolerance:g}), {worst.where}"
            found.append(f"{name}: an answer differs from PyTorch's by {what}")
        found += [f"{name}, {one.load}: {one.failures} requests failed" for one in device.points if one.failures]
    return found


def table(gpu: Device, cpu: Device) -> str:
    """Return both devices' loads side by side, and their largest differences from PyTorch."""
    rows = []
    for pair in zip(gpu.points, cpu.points, strict=True):
        values = [f"{value:.1f}" for one in pair for value in (one.throughput, one.p50, one.p99, one.cpu_cores)]
        here, there = pair
        ratio = f"{here.throughput / there.throughput:.1f}" if there.throughput else "–"
        rows.append([here.load, *values, ratio])
    columns = ("/s", "p50 ms", "p99 ms", "cores")
    headings = ["load", *(f"{name} {column}" for name in ("GPU", "CPU") for column in columns), "GPU/CPU"]
    differences = (f"{one.parity.difference:.1e} (tolerance {one.parity.tolerance:g})" for one in (gpu, cpu))
    return "{}\nlargest difference from PyTorch: GPU {}, CPU {}".format(output.table(headings, rows), *differences)
