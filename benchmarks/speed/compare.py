"""`python -m benchmarks compare A.json B.json`: two runs, and whether their differences are more than noise."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import comb

from scipy.stats import mannwhitneyu

from benchmarks import output
from benchmarks.output import middle
from benchmarks.speed import results
from benchmarks.speed.report import number
from benchmarks.speed.results import FIGURES, Results, ratios_by_round

SIGNIFICANCE = 0.05
Floats = Sequence[float]
UNITS = {"throughput": "utterances/s", "p99": "p99, ms"}


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison. The status is always 0."""
    print(compare(results.read(arguments.a), results.read(arguments.b)))
    return 0


def compare(a: Results, b: Results) -> str:
    """Return a table of every figure that either run measured: A, B, B/A, and whether they differ by more than noise.

    The text begins with what else differs between the runs, such as machine, versions and settings.
    """
    parts = [
        f"{letter}: {run.started:%Y-%m-%d %H:%M} UTC, {run.command}, revision {run.revision or 'unknown'}"
        for letter, run in (("A", a), ("B", b))
    ]
    if differences := unlike(a, b):
        parts += ["The runs are unlike, and the ratios compare that, too:", *(f"  {one}" for one in differences)]
    parts.append(output.table(("", "A", "B", "B/A", "noise"), list(_rows(a, b)), width=120))
    parts.append(
        f"noise: Mann-Whitney's U test over the runs' rounds, at {SIGNIFICANCE:g}; it covers variation within a run,\n"
        "not other work of the machine between the runs. Empty: measured once, so noise is not known."
    )
    return "\n".join(parts)


def unlike(a: Results, b: Results) -> list[str]:
    """Return what differs between two runs besides the code, one line for each fact."""
    found = [f"command: {a.command} → {b.command}"] if a.command != b.command else []
    for what in ("machine", "versions", "settings", "checkpoint"):
        one, other = asdict(a)[what], asdict(b)[what]
        keys = dict.fromkeys([*one, *other])
        found += [f"{what}: {key} {one.get(key)} → {other.get(key)}" for key in keys if one.get(key) != other.get(key)]
    return found


def noise(a: Sequence[float], b: Sequence[float]) -> str:
    """Return whether the rounds of two runs differ by more than they vary among themselves."""
    if 2 / comb(len(a) + len(b), len(a)) > SIGNIFICANCE:  # even if all of one are above all of the other
        return "too few rounds"
    return "differs" if mannwhitneyu(a, b).pvalue <= SIGNIFICANCE else "within noise"


def _rows(a: Results, b: Results) -> Iterator[list[str]]:
    rounds = ratios_by_round(a), ratios_by_round(b)
    for name, (title, _) in FIGURES.items():
        figures = [[] if (value := run.summary.get(name)) is None else [value] for run in (a, b)]
        yield from _row(title, *figures, *(of.get(name, []) for of in rounds))
    for key, unit in UNITS.items():
        for name, system in (b.systems | a.systems).items():
            values = [getattr(run.systems[name], key) if name in run.systems else [] for run in (a, b)]
            yield from _row(f"{system.title}: {unit}", *values, *values)
        for title, sweeps in (("fp32", (a.sweep, b.sweep)), ("int8", (a.sweep_int8, b.sweep_int8))):
            for users in sorted({point.users for sweep in sweeps for point in sweep}):
                values = [[getattr(point, key) for point in sweep if point.users == users] for sweep in sweeps]
                yield from _row(f"{title}, callers {users}: {unit}", *values)


def _row(title: str, a: Floats, b: Floats, rounds_a: Floats = (), rounds_b: Floats = ()) -> Iterator[list[str]]:
    """Yield a row with the medians of both runs, unless neither has a value."""
    one, other = middle(a), middle(b)
    if one is not None or other is not None:
        ratio = f"{other / one:.3f}" if one and other is not None else "–"
        yield [title, number(one), number(other), ratio, noise(rounds_a, rounds_b) if rounds_a and rounds_b else ""]
