"""`python -m benchmarks capacity`: how many pods a load needs, from a benchmark run on such a pod."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.processes import ROOT
from benchmarks.speed import results
from benchmarks.speed.results import SweepPoint

LATEST = ROOT / "benchmarks" / "results" / "latest.json"
UTILISATION = 0.75  # the autoscaler's target
SPARE = 1  # pods that may be lost, or be rolled out, at the peak


@dataclass(frozen=True)
class Capacity:
    """The utterances/s that one pod answers within the objective, and the pods for a load, spare ones included."""

    per_pod: float
    pods: int


def needed(rate: float, sweep: Sequence[SweepPoint], p99_ms: float, utilisation: float, spare: int) -> Capacity:
    """Return the pods for `rate` utterances/s: ceil(rate / (utilisation * throughput)) + spare.

    Throughput is the largest of the sweep whose p99 keeps the objective, without a failure.

    Raises:
        BenchmarkError: no point of the sweep keeps the objective.
    """
    within = [point.throughput for point in sweep if point.p99 <= p99_ms and not point.failures]
    if not within:
        fastest = min((point.p99 for point in sweep if math.isfinite(point.p99)), default=math.nan)
        raise BenchmarkError(f"no load kept p99 within {p99_ms:g} ms; the lowest p99 measured was {fastest:.0f} ms")
    return Capacity(max(within), math.ceil(rate / (utilisation * max(within))) + spare)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m benchmarks capacity`."""
    parser.add_argument("--rate", type=float, required=True, metavar="X", help="utterances/s at the peak")
    parser.add_argument("--p99-ms", type=float, default=4000.0, metavar="N", help="objective in ms (default: 4000)")
    parser.add_argument("--results", type=Path, default=LATEST, metavar="JSON", help="of make bench, on such a pod")
    parser.add_argument("--utilisation", type=float, default=UTILISATION, metavar="X", help="of a pod (default: 0.75)")
    parser.add_argument("--spare", type=int, default=SPARE, metavar="N", help="additional pods (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Print a table with a row for each precision that was measured. The status is always 0."""
    if not arguments.rate > 0 or not 0 < arguments.utilisation <= 1 or arguments.spare < 0:
        raise BenchmarkError("--rate must be above 0, --utilisation above 0 and at most 1, --spare not negative")
    found = results.read(arguments.results)
    if not found.sweep:
        raise BenchmarkError(f"{arguments.results} has no sweep over callers: run make bench")
    rows = []
    for name, sweep in (("fp32", found.sweep), ("int8", found.sweep_int8)):
        if sweep:
            capacity = needed(arguments.rate, sweep, arguments.p99_ms, arguments.utilisation, arguments.spare)
            pods = [count for count in (capacity.pods, capacity.pods - 1) if count]
            shares = [f"{arguments.rate / (count * capacity.per_pod):.0%}" for count in pods]
            rows.append([name, f"{capacity.per_pod:.1f}", str(capacity.pods), *shares])
    objective = f"{found.machine.cores:g} cores a pod, p99 at most {arguments.p99_ms:g} ms"
    print(f"measured {found.started:%Y-%m-%d} with {found.command}: {objective}")
    headings = ("precision", "a pod answers/s", f"pods for {arguments.rate:g}/s", "utilisation", "with one pod lost")
    print(output.table(headings, rows))
    return 0
