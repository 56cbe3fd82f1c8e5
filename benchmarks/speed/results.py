"""The results of a benchmark run: their JSON, and the summary that is computed from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.load.sampling import ModelStatistics
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


@dataclass(frozen=True)
class SweepPoint:
    """A closed loop of `users` callers."""

    users: int
    throughput: float  # answers/s
    p50: Latency  # ms
    p95: Latency
    p99: Latency
    failures: int = 0


@dataclass(frozen=True)
class Results:
    """One benchmark run. What was not run is None or empty."""

    started: datetime  # UTC
    minutes: float
    command: str  # the command that repeats the run
    revision: str | None  # of the code; None outside a git checkout
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, int]  # "users" are the callers of each round
    checkpoint: dict[str, str]  # "digest" of the weights, "text_encoder"
    # "served" (fp32), "served_int8", the same of a baseline, "roofline", peers
    systems: dict[str, System]
    roofline: Roofline | None = None
    stages: dict[str, ModelStatistics] = field(default_factory=dict)  # of the main run
    sweep: list[SweepPoint] = field(default_factory=list)  # ascending in users
    sweep_int8: list[SweepPoint] = field(default_factory=list)
    high_concurrency: dict[str, list[float]] = field(default_factory=dict)  # answers/s of "best" callers and of "most"
    measured: dict[str, Latency] = field(default_factory=dict)  # figures of the summary that are no ratios of systems
    summary: dict[str, Latency | None] = field(default_factory=dict)  # from `summarise`
    format: Literal[6] = 6


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


CORE_HOUR = 0.04  # USD, about the price of a core of a general-purpose cloud machine on demand
FIGURES: dict[str, tuple[str, Goal | None]] = {  # of the summary: title and goal
    # the load generator runs on the server's cores, so the wall clock counts its work against the server
    "served_over_roofline": ("Throughput served over the best in one process, by wall clock", None),
    "served_over_roofline_cpu": ("The same by CPU seconds, without the load generator's", Goal("≥", 0.95)),
    # Winograd's convolutions need fewer FLOPs than direct ones, so this can exceed 1
    "achieved_over_peak_flops": ("FLOP/s of direct convolution over the machine's peak", Goal("≥", 1.0)),
    "vs_baseline": ("Throughput over the baseline", None),
    "int8_vs_baseline": ("The same in int8", None),
    "per_core": ("Utterances/s for each core", None),
    "cost_per_million": (f"A million utterances at {CORE_HOUR} USD a core-hour, USD", None),
    "vs_fastapi_pytorch": ("Throughput over FastAPI + PyTorch", Goal("≥", 7)),
    "p99_vs_fastapi_pytorch": ("p99 over that of FastAPI + PyTorch", Goal("≤", 1)),
    "int8_vs_fastapi_pytorch": ("The same in int8, throughput", Goal("≥", 6)),
    "int8_p99_vs_fastapi_pytorch": ("The same in int8, p99", Goal("≤", 1)),
    "vs_fastapi_onnxruntime": ("Throughput over FastAPI + ONNX Runtime", Goal("≥", 1.9)),
    "vs_litserve_onnxruntime": ("Throughput over LitServe + ONNX Runtime", Goal("≥", 1.7)),
    "vs_padded_ensemble": ("Throughput over padded Triton", Goal("≥", 4.2)),
    "vs_openvino": ("Throughput served over OpenVINO in one process", Goal("≥", 1.0)),
    "int8_over_fp32": ("Throughput in int8 over fp32", Goal("≥", 1.5)),
    "frontend_ms_3s": ("Audio front-end for 3 s, ms", Goal("≤", 2)),
    "frontend_share_of_cpu": ("Preprocessing's share of CPU time under load", Goal("≤", 0.04)),
    "latency_one_in_process_ms": ("Latency of 3 s and 15 tokens in one process, ms", None),
    "latency_one_ms": ("The same served to one caller, ms", None),
    "latency_one_over_in_process": ("Served over one process", None),
    "throughput_256_over_best": ("Throughput with 256 callers over the best", Goal("≥", 0.95)),
}
RATIOS = {  # figures that are ratios of two systems: over, under, and what is compared
    "served_over_roofline": ("served", "roofline", "throughput"),
    "served_over_roofline_cpu": ("roofline", "served", "cpu_ms"),  # inverted: utterances per CPU second
    "vs_baseline": ("served", "baseline", "throughput"),
    "int8_vs_baseline": ("served_int8", "baseline_int8", "throughput"),
    "vs_fastapi_pytorch": ("served", "fastapi_pytorch", "throughput"),
    "p99_vs_fastapi_pytorch": ("served", "fastapi_pytorch", "p99"),
    "int8_vs_fastapi_pytorch": ("served_int8", "fastapi_pytorch", "throughput"),
    "int8_p99_vs_fastapi_pytorch": ("served_int8", "fastapi_pytorch", "p99"),
    "vs_fastapi_onnxruntime": ("served", "fastapi_onnxruntime", "throughput"),
    "vs_litserve_onnxruntime": ("served", "litserve_onnxruntime", "throughput"),
    "vs_padded_ensemble": ("served", "padded_triton", "throughput"),
    "vs_openvino": ("served", "openvino", "throughput"),
    "int8_over_fp32": ("served_int8", "served", "throughput"),
}
_JSON = TypeAdapter(Results)


def ratios_by_round(results: Results) -> dict[str, list[float]]:
    """Return the summary's ratios, one for each round in which both sides were measured.

    Both sides of a ratio are from the same round, so that what slows the whole machine cancels out.
    """
    systems, found = results.systems, {}
    for name, (over, under, key) in RATIOS.items():
        if over in systems and under in systems:
            found[name] = ratios(getattr(systems[over], key), getattr(systems[under], key))
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
    if "served" in results.systems:
        per_core = median(results.systems["served"].throughput) / results.machine.cores
        figures |= {"per_core": per_core, "cost_per_million": CORE_HOUR * 1e6 / 3600 / per_core}
    served, alone = figures["latency_one_ms"], figures["latency_one_in_process_ms"]
    if served and alone:
        figures["latency_one_over_in_process"] = served / alone
    return figures


def summary_rows(results: Results) -> list[tuple[str, str, str, str]]:
    """Return title, value, goal and verdict of every figure of the summary.

    The latency of a single request is held to 1.15 x the time in one process + 4 ms.
    """
    rows = []
    for name, value in results.summary.items():
        title, goal = FIGURES[name]
        if name == "latency_one_ms" and (in_process := results.measured.get("latency_one_in_process_ms")):
            goal = Goal("≤", 1.15 * in_process + 4)
        verdict = "not measured" if value is None else ""
        if value is not None and goal is not None:
            verdict = "holds" if goal.holds(value) else "MISSED"
        rows.append((title, "–" if value is None else f"{value:.3f}", str(goal or ""), verdict))
    return rows


def read(path: Path) -> Results:
    """Return the results in a file. Raises BenchmarkError if it cannot be read, or has another format."""
    try:
        return _JSON.validate_json(path.read_bytes())
    except OSError as error:
        raise BenchmarkError(f"{path} can't be read ({error.strerror}); `make bench` writes it") from None
    except ValidationError:
        raise BenchmarkError(f"{path} is no result of this version's `make bench`; run it again") from None


def write(results: Results, directory: Path) -> Path:
    """Write `latest.json` and a copy named by when the run started; return the path of `latest.json`."""
    for name in (f"{results.started:%Y-%m-%dT%H-%M-%S}", "latest"):
        output.write_text(directory / f"{name}.json", _JSON.dump_json(results, indent=1).decode() + "\n")
    return directory / "latest.json"
