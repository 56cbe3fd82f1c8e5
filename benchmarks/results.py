"""What a benchmark run found: its JSON, and the summary that is computed from it."""

import io
import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import BeforeValidator, TypeAdapter, ValidationError
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.errors import BenchmarkError
from benchmarks.machine import Machine

T = TypeVar("T")

# ms of a request; NaN (null in JSON) where none was answered
Latency = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


@dataclass(frozen=True)
class OnnxFile:
    """An exported file: its size in bytes, and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """What was served.

    Attributes:
        digest: of the checkpoint's weights.
        text_encoder: in words.
        vggish_parameters: their number.
        files: the ONNX files, by their paths in the model repository.
    """

    digest: str
    text_encoder: str
    vggish_parameters: int
    files: dict[str, OnnxFile]


@dataclass(frozen=True)
class System:
    """One system under the run's load, an entry for each alternation.

    The i-th alternations of all systems ran one after the other, under the same conditions. A system that ran fewer
    of them ran in the first ones.

    Attributes:
        title: for people.
        throughput: utterances/s.
        p50, p95, p99: latency, ms; empty where one utterance has none (the roofline works on whole batches).
        failures: requests without an answer, over all alternations.
        cpu_ms: CPU time of the system's processes for each answered utterance, ms; the load generator's is not in it.
    """

    title: str
    throughput: list[float]
    p50: list[Latency] = field(default_factory=list)
    p95: list[Latency] = field(default_factory=list)
    p99: list[Latency] = field(default_factory=list)
    failures: int = 0
    cpu_ms: list[Latency] = field(default_factory=list)


@dataclass(frozen=True)
class Strategy:
    """One way of running the models in one process; throughput in utterances/s."""

    name: str
    throughput: float


@dataclass(frozen=True)
class Roofline:
    """What the machine allows.

    Attributes:
        peak_gflops: of an fp32 matrix product on all cores, GFLOP/s, an entry for each alternation: numpy's or ONNX
            Runtime's, whichever is more.
        strategies: those that were tried; `systems["roofline"]` holds the best one's alternations.
        needed_gflop_per_utterance: for the mean utterance of the workload, without any padding.
        spent_gflop_per_utterance: with what is computed beyond that.
    """

    peak_gflops: list[float]
    strategies: list[Strategy]
    needed_gflop_per_utterance: float
    spent_gflop_per_utterance: float


@dataclass(frozen=True)
class Stage:
    """Means over the requests of one model: ms in its queue, ms computing (input and output with it), rows a batch."""

    queue_ms: float
    compute_ms: float
    mean_batch: float


@dataclass(frozen=True)
class ServedModel:
    """One of the ONNX models in the main run.

    Attributes:
        needed_gflop: for the mean utterance of the workload, without any padding.
        spent_gflop: computed for it, in batches of the mean size.
        mean_batch: rows in an execution.
        compute_share: of the time for which the ONNX models executed batches, summed over all of them.
    """

    needed_gflop: float
    spent_gflop: float
    mean_batch: float
    compute_share: float


@dataclass(frozen=True)
class SweepPoint:
    """A closed loop of `users` callers: answers/s, latency percentiles in ms, requests without an answer, stages."""

    users: int
    throughput: float
    p50: Latency
    p95: Latency
    p99: Latency
    failures: int = 0
    stages: dict[str, Stage] = field(default_factory=dict)


@dataclass(frozen=True)
class LatencyOne:
    """Medians, ms, of 3 s of audio and 15 tokens, one at a time: the models in one process, and served."""

    in_process_ms: float
    served_ms: float


@dataclass(frozen=True)
class GrowthPoint:
    """Milliseconds for one utterance of so many tokens, or seconds of audio."""

    x: float
    ms: float


@dataclass(frozen=True)
class Fit:
    """A straight line through the points up to `up_to`: ms per unit, ms at zero, share of variance explained."""

    slope: float
    intercept: float
    r2: float
    up_to: float


@dataclass(frozen=True)
class Growth:
    """How the time of one utterance grows with its length."""

    points: list[GrowthPoint]
    fit: Fit


@dataclass(frozen=True)
class FrontEnd:
    """What preprocessing takes.

    Attributes:
        ms_3s: ms of the audio front-end (decoding, resampling and log-mel) for a clip of 3 s.
        share_of_cpu: of the stage `preprocess`, of all CPU time under load.
    """

    ms_3s: float
    share_of_cpu: float


@dataclass(frozen=True)
class Moment:
    """One sample of the server under load; GPU figures are None without one."""

    seconds: float
    cpu_cores: float
    rss_mib: float
    requests_per_s: float
    queued: float
    gpu_utilization: float | None = None
    gpu_memory_mib: float | None = None


@dataclass(frozen=True)
class Server:
    """The server's side of the run.

    Attributes:
        batch_sizes: model -> rows a batch -> executions.
        stages: by model.
        timeline: ascending in seconds.
        cpu_seconds: by process.
    """

    batch_sizes: dict[str, dict[int, int]]
    stages: dict[str, Stage]
    timeline: list[Moment]
    cpu_seconds: dict[str, float]


@dataclass(frozen=True)
class Crowd:
    """The most callers, in turns with as many as the server answers the most utterances of.

    Attributes:
        best_users: callers that the sweep found best; the best of a noisy row flatters, so they are measured again.
        best, most: answers/s with them, and with the most, of each turn.
    """

    best_users: int
    best: list[float]
    most: list[float]


@dataclass(frozen=True)
class Overload:
    """More arrivals than the server can answer, in an open loop.

    Attributes:
        offered: arrivals/s.
        answered_per_s: answers/s.
        refused: requests refused with UNAVAILABLE.
        refusal_p99_ms: how fast.
        accepted_p99_ms: latency of those answered.
        max_wait_ms: what a full queue costs: the longest that an accepted request should take; None where unknown.
    """

    offered: float
    answered_per_s: float
    refused: int
    refusal_p99_ms: Latency
    accepted_p99_ms: Latency
    max_wait_ms: float | None = None


@dataclass(frozen=True)
class Results:
    """One benchmark run. What was not run is None, or empty.

    Attributes:
        started: UTC.
        minutes: that the run took.
        quick: a short run, whose figures are rougher.
        command: that repeats it, such as "make bench".
        revision: of the code; None outside a git checkout.
        versions: package -> version.
        settings: of the run; "users" are the callers in each alternation.
        workload: from `workload.describe`.
        systems: "served" (fp32), "served_int8", "roofline", "graph" (the roofline's models alone, audio and text
            read before), and the peers, by name.
        models: the ONNX models, fp32, in the order of a request.
        sweep, sweep_int8: ascending in users.
        tokens, seconds: growth with either.
        latencies: system -> (percentile, ms), ascending.
        summary: from `summarise`.
    """

    started: datetime
    minutes: float
    quick: bool
    command: str
    revision: str | None
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, str | int | float | bool | None]
    checkpoint: Checkpoint
    workload: dict[str, float]
    systems: dict[str, System]
    roofline: Roofline | None = None
    models: dict[str, ServedModel] = field(default_factory=dict)
    sweep: list[SweepPoint] = field(default_factory=list)
    sweep_int8: list[SweepPoint] = field(default_factory=list)
    latency_one: LatencyOne | None = None
    tokens: Growth | None = None
    seconds: Growth | None = None
    frontend: FrontEnd | None = None
    latencies: dict[str, list[tuple[float, Latency]]] = field(default_factory=dict)
    server: Server | None = None
    crowd: Crowd | None = None
    overload: Overload | None = None
    summary: dict[str, float | None] = field(default_factory=dict)
    format: Literal[2] = 2


@dataclass(frozen=True)
class Goal:
    """What a figure should reach; `bound` is allowed."""

    sense: Literal["≥", "≤"]
    bound: float

    def holds(self, value: float) -> bool:
        """Whether a figure reaches it."""
        return value >= self.bound if self.sense == "≥" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sense} {self.bound:.4g}"


# every figure of the summary, in its order, and what it says
TITLES = {
    "served_over_roofline": "Throughput served over the best in one process, by wall clock",
    "served_over_roofline_cpu": "The same by CPU seconds",
    "served_over_graph": "Throughput served over its models alone, input read before",
    "achieved_over_peak_flops": "FLOP/s needed by what is served over the machine's peak",
    "vs_fastapi_pytorch": "Throughput over FastAPI + PyTorch",
    "p99_vs_fastapi_pytorch": "p99 over that of FastAPI + PyTorch",
    "int8_vs_fastapi_pytorch": "Throughput in int8 over FastAPI + PyTorch",
    "int8_p99_vs_fastapi_pytorch": "p99 in int8 over that of FastAPI + PyTorch",
    "vs_fastapi_onnxruntime": "Throughput over FastAPI + ONNX Runtime",
    "vs_litserve_onnxruntime": "Throughput over LitServe + ONNX Runtime",
    "vs_padded_ensemble": "Throughput over a padded Triton ensemble",
    "int8_over_fp32": "Throughput in int8 over fp32",
    "flops_spent_over_needed": "FLOPs spent over needed",
    "frontend_ms_3s": "Audio front-end for 3 s, ms",
    "frontend_share_of_cpu": "Preprocessing's share of CPU time under load",
    "latency_one_ms": "Latency of one caller, 3 s and 15 tokens, ms",
    "latency_one_over_in_process": "The same over the time in one process",
    "throughput_256_over_best": "Throughput with 256 callers over the best",
    "overload_refusal_p99_ms": "p99 until a refusal under overload, ms",
}
WHY_CPU_SECONDS = (
    "The load generator runs on the server's cores, so the wall clock counts its work against the server; "
    "CPU seconds count the server's processes alone."
)
GOALS = {
    "served_over_roofline": Goal("≥", 0.95),
    "achieved_over_peak_flops": Goal("≥", 0.85),
    "vs_fastapi_pytorch": Goal("≥", 3.5),
    "p99_vs_fastapi_pytorch": Goal("≤", 1),
    "int8_vs_fastapi_pytorch": Goal("≥", 6),
    "int8_p99_vs_fastapi_pytorch": Goal("≤", 1),
    "vs_litserve_onnxruntime": Goal("≥", 1.3),
    "vs_padded_ensemble": Goal("≥", 1.8),
    "int8_over_fp32": Goal("≥", 1.5),
    "flops_spent_over_needed": Goal("≤", 1.05),
    "frontend_ms_3s": Goal("≤", 2),
    "frontend_share_of_cpu": Goal("≤", 0.04),
    "throughput_256_over_best": Goal("≥", 0.95),
    "overload_refusal_p99_ms": Goal("≤", 50),
}
_JSON = TypeAdapter(Results)


def goals(results: Results) -> dict[str, Goal]:
    """By the figure's name. One caller's latency is held to 1.15 x the time in one process + 4 ms."""
    if results.latency_one is None:
        return GOALS
    return GOALS | {"latency_one_ms": Goal("≤", 1.15 * results.latency_one.in_process_ms + 4)}


def alternations(results: Results) -> dict[str, list[float]]:
    """The figures of the summary that were taken once an alternation: name -> one ratio for each; empty: not run.

    Both sides of a ratio are from the same alternation, so that what slows the whole machine cancels out.
    """
    systems = results.systems

    def ratio(over: str, under: str, key: Literal["throughput", "p99", "cpu_ms"] = "throughput") -> list[float]:
        if over not in systems or under not in systems:
            return []
        return ratios(getattr(systems[over], key), getattr(systems[under], key))

    found = {
        "served_over_roofline": ratio("served", "roofline"),
        "served_over_roofline_cpu": ratio("roofline", "served", "cpu_ms"),  # utterances a CPU second, so upside down
        "served_over_graph": ratio("served", "graph"),
        "achieved_over_peak_flops": [],
        "vs_fastapi_pytorch": ratio("served", "fastapi_pytorch"),
        "p99_vs_fastapi_pytorch": ratio("served", "fastapi_pytorch", "p99"),
        "int8_vs_fastapi_pytorch": ratio("served_int8", "fastapi_pytorch"),
        "int8_p99_vs_fastapi_pytorch": ratio("served_int8", "fastapi_pytorch", "p99"),
        "vs_fastapi_onnxruntime": ratio("served", "fastapi_onnxruntime"),
        "vs_litserve_onnxruntime": ratio("served", "litserve_onnxruntime"),
        "vs_padded_ensemble": ratio("served", "padded_triton"),
        "int8_over_fp32": ratio("served_int8", "served"),
    }
    if results.roofline and "served" in systems:
        needed = [rate * results.roofline.needed_gflop_per_utterance for rate in systems["served"].throughput]
        found["achieved_over_peak_flops"] = ratios(needed, results.roofline.peak_gflops)
    if results.crowd:
        found["throughput_256_over_best"] = ratios(results.crowd.most, results.crowd.best)
    return found


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """One to one, for the alternations that both have; an alternation in which either answered nothing has none."""
    pairs = zip(over, under, strict=False)
    return [upper / lower for upper, lower in pairs if lower > 0 and math.isfinite(upper)]


def summarise(results: Results) -> dict[str, float | None]:
    """Every figure of `TITLES`; None for what was not run. Figures of alternations are their medians."""
    figures: dict[str, float | None] = dict.fromkeys(TITLES)
    figures |= {name: median(values) for name, values in alternations(results).items() if values}
    if results.roofline and results.roofline.needed_gflop_per_utterance:
        figures["flops_spent_over_needed"] = (
            results.roofline.spent_gflop_per_utterance / results.roofline.needed_gflop_per_utterance
        )
    if results.frontend:
        figures["frontend_ms_3s"] = results.frontend.ms_3s
        figures["frontend_share_of_cpu"] = results.frontend.share_of_cpu
    if results.latency_one:
        figures["latency_one_ms"] = results.latency_one.served_ms
        figures["latency_one_over_in_process"] = results.latency_one.served_ms / results.latency_one.in_process_ms
    if results.overload and results.overload.refused:
        figures["overload_refusal_p99_ms"] = results.overload.refusal_p99_ms
    return figures


def growth(points: Sequence[GrowthPoint], up_to: float) -> Growth:
    """Points with their straight line, by least squares over those up to `up_to`: at least two.

    Raises:
        BenchmarkError: fewer than two points to fit.
    """
    chosen = [point for point in points if point.x <= up_to]
    if len({point.x for point in chosen}) < 2:
        raise BenchmarkError(f"a line needs two lengths up to {up_to:g}; measure more")
    x, ms = np.array([point.x for point in chosen]), np.array([point.ms for point in chosen])
    slope, intercept = np.polyfit(x, ms, 1)
    spread = float(np.sum((ms - ms.mean()) ** 2))
    unexplained = float(np.sum((ms - (slope * x + intercept)) ** 2))
    r2 = 1 - unexplained / spread if spread else 1.0
    return Growth(list(points), Fit(float(slope), float(intercept), r2, up_to))


def summary_text(results: Results) -> str:
    """Return the summary with its goals, for the last lines of a run; plain text, at most 100 columns."""
    bounds = goals(results)
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("figure", no_wrap=True)
    for heading in ("value", "goal", ""):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for name, value in results.summary.items():
        goal = bounds.get(name)
        if value is None:
            table.add_row(TITLES.get(name, name), "–", str(goal or ""), "not measured")
        else:
            verdict = "" if goal is None else "holds" if goal.holds(value) else "MISSED"
            table.add_row(TITLES.get(name, name), f"{value:.3f}", str(goal or ""), verdict)
    return f"{as_text(table).rstrip()}\n\n{textwrap.fill(WHY_CPU_SECONDS, 100)}"


def as_text(table: Table, width: int = 100) -> str:
    """A table without colours or control characters, as a log file wants it."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().strip("\n").splitlines())


def to_json(results: Results) -> str:
    """All of it as JSON."""
    return _JSON.dump_json(results, indent=1).decode() + "\n"


def read(path: Path) -> Results:
    """Return a run's results from their file.

    Raises:
        BenchmarkError: there is no such file, or it is none of ours.
    """
    return read_json(_JSON, path, "make bench")


def read_json(kind: TypeAdapter[T], path: Path, command: str) -> T:
    """Return what a command of ours wrote as JSON.

    Args:
        kind: of the result.
        command: that writes it.

    Raises:
        BenchmarkError: there is no such file, or it is none of ours.
    """
    try:
        return kind.validate_json(path.read_bytes())
    except OSError as error:
        raise BenchmarkError(f"{path} can't be read ({error.strerror}); `{command}` writes it") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise BenchmarkError(
            f"{path} is no result of this version's `{command}` (at {where}: {first['msg']}); run it again"
        ) from None


def write(results: Results, directory: Path) -> Path:
    """Write `latest.json`, and a copy named by when the run started.

    Returns:
        The path of `latest.json`.

    Raises:
        BenchmarkError: the directory can't be written to.
    """
    text = to_json(results)
    write_atomically(directory / f"{results.started:%Y-%m-%dT%H-%M-%S}.json", text)
    latest = directory / "latest.json"
    write_atomically(latest, text)
    return latest


def write_atomically(path: Path, text: str) -> None:
    """Write a whole UTF-8 file or none, making its directory.

    Raises:
        BenchmarkError: the disk is full or refuses.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise BenchmarkError(f"{path} can't be written ({error.strerror}); make room or choose another place") from None


def middle(values: Sequence[float]) -> float | None:
    """The median of what was measured; None where nothing was."""
    known = [value for value in values if math.isfinite(value)]
    return median(known) if known else None
