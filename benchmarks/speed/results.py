"""The results of a benchmark run: their JSON, and the summary that is computed from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, TypeAdapter

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.speed.machine import Machine

# ms of a request; NaN (null in JSON) if none was answered
Latency = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


@dataclass(frozen=True)
class System:
    """One system under the run's load; lists have an entry for each round.

    The i-th entries of all systems were measured one after the other, under the same conditions.
    """

    title: str  # name in tables and pictures
    throughput: list[float]  # utterances/s
    p50: list[Latency] = field(default_factory=list)  # ms; empty for the roofline, which works on whole batches
    p95: list[Latency] = field(default_factory=list)
    p99: list[Latency] = field(default_factory=list)
    cpu_ms: list[Latency] = field(default_factory=list)  # per answered utterance, without the load generator's
    failures: int = 0  # requests without an answer, over all rounds


@dataclass(frozen=True)
class Roofline:
    """What the machine allows."""

    peak_gflops: dict[str, list[float]]  # GFLOP/s of an fp32 matrix product on all cores, by library and round
    strategies: dict[str, float]  # utterances/s of each way to run the models in one process
    needed_gflop: float  # for the mean utterance, without padding, with direct convolutions
    spent_gflop: float  # the same with the padding of attention


@dataclass(frozen=True)
class Stage:
    """Means over the requests of one model."""

    queue_ms: float
    compute_ms: float
    mean_batch: float  # rows of an execution


@dataclass(frozen=True)
class SweepPoint:
    """A closed loop of `users` callers."""

    users: int
    throughput: float  # answers/s
    p50: Latency  # ms
    p95: Latency
    p99: Latency
    failures: int = 0
    stages: dict[str, Stage] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """The time of one utterance by its length, with a straight line over the lengths up to `up_to`."""

    points: list[tuple[float, float]]  # (length in tokens or seconds, ms)
    slope: float  # ms per unit of length
    intercept: float  # ms
    r2: float  # share of the variance that the line explains
    up_to: float


@dataclass(frozen=True)
class Results:
    """One benchmark run. What was not run is None or empty."""

    started: datetime  # UTC
    minutes: float
    quick: bool  # a short run, whose figures are rougher
    command: str  # the command that repeats the run
    revision: str | None  # of the code; None outside a git checkout
    machine: Machine
    versions: dict[str, str]
    kernels: dict[str, str]  # from `machine.kernels`
    settings: dict[str, int]  # "users" are the callers of each round
    checkpoint: dict[str, str]  # "digest" of the weights, "text_encoder"
    workload: dict[str, float]  # from `workload.describe`
    # "served" (fp32), "served_int8", the same of a baseline, "roofline", "graph" (input read before), peers
    systems: dict[str, System]
    roofline: Roofline | None = None
    stages: dict[str, Stage] = field(default_factory=dict)  # of the main run
    sweep: list[SweepPoint] = field(default_factory=list)  # ascending in users
    sweep_int8: list[SweepPoint] = field(default_factory=list)
    growth: dict[str, Growth] = field(default_factory=dict)  # with "tokens", with "seconds"
    latencies: dict[str, list[tuple[float, Latency]]] = field(default_factory=dict)  # system -> (percentile, ms)
    high_concurrency: dict[str, list[float]] = field(default_factory=dict)  # answers/s of "best" callers and of "most"
    overload: dict[str, Latency] = field(default_factory=dict)  # of an open loop
    measured: dict[str, Latency] = field(default_factory=dict)  # figures of the summary that are no ratios of systems
    summary: dict[str, Latency | None] = field(default_factory=dict)  # from `summarise`
    format: Literal[4] = 4


@dataclass(frozen=True)
class Goal:
    """The bound of a figure; the bound itself is allowed."""

    sense: Literal["≥", "≤"]
    bound: float

    def holds(self, value: float) -> bool:
        """Return whether a figure reaches the goal."""
        return value >= self.bound if self.sense == "≥" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sense} {self.bound:.4g}"


_PYTORCH = "fastapi_pytorch"
CORE_HOUR = 0.04  # USD, about the price of a core of a general-purpose cloud machine on demand
# every figure of the summary: title, goal, and for a ratio of two systems over, under and what is compared
FIGURES: dict[str, tuple[str, Goal | None, tuple[str, str, str] | None]] = {
    "served_over_roofline": (
        "Throughput served over the best in one process, by wall clock",
        None,
        ("served", "roofline", "throughput"),
    ),
    # inverted: utterances per CPU second
    "served_over_roofline_cpu": ("The same by CPU seconds", Goal("≥", 0.95), ("roofline", "served", "cpu_ms")),
    "served_over_graph": ("Served over its models alone, input read before", None, ("served", "graph", "throughput")),
    # Winograd's convolutions need fewer FLOPs than direct ones, so this can exceed 1
    "achieved_over_peak_flops": ("FLOP/s of direct convolution over the machine's peak", Goal("≥", 1.0), None),
    "vs_baseline": ("Throughput over the baseline", None, ("served", "baseline", "throughput")),
    "int8_vs_baseline": ("The same in int8", None, ("served_int8", "baseline_int8", "throughput")),
    "per_core": ("Utterances/s for each core", None, None),
    "cost_per_million": (f"A million utterances at {CORE_HOUR} USD a core-hour, USD", None, None),
    "vs_fastapi_pytorch": ("Throughput over FastAPI + PyTorch", Goal("≥", 7), ("served", _PYTORCH, "throughput")),
    "p99_vs_fastapi_pytorch": ("p99 over that of FastAPI + PyTorch", Goal("≤", 1), ("served", _PYTORCH, "p99")),
    "int8_vs_fastapi_pytorch": ("The same in int8, throughput", Goal("≥", 6), ("served_int8", _PYTORCH, "throughput")),
    "int8_p99_vs_fastapi_pytorch": ("The same in int8, p99", Goal("≤", 1), ("served_int8", _PYTORCH, "p99")),
    "vs_fastapi_onnxruntime": (
        "Throughput over FastAPI + ONNX Runtime",
        Goal("≥", 1.9),
        ("served", "fastapi_onnxruntime", "throughput"),
    ),
    "vs_litserve_onnxruntime": (
        "Throughput over LitServe + ONNX Runtime",
        Goal("≥", 1.7),
        ("served", "litserve_onnxruntime", "throughput"),
    ),
    "vs_padded_ensemble": ("Throughput over padded Triton", Goal("≥", 4.2), ("served", "padded_triton", "throughput")),
    "int8_over_fp32": ("Throughput in int8 over fp32", Goal("≥", 1.5), ("served_int8", "served", "throughput")),
    "flops_spent_over_needed": ("FLOPs spent over needed", Goal("≤", 1.05), None),
    "frontend_ms_3s": ("Audio front-end for 3 s, ms", Goal("≤", 2), None),
    "frontend_share_of_cpu": ("Preprocessing's share of CPU time under load", Goal("≤", 0.04), None),
    "latency_one_in_process_ms": ("Latency of 3 s and 15 tokens in one process, ms", None, None),
    "latency_one_ms": ("The same served to one caller, ms", None, None),
    "latency_one_over_in_process": ("Served over one process", None, None),
    "throughput_256_over_best": ("Throughput with 256 callers over the best", Goal("≥", 0.95), None),
    "overload_rejection_p99_ms": ("p99 until a rejection under overload, ms", Goal("≤", 50), None),
}
WHY_CPU_SECONDS = (
    "The load generator runs on the server's cores, so the wall clock counts its work against the server; "
    "CPU seconds count the server's processes alone."
)
_JSON = TypeAdapter(Results)


def ratios_by_round(results: Results) -> dict[str, list[float]]:
    """Return the summary's ratios, one for each round in which both sides were measured.

    Both sides of a ratio are from the same round, so that what slows the whole machine cancels out.
    """
    systems, found = results.systems, {}
    for name, (_, _, ratio) in FIGURES.items():
        if ratio and ratio[0] in systems and ratio[1] in systems:
            found[name] = ratios(*(getattr(systems[side], ratio[2]) for side in ratio[:2]))
    if results.roofline and "served" in systems:
        needed = [rate * results.roofline.needed_gflop for rate in systems["served"].throughput]
        peaks = [max(each) for each in zip(*results.roofline.peak_gflops.values(), strict=True)]
        found["achieved_over_peak_flops"] = ratios(needed, peaks)
    if crowded := results.high_concurrency:
        found["throughput_256_over_best"] = ratios(crowded["most"], crowded["best"])
    return found


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Return the ratios of the rounds that both have, without rounds in which either answered nothing."""
    pairs = zip(over, under, strict=False)
    return [upper / lower for upper, lower in pairs if lower > 0 and math.isfinite(upper)]


def summarise(results: Results) -> dict[str, float | None]:
    """Return every figure of FIGURES; None for what was not run. Ratios are medians over the rounds."""
    figures: dict[str, float | None] = dict.fromkeys(FIGURES) | results.measured
    figures |= {name: median(values) for name, values in ratios_by_round(results).items() if values}
    if results.roofline:
        figures["flops_spent_over_needed"] = results.roofline.spent_gflop / results.roofline.needed_gflop
    if "served" in results.systems:
        per_core = median(results.systems["served"].throughput) / results.machine.cores
        figures |= {"per_core": per_core, "cost_per_million": CORE_HOUR * 1e6 / 3600 / per_core}
    served, alone = figures["latency_one_ms"], figures["latency_one_in_process_ms"]
    if served and alone:
        figures["latency_one_over_in_process"] = served / alone
    if results.overload.get("rejected"):
        figures["overload_rejection_p99_ms"] = results.overload["rejection_p99_ms"]
    return figures


def summary_rows(results: Results) -> list[tuple[str, str, str, str]]:
    """Return title, value, goal and verdict of every figure of the summary.

    The latency of a single request is held to 1.15 x the time in one process + 4 ms.
    """
    rows = []
    for name, value in results.summary.items():
        title, goal, _ = FIGURES[name]
        if name == "latency_one_ms" and (in_process := results.measured.get("latency_one_in_process_ms")):
            goal = Goal("≤", 1.15 * in_process + 4)
        verdict = "not measured" if value is None else ""
        if value is not None and goal is not None:
            verdict = "holds" if goal.holds(value) else "MISSED"
        rows.append((title, "–" if value is None else f"{value:.3f}", str(goal or ""), verdict))
    return rows


def growth(points: Sequence[tuple[float, float]], up_to: float) -> Growth:
    """Return points (length, ms) with their straight line, by least squares over the lengths up to `up_to`.

    Raises:
        BenchmarkError: there are fewer than two lengths to fit.
    """
    chosen = [(x, ms) for x, ms in points if x <= up_to]
    if len({x for x, _ in chosen}) < 2:
        raise BenchmarkError(f"a line needs two lengths up to {up_to:g}; measure more")
    x, ms = np.array(chosen).T
    slope, intercept = np.polyfit(x, ms, 1)
    spread = float(np.sum((ms - ms.mean()) ** 2))
    unexplained = float(np.sum((ms - (slope * x + intercept)) ** 2))
    return Growth(list(points), float(slope), float(intercept), 1 - unexplained / spread if spread else 1.0, up_to)


def to_json(results: Results) -> str:
    """Return the results as JSON."""
    return _JSON.dump_json(results, indent=1).decode() + "\n"


def read(path: Path) -> Results:
    """Return the results in a file; raises BenchmarkError if it cannot be read."""
    return output.read_json(_JSON, path, "make bench")


def write(results: Results, directory: Path) -> Path:
    """Write `latest.json` and a copy named by when the run started; return the path of `latest.json`."""
    for name in (f"{results.started:%Y-%m-%dT%H-%M-%S}", "latest"):
        output.write_text(directory / f"{name}.json", to_json(results))
    return directory / "latest.json"
