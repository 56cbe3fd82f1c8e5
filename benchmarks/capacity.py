"""`python -m benchmarks capacity`: how many pods a load needs, from what a benchmark run on such a pod measured."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from benchmarks import results
from benchmarks.errors import BenchmarkError
from benchmarks.results import SweepPoint, as_text

LATEST = Path(__file__).parent / "results" / "latest.json"
UTILISATION = 0.75  # the autoscaler's target
SPARE = 1  # pods that may be lost, or be rolled out anew, without anybody noticing


@dataclass(frozen=True)
class Capacity:
    """Pods for a load.

    Attributes:
        per_pod: utterances/s that one pod answers within the objective.
        busy: pods that are as busy as the target allows.
        spare: pods beside them.
    """

    per_pod: float
    busy: int
    spare: int

    @property
    def pods(self) -> int:
        """All of them."""
        return self.busy + self.spare


def needed(rate: float, sweep: Sequence[SweepPoint], p99_ms: float, utilisation: float, spare: int) -> Capacity:
    """Pods for `rate` utterances/s.

    ceil(rate / (utilisation * throughput)) + spare, where throughput is the largest of the sweep with a p99 within
    the objective and no failure.

    Raises:
        BenchmarkError: no point of the sweep keeps the objective.
    """
    within = [point.throughput for point in sweep if point.p99 <= p99_ms and not point.failures]
    if not within:
        fastest = min((point.p99 for point in sweep if math.isfinite(point.p99)), default=math.nan)
        raise BenchmarkError(f"no load kept p99 within {p99_ms:g} ms; the lowest p99 measured was {fastest:.0f} ms")
    best = max(within)
    return Capacity(best, math.ceil(rate / (utilisation * best)), spare)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks capacity`."""
    parser.add_argument("--rate", type=float, required=True, metavar="X", help="utterances a second at the peak")
    parser.add_argument("--p99-ms", type=float, default=4000.0, metavar="N", help="the objective (default: 4000)")
    parser.add_argument("--results", type=Path, default=LATEST, metavar="JSON", help="of make bench, on such a pod")
    parser.add_argument(
        "--utilisation", type=float, default=UTILISATION, metavar="X", help=f"of a pod (default: {UTILISATION})"
    )
    parser.add_argument("--spare", type=int, default=SPARE, metavar="N", help=f"pods beside (default: {SPARE})")


def run(arguments: argparse.Namespace) -> int:
    """Print a table with a row for each precision that was measured; 0."""
    if not arguments.rate > 0 or not 0 < arguments.utilisation <= 1 or arguments.spare < 0:
        raise BenchmarkError("--rate must be above 0, --utilisation above 0 and at most 1, --spare not negative")
    found = results.read(arguments.results)
    if not found.sweep:
        raise BenchmarkError(f"{arguments.results} has no sweep over callers: run make bench")
    table = Table("precision", box=SIMPLE)
    for heading in ("a pod answers/s", f"pods for {arguments.rate:g}/s", "utilisation", "with one pod lost"):
        table.add_column(heading, justify="right")
    for name, sweep in (("fp32", found.sweep), ("int8", found.sweep_int8)):
        if sweep:
            capacity = needed(arguments.rate, sweep, arguments.p99_ms, arguments.utilisation, arguments.spare)
            busy = [arguments.rate / (pods * capacity.per_pod) for pods in (capacity.pods, capacity.pods - 1) if pods]
            table.add_row(name, f"{capacity.per_pod:.1f}", str(capacity.pods), *(f"{share:.0%}" for share in busy))
    objective = f"{found.machine.cores:g} cores a pod, p99 at most {arguments.p99_ms:g} ms"
    print(f"measured {found.started:%Y-%m-%d} with {found.command}: {objective}")
    print(as_text(table, width=100))
    return 0
