"""The report of a benchmark run: Markdown with pictures."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite, log10
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks import output, plotting
from benchmarks.load.sampling import STAGES
from benchmarks.output import middle
from benchmarks.plotting import Curve, Panel
from benchmarks.speed.results import WHY_CPU_SECONDS, Results, SweepPoint, System, ratios, summary_rows

OURS = ("served", "served_int8")
LABEL_WIDTH = 26  # characters in a line of a label beside a bar


def write(results: Results, path: Path) -> None:
    """Write the report to `path`, and its pictures beside it. Raises BenchmarkError if the report cannot be written."""
    parts = [f"# {results.command}, {results.started:%Y-%m-%d %H:%M} UTC", headline(results), "## Summary"]
    parts += [_table(("figure", "value", "goal", "verdict"), summary_rows(results)), WHY_CPU_SECONDS, "## Systems"]
    headings = ("system", "utterances/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "failed", "fp32 over it")
    parts.append(_table((*headings, "int8 over it"), [_row(results, name) for name in results.systems]))
    stages = [(name, *map(_number, asdict(stage).values())) for name, stage in results.stages.items()]
    if stages:
        parts += ["## Stages", _table(("model", "queue ms", "compute ms", "rows a batch"), stages)]
    strategies: Mapping[str, float | None] = {}
    peaks: Mapping[str, float | None] = {}
    if results.roofline:
        strategies = results.roofline.strategies
        peaks = {name: middle(values) for name, values in results.roofline.peak_gflops.items()}
    for title, values in (
        ("Utterances/s in one process, by way", strategies),
        ("Matrix products in fp32 on all cores, GFLOP/s", peaks),
        ("Overload", results.overload),
    ):
        rows = [(name, _number(value)) for name, value in values.items()]
        parts += [f"## {title}", _table(("name", "value"), rows)] if rows else []
    for name, (title, figure) in figures(results).items():
        picture = path.with_name(f"{path.stem}-{name}.png")
        plotting.save(figure, picture)
        parts += [f"## {title}", f"![{title}]({picture.name})"]
    facts = asdict(results.machine) | results.versions | results.kernels | results.settings
    facts |= results.checkpoint | results.workload
    facts |= {"revision": results.revision or "unknown", "minutes": _number(results.minutes)}
    parts += ["## Conditions", _table(("fact", "value"), [(name, str(value)) for name, value in facts.items()])]
    output.write_text(path, "\n\n".join(parts) + "\n")


def headline(results: Results) -> str:
    """Return the main figures in one sentence."""
    if not (served := results.systems.get("served")):
        return "Nothing was served in this run."
    users = f" to {count} callers at a time" if (count := results.settings.get("users")) else ""
    text = f"{_number(middle(served.throughput))} utterances/s served{users} in fp32"
    if share := results.summary.get("served_over_roofline"):
        text += f"; {share:.0%} of the best in one process on the same machine"
    if int8 := results.systems.get("served_int8"):
        text += f"; {_number(middle(int8.throughput))} utterances/s in int8"
    return f"{text}."


def _row(results: Results, name: str) -> list[str]:
    one = results.systems[name]
    medians = [_number(middle(values)) for values in (one.throughput, one.p50, one.p95, one.p99, one.cpu_ms)]
    rates = [results.systems[ours].throughput if ours in results.systems and ours != name else [] for ours in OURS]
    return [one.title, *medians, str(one.failures), *(_number(middle(ratios(ours, one.throughput))) for ours in rates)]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows))


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def figures(results: Results) -> dict[str, tuple[str, Figure]]:
    """Return title and drawing of every picture that the run has data for, by name."""
    drawn: dict[str, tuple[str, Figure]] = {}
    sweeps = {name: sweep for name, sweep in (("fp32", results.sweep), ("int8", results.sweep_int8)) if sweep}
    if sweeps:
        drawn["throughput-latency"] = "Latency by throughput", throughput_latency(sweeps)
    if any(point.stages for point in results.sweep):
        drawn["breakdown"] = "Time of a request by stage", breakdown(results.sweep)
    if results.latencies:
        drawn["percentiles"] = "Latency by percentile", percentiles(results)
    if len(results.systems) > 1:
        drawn["peers"] = "Throughput beside the roofline and peers", peers(results.systems)
    for name, found in results.growth.items():
        fitted = np.array(sorted(x for x, _ in found.points if x <= found.up_to))[[0, -1]]
        line = f"{found.slope:.3g} ms each + {found.intercept:.3g} ms, R² {found.r2:.4f}"
        x, ms = zip(*found.points, strict=True)
        curves: dict[str, Curve] = {"measured": (x, ms), line: (fitted, found.slope * fitted + found.intercept)}
        panel = Panel(curves, "ms", {"xlim": (0, None)}, ("o", "-"))
        drawn[f"growth-{name}"] = f"Time of one request by {name}", plotting.stack([panel], name, width=1)
    return drawn


@plotting.styled
def throughput_latency(sweeps: Mapping[str, Sequence[SweepPoint]]) -> Figure:
    """Draw latency percentiles against throughput, one panel for each sweep; points are labelled with their callers."""
    panels = []
    for name, points in sweeps.items():
        rates = [point.throughput for point in points]
        curves = {key: (rates, [getattr(point, key) for point in points]) for key in ("p50", "p95", "p99")}
        options = {"yscale": "log", "ylim": (None, None), "xlim": (0, None), "title": f"{name} (numbers: callers)"}
        panels.append(Panel(curves, "latency, ms", options, ("o-", "s-", "^-")))
    figure = plotting.stack(panels, "utterances/s", width=1)
    for axes, points in zip(figure.axes, sweeps.values(), strict=True):
        for point in (one for one in points if isfinite(one.p99)):
            place = (point.throughput, point.p99)
            axes.annotate(f"{point.users}", place, (-4, 4), textcoords="offset points", ha="right", fontsize=7.5)
    return figure


@plotting.styled
def breakdown(points: Sequence[SweepPoint]) -> Figure:
    """Draw the time of a request by stage and number of callers, in ms and as shares: pale queued, solid computing."""
    parts = [(name, key) for name in STAGES for key in ("queue_ms", "compute_ms")]
    times = np.array([[getattr(point.stages.get(name), key, 0.0) for point in points] for name, key in parts])
    figure = Figure(figsize=(plotting.WIDTH, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, heights in ((upper, times), (lower, times / np.maximum(times.sum(axis=0), 1e-9))):
        feet = np.cumsum(heights, axis=0) - heights
        for place, (name, key) in enumerate(parts):
            alpha, label = (0.35, "_queue") if key == "queue_ms" else (1.0, name)  # "_": not in the legend
            colour = plotting.SERIES[place // 2]
            axes.bar(range(len(points)), heights[place], 0.75, feet[place], color=colour, alpha=alpha, label=label)
    upper.set(ylabel="ms a request")
    lower.set(ylabel="share", xlabel="callers (pale: in the queue, solid: computing)", ylim=(0, 1))
    lower.yaxis.set_major_formatter(plotting.PERCENT)
    lower.set_xticks(range(len(points)), [f"{point.users}" for point in points])
    figure.legend(handles=upper.get_legend_handles_labels()[0], loc="outside upper left", ncols=3)
    return figure


def percentiles(results: Results) -> Figure:
    """Draw latency by percentile; each further nine of the tail has the same width."""
    curves = {}
    for name, curve in results.latencies.items():
        shown = [(-log10(1 - at / 100), ms) for at, ms in curve if 0 <= at < 100 and isfinite(ms)]
        curves[results.systems[name].title] = [at for at, _ in shown], [ms for _, ms in shown]
    figure = plotting.stack([Panel(curves, "latency, ms", {"xlim": (0, None)})], "percentile", width=1)
    ticks = (0, 50, 90, 99, 99.9)
    figure.axes[0].set_xticks([-log10(1 - tick / 100) for tick in ticks], [f"{tick:g}" for tick in ticks])
    return figure


@plotting.styled
def peers(systems: Mapping[str, System]) -> Figure:
    """Draw the throughput of every system: the median as a bar, the range over the rounds as a line."""
    figure = Figure(figsize=(plotting.WIDTH, 0.6 + 0.42 * len(systems)), layout="constrained")
    axes = figure.subplots()
    for place, (name, system) in enumerate(systems.items()):
        median, low, high = float(np.median(system.throughput)), min(system.throughput), max(system.throughput)
        axes.barh(place, median, 0.62, color=plotting.BLUE if name in OURS else plotting.FAINT, alpha=0.85)
        axes.plot([low, high], [place, place], color=plotting.INK, linewidth=1)
        axes.annotate(f"{median:.3g}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(systems)), [textwrap.fill(system.title, LABEL_WIDTH) for system in systems.values()])
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set(xlabel="utterances/s")
    axes.grid(axis="x")
    return figure
