"""`python -m benchmarks capacity`: how many pods a load needs, from a benchmark run on such a pod."""

import argparse
import math
from collections.abc import Sequence

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.speed import results
from benchmarks.speed.results import SweepPoint


def needed(
    rate: float, sweep: Sequence[SweepPoint], p99_ms: float, utilisation: float, spare: int
) -> tuple[float, int]:
    """Return what a pod answers/s, and the pods for `rate` utterances/s: ceil(rate / (utilisation * that)) + spare.

    A pod answers the largest throughput of the sweep whose p99 keeps the objective, without a failure.
    Raises BenchmarkError if no point of the sweep keeps the objective.
    """
    within = [point.throughput for point in sweep if point.p99 <= p99_ms and not point.failures]
    if not within:
        fastest = min((point.p99 for point in sweep if math.isfinite(point.p99)), default=math.nan)
        raise BenchmarkError(f"no load kept p99 within {p99_ms:g} ms; the lowest p99 measured was {fastest:.0f} ms")
    return max(within), math.ceil(rate / (utilisation * max(within))) + spare


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
            per_pod, pods = needed(arguments.rate, sweep, arguments.p99_ms, arguments.utilisation, arguments.spare)
            shares = [f"{arguments.rate / (count * per_pod):.0%}" for count in (pods, pods - 1) if count]
            rows.append([name, f"{per_pod:.1f}", str(pods), *shares])
    objective = f"{found.machine.cores:g} cores a pod, p99 at most {arguments.p99_ms:g} ms"
    print(f"measured {found.started:%Y-%m-%d} with {found.command}: {objective}")
    headings = ("precision", "a pod answers/s", f"pods for {arguments.rate:g}/s", "utilisation", "with one pod lost")
    print(output.table(headings, rows))
    return 0
