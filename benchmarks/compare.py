"""Two benchmark runs side by side, and whether what differs between them is more than noise."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import comb

from rich.box import SIMPLE
from rich.table import Table
from scipy.stats import mannwhitneyu

from benchmarks.results import TITLES, Results, SweepPoint, alternations, as_text, middle

SIGNIFICANCE = 0.05


def compare(a: Results, b: Results) -> str:
    """A table of every figure that both runs, or either, measured: A, B, B/A and what to think of the difference.

    Runs on another machine, with other packages, settings, workload or checkpoint compare more than the code: they are
    compared all the same, and the text begins by saying what else differs.
    """
    parts = [_heading("A", a), _heading("B", b)]
    if differences := unlike(a, b):
        parts.append("These runs are unlike, and the ratios below compare that too:")
        parts.append("\n".join(f"  {line}" for line in differences))
    parts.append(as_text(_table(a, b), width=120))
    parts.append(
        f"noise: Mann-Whitney's U test over the runs' alternations, at {SIGNIFICANCE:g}; it sees what varied within "
        "each run,\nnot what else the machine did between them. No word: taken once, so that noise is not known."
    )
    return "\n".join(parts)


def unlike(a: Results, b: Results) -> list[str]:
    """What differs between two runs beside the code: a line for each fact."""
    found = []
    if a.quick != b.quick:
        found.append(f"{'A' if a.quick else 'B'} is a quick run, the other one is not")
    for what, one, other in (
        ("machine", asdict(a.machine), asdict(b.machine)),
        ("versions", a.versions, b.versions),
        ("settings", a.settings, b.settings),
        ("workload", a.workload, b.workload),
        ("checkpoint", asdict(a.checkpoint), asdict(b.checkpoint)),
    ):
        keys = dict.fromkeys([*one, *other])
        found += [f"{what}: {key} {one.get(key)} → {other.get(key)}" for key in keys if one.get(key) != other.get(key)]
    return found


def noise(a: Sequence[float], b: Sequence[float]) -> str:
    """Whether two sets of alternations differ by more than they vary among themselves."""
    if 2 / comb(len(a) + len(b), len(a)) > SIGNIFICANCE:  # even if all of one lie above all of the other
        return "too few alternations"
    return "differs" if mannwhitneyu(a, b).pvalue <= SIGNIFICANCE else "within noise"


def _heading(letter: str, run: Results) -> str:
    quick = ", quick" if run.quick else ""
    return f"{letter}: {run.started:%Y-%m-%d %H:%M} UTC, revision {run.revision or 'unknown'}{quick}"


def _table(a: Results, b: Results) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("A", "B", "B/A"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("noise", no_wrap=True)

    samples = alternations(a), alternations(b)
    for name, title in TITLES.items():
        both = [of[name] for of in samples if of.get(name)]
        _row(table, title, a.summary.get(name), b.summary.get(name), noise(*both) if len(both) == 2 else "")
    table.add_section()
    for name in dict.fromkeys([*a.systems, *b.systems]):
        systems = a.systems.get(name), b.systems.get(name)
        title = next(system.title for system in systems if system)
        for key, unit in (("throughput", "utterances/s"), ("p99", "p99, ms")):
            values = [getattr(system, key) if system else [] for system in systems]
            verdict = noise(*values) if all(values) else ""
            _row(table, f"{title}: {unit}", middle(values[0]), middle(values[1]), verdict)
    for title, points in (("fp32", (a.sweep, b.sweep)), ("int8", (a.sweep_int8, b.sweep_int8))):
        one, other = ({point.users: point for point in sweep} for sweep in points)
        if one or other:
            table.add_section()
        for users in sorted({*one, *other}):
            for key, unit in (("throughput", "utterances/s"), ("p99", "p99, ms")):
                _row(table, f"{title}, callers {users}: {unit}", _of(one, users, key), _of(other, users, key))
    return table


def _of(sweep: Mapping[int, SweepPoint], users: int, key: str) -> float | None:
    return middle([getattr(sweep[users], key)]) if users in sweep else None


def _row(table: Table, title: str, a: float | None, b: float | None, verdict: str = "") -> None:
    if a is None and b is None:
        return
    ratio = f"{b / a:.3f}" if a and b is not None else "–"
    table.add_row(
        title,
        *("–" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.4g}" for value in (a, b)),
        ratio,
        verdict,
    )
