"""The report of a benchmark run: Markdown with pictures."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from benchmarks import output
from benchmarks.output import middle
from benchmarks.speed.results import Results, SweepPoint, System, ratios, summary_rows

OURS = ("served", "served_int8")
WIDTH = 4.7  # inches of a picture


def write(results: Results, path: Path) -> None:
    """Write the report to `path`, and its pictures beside it. Raises BenchmarkError if the report cannot be written."""
    parts = [f"# {results.command}, {results.started:%Y-%m-%d %H:%M} UTC", "## Summary"]
    parts += [_table(("figure", "value", "goal", "verdict"), summary_rows(results)), "## Systems"]
    headings = ("system", "utterances/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "failed", "fp32 over it")
    parts.append(_table((*headings, "int8 over it"), [_row(results, name) for name in results.systems]))
    stages = [
        (name, *map(number, (one.queue_ms, one.compute_ms, one.mean_batch))) for name, one in results.stages.items()
    ]
    if stages:
        parts += ["## Stages", _table(("model", "queue ms", "compute ms", "rows a batch"), stages)]
    ceiling = results.roofline
    peaks = {name: middle(values) for name, values in ceiling.peak_gflops.items()} if ceiling else {}
    for title, values in (
        ("Utterances/s in one process, by way", ceiling.strategies if ceiling else {}),
        ("Matrix products in fp32 on all cores, GFLOP/s", peaks),
    ):
        rows = [(name, number(value)) for name, value in values.items()]
        parts += [f"## {title}", _table(("name", "value"), rows)] if rows else []
    for name, (title, figure) in figures(results).items():
        picture = path.with_name(f"{path.stem}-{name}.png")
        figure.savefig(picture, dpi=200)
        parts += [f"## {title}", f"![{title}]({picture.name})"]
    facts = asdict(results.machine) | results.versions | results.settings
    facts |= results.checkpoint | {"revision": results.revision or "unknown", "minutes": number(results.minutes)}
    parts += ["## Conditions", _table(("fact", "value"), [(name, str(value)) for name, value in facts.items()])]
    output.write_text(path, "\n\n".join(parts) + "\n")


def _row(results: Results, name: str) -> list[str]:
    one = results.systems[name]
    medians = [number(middle(values)) for values in (one.throughput, one.p50, one.p95, one.p99, one.cpu_ms)]
    rates = [results.systems[ours].throughput if ours in results.systems and ours != name else [] for ours in OURS]
    return [one.title, *medians, str(one.failures), *(number(middle(ratios(ours, one.throughput))) for ours in rates)]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows))


def number(value: float | None) -> str:
    """Return a value with three digits, or all digits before the point; a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def figures(results: Results) -> dict[str, tuple[str, Figure]]:
    """Return title and drawing of every picture that the run has data for, by name."""
    sweeps = {name: sweep for name, sweep in (("fp32", results.sweep), ("int8", results.sweep_int8)) if sweep}
    drawn = {}
    if sweeps:
        drawn["throughput-latency"] = "Latency by throughput", throughput_latency(sweeps)
    if len(results.systems) > 1:
        drawn["peers"] = "Throughput beside the roofline and peers", peers(results.systems)
    return drawn


def throughput_latency(sweeps: Mapping[str, Sequence[SweepPoint]]) -> Figure:
    """Draw latency percentiles against throughput, one panel for each sweep; points are labelled with their callers."""
    figure = Figure(figsize=(WIDTH, 2.6 * len(sweeps)), layout="constrained")
    rows = figure.subplots(len(sweeps), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, points) in zip(rows, sweeps.items(), strict=True):
        for key, style in (("p50", "o-"), ("p95", "s-"), ("p99", "^-")):
            axes.plot([one.throughput for one in points], [getattr(one, key) for one in points], style, label=key)
        for point in (one for one in points if isfinite(one.p99)):
            place = (point.throughput, point.p99)
            axes.annotate(f"{point.users}", place, (-4, 4), textcoords="offset points", ha="right", fontsize=7.5)
        axes.set(title=f"{name} (numbers: callers)", ylabel="latency, ms", yscale="log", xlim=(0, None))
        axes.grid()
        axes.legend()
    rows[-1].set_xlabel("utterances/s")
    return figure


def peers(systems: Mapping[str, System]) -> Figure:
    """Draw the throughput of every system: the median as a bar, the range over the rounds as a line."""
    figure = Figure(figsize=(WIDTH, 0.6 + 0.42 * len(systems)), layout="constrained")
    axes = figure.subplots()
    for place, (name, system) in enumerate(systems.items()):
        middle, low, high = median(system.throughput), min(system.throughput), max(system.throughput)
        axes.barh(place, middle, 0.62, color="#0072b2" if name in OURS else "#6b6b65")
        axes.plot([low, high], [place, place], color="black", linewidth=1)
        axes.annotate(f"{middle:.3g}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    names = [system.title.partition(":")[0] for system in systems.values()]  # without the way in one process
    axes.set_yticks(range(len(systems)), [textwrap.fill(name, 26) for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set(xlabel="utterances/s")
    axes.grid(axis="x")
    return figure
