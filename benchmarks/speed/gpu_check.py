"""`python -m benchmarks gpu-check`: a GPU beside the CPU of the same machine, in under 8 minutes.

The checkpoint is exported in fp32 and fp16. A server in its own environment (the extra `gpu`) runs the fp16 files on
the GPU, then one in this environment runs the fp32 files on the CPU. Each answers the parity gate's utterances, closed
loops with several numbers of callers, and an open loop.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
from emotion_client import EmotionClient, EmotionResult, Utterance
from pydantic import TypeAdapter
from rich.console import Console

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.load import runner
from benchmarks.load.sampling import cpu_seconds
from benchmarks.load.workload import tokenizer_file
from benchmarks.processes import HOST, ROOT, http_ready, running
from benchmarks.speed import machine
from emotion import audio
from emotion import checkpoint as checkpoints
from emotion.checkpoint import Checkpoint
from emotion.text import WordPiece
from export import parity
from serving.triton import free_ports

DIRECTORY = ROOT / "build" / "gpu"  # the environment, the exported models and the results
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
CALLERS = (1, 8, 32, 128)  # of the closed loops
LOAD_S = 15.0
WARM_UP_S = 5.0  # of 32 callers: a GPU chooses its kernels at new shapes
OPEN_SHARE = 0.8  # arrivals of the open loop over the best closed loop's throughput
VIEWS = ("PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES")
_QUERY = ["--query-gpu=index,utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--loop-ms=500"]


@dataclass(frozen=True)
class Parity:
    """The largest absolute difference between a served probability and eager PyTorch in fp32, and where it is."""

    difference: float
    tolerance: float
    where: str


@dataclass(frozen=True)
class GpuUse:
    """The mean utilisation of the GPUs, and the largest memory of all together; None if unknown, as with MIG."""

    utilization: float | None = None  # 0 to 1, time in which a kernel ran
    memory_mib: float | None = None


@dataclass(frozen=True)
class Point:
    """One load on one device."""

    load: str  # such as "8 callers" or "open loop"
    throughput: float  # answers/s
    p50: float  # ms
    p99: float  # ms
    failures: int
    cpu_cores: float  # mean, of the server's processes
    gpu: GpuUse = GpuUse()


@dataclass(frozen=True)
class Device:
    """The answers of a device, which served files of one precision."""

    precision: str
    parity: Parity
    points: list[Point]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m benchmarks gpu-check`."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="what to export and serve")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install from the wheels in DIR (default: PyPI)")


def run(arguments: argparse.Namespace) -> int:
    """Measure both devices, print the table and write build/gpu/gpu-check.json.

    Returns:
        0; 1 if an answer differs by more than the tolerance, or a request failed.
    """
    gpus = find_gpus()  # first: without one, nothing is installed
    started = datetime.now(UTC)
    console = Console(stderr=True)
    checkpoint = checkpoints.load(arguments.checkpoint)
    with console.status("installing onnxruntime-gpu and CUDA into build/gpu/venv"):
        python = install(DIRECTORY / "venv", arguments.wheels)
    repository = DIRECTORY / "repository"
    for precision in ("fp32", "fp16"):
        with console.status(f"exporting in {precision}"):
            command = [sys.executable, "-m", "export", str(arguments.checkpoint), "--repository", str(repository)]
            _output([*command, "--precision", precision])
    tokenizer = tokenizer_file(repository)
    with console.status("measuring the GPU"), serve(python, repository, "gpu") as (url, pid):
        gpu = measure(url, pid, tokenizer, checkpoint, "fp16", has_gpu=True)
    with console.status("measuring the CPU"), serve(Path(sys.executable), repository) as (url, pid):
        cpu = measure(url, pid, tokenizer, checkpoint, "fp32")
    here = machine.describe()
    found: dict[str, Any] = {"started": started, "revision": machine.revision(), "machine": asdict(here)}
    found |= {"versions": machine.versions(), "checkpoint": checkpoint.digest, "gpus": gpus}
    found |= {"GPU": asdict(gpu), "CPU": asdict(cpu)}
    text = TypeAdapter(dict[str, Any]).dump_json(found, indent=1).decode()
    output.write_text(DIRECTORY / "gpu-check.json", f"{text}\n")
    print(f"GPU: {', '.join(gpus)}, {gpu.precision}\nCPU: {here.cpu}, {here.cores:g} cores, {cpu.precision}")
    print(table(gpu, cpu, len(gpus)))
    failed = violations(gpu, cpu)
    print("\n".join(failed or ["PASS: all requests were answered, within the tolerance"]))
    return int(bool(failed))


def find_gpus() -> list[str]:
    """Return the names of the GPUs that CUDA sees. Raises BenchmarkError if there is no driver, or no GPU."""
    if shutil.which("nvidia-smi") is None:
        raise BenchmarkError(
            "no NVIDIA GPU can be used here: nvidia-smi, which comes with NVIDIA's driver, is not on PATH; run this on "
            "a machine with a GPU and its driver"
        )
    command = ["nvidia-smi", "--query-gpu=name", *_visible(), "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not names:
        reason = " ".join((done.stdout + done.stderr).split()) or f"exit status {done.returncode}"
        raise BenchmarkError(f"nvidia-smi finds no GPU ({reason}); look at the driver, and at CUDA_VISIBLE_DEVICES")
    return names


def _visible() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [f"--id={visible}"] if visible else []


def gpu_use(lines: Sequence[str]) -> GpuUse:
    """Return the use of the GPUs from the lines of nvidia-smi; unknown values are in brackets."""
    utilization: list[float] = []
    memory: dict[str, float] = {}
    for row in (line.replace(" ", "").split(",") for line in lines):
        if len(row) == 3 and row[0].isdigit():
            utilization += [float(row[1]) / 100] if row[1].isdigit() else []
            memory |= {row[0]: max(memory.get(row[0], 0.0), float(row[2]))} if row[2].isdigit() else {}
    mean = sum(utilization) / len(utilization) if utilization else None
    return GpuUse(mean, sum(memory.values()) if memory else None)


def install(directory: Path, wheels: Path | None) -> Path:
    """Make an environment with the extra `gpu`, or take the existing one, and return its Python.

    Args:
        directory: of the environment.
        wheels: a directory of wheels to install from without a network; None for the package index.

    Raises:
        BenchmarkError: the installation failed.
    """
    if wheels and not wheels.is_dir():
        raise BenchmarkError(
            f"there is no directory {wheels}; fill one with: python docker/requirements.py gpu > gpu.txt && "
            "pip download --constraint requirements/constraints.txt --requirement gpu.txt --dest DIR"
        )
    wanted = _output([sys.executable, "docker/requirements.py", "gpu"])
    python, installed = directory / "bin" / "python", directory / "installed.txt"  # written last
    if installed.is_file() and installed.read_text() == wanted + CONSTRAINTS.read_text():
        return python
    _output([sys.executable, "-m", "venv", "--clear", str(directory)])
    requirements = directory / "requirements.txt"
    requirements.write_text(wanted)
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--constraint", str(CONSTRAINTS), "--requirement", str(requirements)]
    _output([*command, *(["--no-index", "--find-links", str(wheels)] if wheels else [])])
    installed.write_text(wanted + CONSTRAINTS.read_text())
    return python


def _output(command: Sequence[str]) -> str:
    """Return the output of a command; raises BenchmarkError with its last line if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise BenchmarkError(f"{' '.join(command[1:4])} failed: {lines[-1].removeprefix('error: ')}")
    return done.stdout.strip()


@contextmanager
def serve(python: Path, repository: Path, config: str | None = None) -> Iterator[tuple[str, int]]:
    """Run `python -m serving` in the environment of an interpreter; yield HOST:PORT of gRPC and Triton's process id.

    Raises:
        BenchmarkError: the server did not start.
    """
    ports = free_ports(HOST, {"http": 0, "grpc": 0, "metrics": 0})
    command = [str(python), "-m", "serving", "--repository", str(repository.resolve())]
    command += [part for name, port in ports.items() for part in (f"--{name}-port", str(port))]
    command += ["--config", config] if config else []
    environment = {name: value for name, value in os.environ.items() if name != "EMOSERVE_CONFIG"}
    with running(
        "the server", command, http_ready(f"http://{HOST}:{ports['http']}/v2/health/ready"), environment
    ) as it:
        children = psutil.Process(it.pid).children()
        yield f"{HOST}:{ports['grpc']}", next(child.pid for child in children if child.name() == "tritonserver")


def measure(
    url: str, pid: int, tokenizer: Path, checkpoint: Checkpoint, precision: str, has_gpu: bool = False
) -> Device:
    """Compare the answers of a server with the model's, then load it.

    Args:
        url: host:port of gRPC.
        pid: the process that leads the server's process group.
        tokenizer: tokenizer.json that the workload's texts are counted with.
        checkpoint: of the served files.
        precision: of the served files; decides the tolerance.
        has_gpu: whether to sample GPUs.

    Raises:
        BenchmarkError: the server answered nothing.
    """
    parity_found = check_parity(url, checkpoint, parity.TOLERANCES[precision].eager)
    host = f"grpc://{url}"
    runner.run(host, tokenizer, users=32, seconds=WARM_UP_S)

    def point(name: str, users: int, rate: float | None = None) -> Point:
        query = ["nvidia-smi", *_QUERY, *_visible()]
        sampler = subprocess.Popen(query, stdout=subprocess.PIPE, text=True) if has_gpu else None
        lines = []
        try:
            used, clock = sum(cpu_seconds(pid).values()), time.monotonic()
            load = runner.run(host, tokenizer, users=users, seconds=LOAD_S, rate=rate)
            cores = (sum(cpu_seconds(pid).values()) - used) / (time.monotonic() - clock)
        finally:
            if sampler:
                sampler.terminate()
                lines = sampler.communicate()[0].splitlines()
        latencies = load.percentile(50), load.percentile(99)
        return Point(name, load.throughput, *latencies, load.failures.total(), cores, gpu_use(lines))

    points = [point(f"{users} caller{'s' if users > 1 else ''}", users) for users in CALLERS]
    rate = OPEN_SHARE * max(one.throughput for one in points)
    if not rate:
        raise BenchmarkError(f"the server answered nothing in {LOAD_S:g} s; look at its log")
    return Device(precision, parity_found, [*points, point("open loop", max(CALLERS), rate)])


def check_parity(url: str, checkpoint: Checkpoint, tolerance: float) -> Parity:
    """Compare what is served with eager PyTorch in fp32, on the utterances of the export's parity gate.

    Raises:
        BenchmarkError: an utterance was not answered.
    """
    tokenizer = WordPiece(checkpoint.tokenizer)
    asked = []
    for waveform, sentence in parity.mixed_speech():
        file = io.BytesIO()
        soundfile.write(file, waveform, audio.SAMPLE_RATE, "FLOAT", format="WAV")  # decodes to the waveform itself
        asked.append((file.getvalue() if len(waveform) else b"", sentence))
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
            difference = f"{worst.difference:.2g} (tolerance {worst.tolerance:g}), {worst.where}"
            found.append(f"{name}: an answer differs from PyTorch's by {difference}")
        found += [f"{name}, {one.load}: {one.failures} requests failed" for one in device.points if one.failures]
    return found


def table(gpu: Device, cpu: Device, gpus: int) -> str:
    """Return both devices' loads side by side, and their largest differences from PyTorch."""
    rows = []
    for here, there in zip(gpu.points, cpu.points, strict=True):
        use, memory = here.gpu.utilization, here.gpu.memory_mib
        rates = [[f"{value:.1f}" for value in (one.throughput, one.p50, one.p99)] for one in (here, there)]
        used = ["–" if use is None else f"{use:.0%}", "–" if memory is None else f"{memory:.0f}"]
        busy = f"{here.throughput / (use * gpus):.1f}" if use else "–"
        ratio = f"{here.throughput / there.throughput:.1f}" if there.throughput else "–"
        rows.append([here.load, *rates[0], *used, busy, *rates[1], ratio])
    headings = ("load", "GPU /s", "p50 ms", "p99 ms", "use", "MiB", "/busy s", "CPU /s", "p50 ms", "p99 ms", "GPU/CPU")
    differences = (f"{one.parity.difference:.1e} (tolerance {one.parity.tolerance:g})" for one in (gpu, cpu))
    return "{}\nlargest difference from PyTorch: GPU {}, CPU {}".format(output.table(headings, rows), *differences)
