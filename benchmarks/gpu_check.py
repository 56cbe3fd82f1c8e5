"""`python -m benchmarks gpu-check`: what a GPU gives, beside the CPU of the same machine, in under 8 minutes.

The checkpoint is exported in fp32 and fp16. A server in an environment of its own (the extra `gpu`) runs the fp16 files
on the GPU, then one in this environment runs the fp32 files on the CPU. Each answers the parity gate's utterances, a
closed loop with several numbers of callers, and an open loop.
"""

import argparse
import io
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
import psutil
import soundfile
from emotion_client import EmotionClient, EmotionResult, Utterance
from numpy.typing import NDArray
from pydantic import TypeAdapter
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import load, machine, nvidia_smi, plots
from benchmarks.errors import BenchmarkError
from benchmarks.nvidia_smi import GpuSample, GpuSampler
from benchmarks.results import Latency, as_text, read_json, write_atomically
from benchmarks.sampling import Sampler, Server
from emotion import audio
from emotion import checkpoint as checkpoints
from emotion.checkpoint import Checkpoint
from emotion.text import WordPiece
from export import parity

ROOT = Path(__file__).parent.parent
DIRECTORY = ROOT / "build" / "gpu"  # the environment, the exported models and the results
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
CALLERS = (1, 8, 32, 128)  # of the closed loops
SECONDS = 15.0  # of each load
WARM_UP_SECONDS = 5.0  # of 32 callers before anything is measured: a GPU chooses its kernels at new shapes
WARM_UP_CALLERS = 32
OPEN_SHARE = 0.8  # of the best closed loop: the open loop's arrivals
EXIT_TIMEOUT_S = 60.0  # for a server that is told to stop
VIEWS = ("PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES")
_READY = re.compile(r"ready: gRPC (?P<grpc>\S+), HTTP (?P<http>\S+), metrics http://(?P<metrics>\S+)/metrics")


@dataclass(frozen=True)
class Parity:
    """The largest difference between a served answer and eager PyTorch in fp32, absolute, and where it is."""

    difference: float
    tolerance: float
    where: str

    @property
    def holds(self) -> bool:
        """Whether it is within the tolerance; NaN is not."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Point:
    """One load on one device.

    Attributes:
        load: such as "8 callers" or "open loop".
        offered: arrivals/s of an open loop; None for a closed one.
        throughput: answers/s.
        p50, p99: latency, ms.
        failures: requests without an answer.
        cpu_cores: cores that the server's processes used, mean.
        gpu_utilization: 0 to 1, mean over the load and the GPUs; None without a GPU, or where it is not known.
        gpu_memory_mib: most memory in use, all GPUs together; None likewise.
        triton_gpu_utilization: the same as Triton's metric nv_gpu_utilization has it; None where it has none.
    """

    load: str
    offered: float | None
    throughput: float
    p50: Latency
    p99: Latency
    failures: int
    cpu_cores: float
    gpu_utilization: float | None = None
    gpu_memory_mib: float | None = None
    triton_gpu_utilization: float | None = None


@dataclass(frozen=True)
class Device:
    """What one device did.

    Attributes:
        precision: of the files that were served.
        points: one for each load, in their order.
        samples: of nvidia-smi, from the first load to the last; empty without a GPU.
    """

    precision: str
    parity: Parity
    points: list[Point]
    samples: list[GpuSample] = field(default_factory=list)


@dataclass(frozen=True)
class Results:
    """One check.

    Attributes:
        started: UTC.
        minutes: that it took, the installation included.
        revision: of the code; None outside a git checkout.
        versions: package -> version, of this environment; "onnxruntime-gpu" of the GPU's.
        checkpoint: digest of the weights.
        gpus: names.
        devices: "GPU" and "CPU".
    """

    started: datetime
    minutes: float
    revision: str | None
    machine: machine.Machine
    versions: dict[str, str]
    checkpoint: str
    gpus: list[str]
    devices: dict[Literal["GPU", "CPU"], Device]
    format: Literal[1] = 1


_JSON = TypeAdapter(Results)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks gpu-check`."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="what to export and serve")
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="install from the wheels in DIR, without a network (default: PyPI)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure both devices, print the table, write JSON and a picture.

    Returns:
        0; 1 where an answer differs by more than the tolerance, or a request failed.
    """
    gpus = nvidia_smi.find_gpus()  # first: nothing is installed where there is none
    started, began = datetime.now(UTC), time.monotonic()
    console = Console(stderr=True)
    checkpoint = checkpoints.load(arguments.checkpoint)
    with console.status("installing onnxruntime-gpu and CUDA into build/gpu/venv"):
        python = install(DIRECTORY / "venv", arguments.wheels)
    repository = DIRECTORY / "repository"
    for precision in ("fp32", "fp16"):
        with console.status(f"exporting in {precision}"):
            export(arguments.checkpoint, repository, precision)
    tokenizer = repository / "preprocess" / "1" / "tokenizer.json"
    devices: dict[Literal["GPU", "CPU"], Device] = {}
    with console.status("measuring the GPU"), ServerProcess(python, repository, "gpu") as server, GpuSampler() as gpu:
        devices["GPU"] = measure(server, tokenizer, checkpoint, "fp16", gpu.samples)
    with console.status("measuring the CPU"), ServerProcess(Path(sys.executable), repository) as server:
        devices["CPU"] = measure(server, tokenizer, checkpoint, "fp32")
    results = Results(
        started=started,
        minutes=(time.monotonic() - began) / 60,
        revision=machine.revision(),
        machine=machine.describe(),
        versions=machine.versions() | {"onnxruntime-gpu": installed_version(python)},
        checkpoint=checkpoint.digest,
        gpus=gpus,
        devices=devices,
    )
    write(results, DIRECTORY)
    print(report(results))
    return 1 if complaints(results) else 0


# --- the environment and the models ---------------------------------------------------------------------------------


def install(directory: Path, wheels: Path | None) -> Path:
    """Make an environment with the extra `gpu`, or take the one that is there.

    Args:
        wheels: a directory of wheels to install from, without a network; None is the package index.

    Returns:
        Its Python.

    Raises:
        BenchmarkError: pip failed.
    """
    if wheels and not wheels.is_dir():
        raise BenchmarkError(
            f"there is no directory {wheels}; fill one with: python docker/requirements.py gpu > gpu.txt && "
            "pip download --constraint requirements/constraints.txt --requirement gpu.txt --dest DIR"
        )
    wanted = _output([sys.executable, "docker/requirements.py", "gpu"])
    python, installed = directory / "bin" / "python", directory / "installed.txt"  # the file: written last
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


def installed_version(python: Path) -> str:
    """The version of onnxruntime-gpu in an environment."""
    return _output([str(python), "-c", "from importlib.metadata import version; print(version('onnxruntime-gpu'))"])


def export(checkpoint: Path, repository: Path, precision: str) -> None:
    """Export a checkpoint into a model repository of the check's own.

    Raises:
        BenchmarkError: The export failed; its own message.
    """
    command = [sys.executable, "-m", "export", str(checkpoint), "--repository", str(repository)]
    _output([*command, "--precision", precision])


def _output(command: Sequence[str]) -> str:
    """What a command prints, run in the root of the repository; BenchmarkError with its last line where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise BenchmarkError(f"{' '.join(command[1:4])} failed: {said[-1].removeprefix('error: ')}")
    return done.stdout.strip()


class ServerProcess:
    """`python -m serving` of any environment, while the `with` block runs; has what `sampling.Server` asks for."""

    def __init__(self, python: Path, repository: Path, config: str | None = None) -> None:
        """
        Args:
            python: the environment's interpreter.
            config: the configuration to take from each model's configs/ directory; None is config.pbtxt.
        """
        self._command = [str(python), "-m", "serving", "--repository", str(repository.resolve())]
        self._command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        self._command += ["--config", config] if config else []
        self._key = secrets.token_urlsafe(32)
        self.grpc_url = self.http_url = self.metrics_url = ""
        self.pid = 0

    @property
    def admin_headers(self) -> dict[str, str]:
        """What to send over HTTP for statistics."""
        return {"admin-key": self._key}

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if name != "EMOSERVE_CONFIG"}
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=environment | {"EMOSERVE_ADMIN_KEY": self._key},
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self._process.stdout is not None
        ready = next(filter(None, map(_READY.match, self._process.stdout)), None)
        if ready is None:
            self._stop()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines() or ["it said nothing"]
            raise BenchmarkError(f"the server did not start: {lines[-1].removeprefix('error: ')}")
        self.grpc_url, self.http_url, self.metrics_url = ready["grpc"], ready["http"], ready["metrics"]
        children = psutil.Process(self._process.pid).children()
        self.pid = next(child.pid for child in children if child.name() == "tritonserver")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        self._errors.close()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


# --- the measurement ------------------------------------------------------------------------------------------------


class Served(Server, Protocol):
    """What is needed of a server to load it; a serving.Triton has it, too."""

    @property
    def grpc_url(self) -> str:
        """host:port of gRPC."""


def measure(
    server: Served,
    tokenizer: Path,
    checkpoint: Checkpoint,
    precision: str,
    samples: Sequence[GpuSample] = (),
    callers: Sequence[int] = CALLERS,
    seconds: float = SECONDS,
    utterances: int = parity.UTTERANCES,
) -> Device:
    """Hold a server's answers to the model, then load it.

    Args:
        tokenizer: tokenizer.json that the workload's texts are measured with.
        precision: of the files that are served; decides the tolerance.
        samples: of nvidia-smi; they grow while this runs.
        callers: of each closed loop.
        seconds: of each load.
        utterances: whose answers are held to the model.

    Raises:
        BenchmarkError: The server answered nothing.
    """
    parity_found = check_parity(server.grpc_url, checkpoint, parity.TOLERANCES[precision].eager, utterances)
    host = f"grpc://{server.grpc_url}"
    load.run(host, tokenizer, users=WARM_UP_CALLERS, seconds=min(WARM_UP_SECONDS, seconds))
    points, began = [], time.time()

    def point(name: str, users: int, rate: float | None = None) -> Point:
        start = time.time()
        with Sampler(server) as sampler:
            found = load.run(host, tokenizer, users=users, seconds=seconds, rate=rate)
        end = time.time()
        if found.start.size:  # without Locust's start and end, in which nobody calls
            start, end = float(found.start[0]), float((found.start + found.latency / 1e3).max())
        utilization, memory = nvidia_smi.between(samples, start, end)
        rows = sampler.result.timeline
        return Point(
            load=name,
            offered=rate,
            throughput=found.throughput,
            p50=found.percentile(50),
            p99=found.percentile(99),
            failures=sum(found.failures.values()),
            cpu_cores=_mean([row["cpu_cores"] for row in rows]) or 0.0,
            gpu_utilization=utilization,
            gpu_memory_mib=memory,
            triton_gpu_utilization=_mean([row["gpu_utilization"] for row in rows if "gpu_utilization" in row]),
        )

    points += [point(f"{users} caller{'s' if users > 1 else ''}", users) for users in callers]
    rate = OPEN_SHARE * max(one.throughput for one in points)
    if not rate:
        raise BenchmarkError(f"the server answered nothing in {seconds:g} s; look at its log")
    points.append(point("open loop", max(callers), rate))
    return Device(precision, parity_found, points, [sample for sample in samples if sample.time >= began])


def check_parity(url: str, checkpoint: Checkpoint, tolerance: float, count: int) -> Parity:
    """Compare what is served with eager PyTorch in fp32, on the utterances of the export's gate.

    Raises:
        BenchmarkError: The server gave no answer.
    """
    tokenizer = WordPiece(checkpoint.tokenizer, checkpoint.model.text_encoder.config.max_position_embeddings)
    asked = [(_wav(waveform) if len(waveform) else b"", sentence) for waveform, sentence in parity.mixed_speech(count)]
    with EmotionClient(url) as client:
        answers = client.analyze_many([Utterance(data or None, sentence or None) for data, sentence in asked])
    worst = Parity(0.0, tolerance, "nowhere")
    for (data, sentence), answer in zip(asked, answers, strict=True):
        if not isinstance(answer, EmotionResult):
            raise BenchmarkError(f"the parity gate's utterances were not answered: {answer}")
        utterance = parity.front_ends(data, sentence, tokenizer)
        expected = parity.eager(checkpoint, utterance)
        for view, probabilities in zip(
            VIEWS, (answer.probabilities, answer.audio_probabilities, answer.text_probabilities), strict=True
        ):
            found = list(probabilities.values()) if probabilities else [0.0] * expected[view].shape[1]
            difference = float(np.abs(np.array(found) - expected[view][0]).max())
            if not difference <= worst.difference:  # NaN is over any
                worst = Parity(difference, tolerance, f"{view} of {utterance}")
    return worst


def _wav(waveform: NDArray[np.float32]) -> bytes:
    """A WAV file of 32-bit floats: decoded, it is the waveform itself."""
    file = io.BytesIO()
    soundfile.write(file, waveform, audio.SAMPLE_RATE, "FLOAT", format="WAV")
    return file.getvalue()


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


# --- the results ----------------------------------------------------------------------------------------------------


def per_busy_second(point: Point, gpus: int) -> float | None:
    """Utterances for each second in which a GPU is busy; None where its utilisation is not known, or 0."""
    return point.throughput / (point.gpu_utilization * gpus) if point.gpu_utilization else None


def complaints(results: Results) -> list[str]:
    """What is wrong, a sentence each; empty where all holds."""
    found = []
    for name, device in results.devices.items():
        if not device.parity.holds:
            found.append(
                f"{name}: an answer differs from PyTorch's by {device.parity.difference:.2g} "
                f"(tolerance {device.parity.tolerance:g}), {device.parity.where}"
            )
        found += [
            f"{name}, {point.load}: {point.failures} requests failed" for point in device.points if point.failures
        ]
    return found


def report(results: Results) -> str:
    """The table and the verdict, as plain text."""
    gpu, cpu = results.devices["GPU"], results.devices["CPU"]
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("load", no_wrap=True)
    for heading in ("GPU /s", "p50 ms", "p99 ms", "use", "MiB", "/busy s", "CPU /s", "p50 ms", "p99 ms", "GPU/CPU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for here, there in zip(gpu.points, cpu.points, strict=True):
        table.add_row(
            here.load,
            f"{here.throughput:.1f}",
            f"{here.p50:.1f}",
            f"{here.p99:.1f}",
            "–" if here.gpu_utilization is None else f"{here.gpu_utilization:.0%}",
            "–" if here.gpu_memory_mib is None else f"{here.gpu_memory_mib:.0f}",
            "–" if (busy := per_busy_second(here, len(results.gpus))) is None else f"{busy:.1f}",
            f"{there.throughput:.1f}",
            f"{there.p50:.1f}",
            f"{there.p99:.1f}",
            f"{here.throughput / there.throughput:.1f}" if there.throughput else "–",
        )
    lines = [
        f"GPU: {', '.join(results.gpus)}, {gpu.precision}",
        f"CPU: {results.machine.cpu}, {results.machine.cores:g} cores, {cpu.precision}",
        as_text(table, width=140),
        f"largest difference from PyTorch: GPU {gpu.parity.difference:.1e} (tolerance {gpu.parity.tolerance:g}), "
        f"CPU {cpu.parity.difference:.1e} (tolerance {cpu.parity.tolerance:g})",
        *(complaints(results) or ["PASS: all requests were answered, within the tolerance"]),
    ]
    return "\n".join(lines)


def write(results: Results, directory: Path) -> None:
    """Write `gpu-check.json` and `gpu-check.png`."""
    write_atomically(directory / "gpu-check.json", _JSON.dump_json(results, indent=1).decode() + "\n")
    plots.save(plots.gpu_check(results), directory / "gpu-check.png")


def read(path: Path) -> Results:
    """Return the results in a `gpu-check.json`.

    Raises:
        BenchmarkError: There is no such file, or it is none of ours.
    """
    return read_json(_JSON, path, "make gpu-check")
