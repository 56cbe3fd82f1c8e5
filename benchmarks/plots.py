"""The benchmark's figures: drawn once, put into the page as SVG that follows its colours, or saved for the docs."""

import io
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from itertools import pairwise
from math import isfinite, log10, nan
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.load import Load
from benchmarks.results import Growth, Moment, SweepPoint, System
from benchmarks.sampling import PREPROCESS, QUEUE, Holdings
from export.repository import ONNX_MODELS

if TYPE_CHECKING:
    from benchmarks import gpu_check as gpu_checks
    from benchmarks.overload import Flood, Level

# The palette of Okabe and Ito, which people with any colour vision tell apart, in shades that also differ in
# lightness. Saved figures keep these colours; in the page each becomes the variable of its name, light or dark.
COLOURS = {
    "page": "#ffffff",
    "ink": "#1c1c1a",
    "faint": "#6b6b65",
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
    "sky": "#56b4e9",
    "yellow": "#c99a00",
}
PAGE, INK, FAINT, BLUE, ORANGE, GREEN, SKY, YELLOW = COLOURS.values()
SERIES = (BLUE, ORANGE, GREEN, SKY, YELLOW)
STAGES = (PREPROCESS, QUEUE, *ONNX_MODELS)  # in the order of a request
LABEL = 26  # characters in a line of a label beside a bar
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}
_WIDTH = 4.7  # inches: two fit side by side on a laptop, one on a phone without becoming too small to read
_Arguments = ParamSpec("_Arguments")


def _styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    @wraps(draw)
    def within(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return within


@_styled
def throughput_latency(sweeps: Mapping[str, Sequence[SweepPoint]]) -> Figure:
    """Latency percentiles against throughput, a row for each sweep by its name, points labelled with their callers."""
    known = {name: points for name, points in sweeps.items() if points}
    figure = Figure(figsize=(_WIDTH, 0.4 + 2.6 * len(known)), layout="constrained")
    rows = figure.subplots(len(known), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, points) in zip(rows, known.items(), strict=True):
        rates = [point.throughput for point in points]
        for key, colour, marker in (("p50", BLUE, "o"), ("p95", ORANGE, "s"), ("p99", GREEN, "^")):
            axes.plot(rates, [getattr(point, key) for point in points], color=colour, marker=marker, label=key)
        for point in points:
            if isfinite(point.p99):
                axes.annotate(
                    f"{point.users}",
                    (point.throughput, point.p99),
                    (-4, 4),  # up and left: the curves come from below and go up
                    textcoords="offset points",
                    ha="right",
                    fontsize=7.5,
                )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(_plainly))
        axes.set(ylabel="latency, ms")
        axes.set_title(f"{name} (numbers: callers)", fontsize=9, loc="left")
        axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    rows[0].set_xlim(left=0)
    rows[0].margins(x=0.08)
    rows[0].legend(loc="upper left")
    rows[-1].set_xlabel("utterances/s")
    return figure


@_styled
def breakdown(points: Sequence[SweepPoint]) -> Figure:
    """What a request's time goes to, stage by stage: queue pale, compute solid; in ms above, in shares below."""
    points = [point for point in points if point.stages]
    figure = Figure(figsize=(_WIDTH, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    names = _in_order(name for point in points for name in point.stages)
    totals = np.array(
        [
            sum(point.stages[name].queue_ms + point.stages[name].compute_ms for name in names if name in point.stages)
            for point in points
        ]
    )
    foot = np.zeros(len(points))
    places = np.arange(len(points))
    for name, colour in zip(names, SERIES, strict=False):
        for key, alpha in (("queue_ms", 0.35), ("compute_ms", 1.0)):
            times = np.array([getattr(point.stages[name], key) if name in point.stages else 0.0 for point in points])
            for axes, scale in ((upper, 1.0), (lower, np.maximum(totals, 1e-9))):
                axes.bar(places, times / scale, 0.75, bottom=foot / scale, color=colour, alpha=alpha, linewidth=0)
            foot += times
    upper.set(ylabel="ms a request")
    upper.yaxis.set_major_formatter(FuncFormatter(_plainly))
    lower.set(ylabel="share", xlabel="callers", ylim=(0, 1))
    lower.yaxis.set_major_formatter(FuncFormatter(_percent))
    lower.set_xticks(places, [f"{point.users}" for point in points])
    for axes in (upper, lower):
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", length=0)
    handles = [upper.bar(0, 0, color=colour, label=name) for name, colour in zip(names, SERIES, strict=False)]
    handles += [
        upper.bar(0, 0, color=FAINT, alpha=0.35, label="pale: in the queue"),
        upper.bar(0, 0, color=FAINT, label="solid: computing"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


@_styled
def percentiles(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Latency by percentile; the axis gives each further nine of the tail the same room."""
    figure, axes = _figure(3.0)
    for (name, curve), colour in zip(curves.items(), SERIES, strict=False):
        shown = [(-log10(1 - at / 100), ms) for at, ms in curve if 0 <= at < 100 and isfinite(ms)]
        axes.plot([at for at, _ in shown], [ms for _, ms in shown], color=colour, label=name)
    ticks = (0, 50, 90, 99, 99.9)
    axes.set_xticks([-log10(1 - tick / 100) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set(xlabel="percentile", ylabel="latency, ms", xlim=(0, None), ylim=(0, None))
    axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    axes.legend(loc="upper left")
    return figure


@_styled
def batch_sizes(executions: Mapping[str, Mapping[int, int]]) -> Figure:
    """How large the batches of each model were: share of its executions."""
    names = _in_order(name for name, counts in executions.items() if sum(counts.values()))
    figure = Figure(figsize=(_WIDTH, 0.5 + 0.85 * len(names)), layout="constrained")
    rows = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name, colour in zip(rows, names, SERIES, strict=False):
        counts = executions[name]
        total = sum(counts.values())
        axes.bar(list(counts), [count / total for count in counts.values()], 0.85, color=colour)
        mean = sum(size * count for size, count in counts.items()) / total
        axes.set_title(f"{name}: {_thousands(total)} executions, {mean:.1f} rows on average", fontsize=8, loc="left")
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.yaxis.set_major_locator(MaxNLocator(2))
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=2))
    rows[-1].set_xlabel("rows in the batch")
    return figure


@_styled
def utilisation(timeline: Sequence[Moment], cores: float) -> Figure:
    """CPU, memory, answers and queue over the run, and the GPU's figures where there is one.

    Args:
        cores: that the server could use, a dashed line.
    """
    rows: dict[str, list[float] | list[float | None]] = {
        "CPU cores": [moment.cpu_cores for moment in timeline],
        "memory, MiB": [moment.rss_mib for moment in timeline],
        "requests/s": [moment.requests_per_s for moment in timeline],
        "in queues": [moment.queued for moment in timeline],
        "GPU use": [moment.gpu_utilization for moment in timeline],
        "GPU memory, MiB": [moment.gpu_memory_mib for moment in timeline],
    }
    shown = {label: [value for value in values if value is not None] for label, values in rows.items()}
    shown = {label: values for label, values in shown.items() if len(values) == len(timeline)}
    figure = Figure(figsize=(_WIDTH, 0.5 + 0.95 * len(shown)), layout="constrained")
    plots = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    at = [moment.seconds for moment in timeline]
    for axes, (label, values) in zip(plots, shown.items(), strict=True):
        axes.plot(at, values, color=BLUE)
        axes.fill_between(at, values, color=BLUE, alpha=0.15, linewidth=0)
        axes.set_title(label, fontsize=8, loc="left")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
        axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(_plainly))
        if label == "CPU cores":
            axes.axhline(cores, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.set_ylim(top=max(cores, *values) * 1.1)
        if label == "GPU use":
            axes.yaxis.set_major_formatter(FuncFormatter(_percent))
            axes.set_ylim(top=1.05)
        axes.set_xlabel("s" if label == list(shown)[-1] else "")
    return figure


@_styled
def peers(systems: Mapping[str, System], ours: Sequence[str]) -> Figure:
    """Throughput of every system: the median as a bar, the range over alternations as a line.

    Args:
        ours: names of the systems drawn in colour.
    """
    shown = {name: system for name, system in systems.items() if system.throughput}
    medians = [float(np.median(system.throughput)) for system in shown.values()]
    figure, axes = _figure(0.6 + 0.42 * len(shown))
    places = np.arange(len(shown))
    axes.barh(places, medians, 0.62, color=[BLUE if name in ours else FAINT for name in shown], alpha=0.85)
    for place, system, middle in zip(places, shown.values(), medians, strict=True):
        low, high = min(system.throughput), max(system.throughput)
        axes.plot([low, high], [place, place], color=INK, linewidth=1)
        axes.annotate(
            f"{middle:.3g}", (max(high, middle), place), (5, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(places, [textwrap.fill(system.title, LABEL) for system in shown.values()])
    _horizontal(axes, "utterances/s", max(max(system.throughput) for system in shown.values()))
    return figure


@_styled
def against_peak(gflops: Mapping[str, float], peak: float, ours: str) -> Figure:
    """GFLOP/s of needed work by each way of running the model; the machine's matrix-multiply peak as a dashed line.

    Args:
        ours: the one drawn in colour.
    """
    figure, axes = _figure(0.75 + 0.4 * len(gflops))
    places = np.arange(len(gflops))
    axes.barh(
        places, list(gflops.values()), 0.62, color=[BLUE if name == ours else FAINT for name in gflops], alpha=0.85
    )
    for place, value in zip(places, gflops.values(), strict=True):
        axes.annotate(
            f"{value:.0f}",
            (value, place),
            (-4, 0),
            textcoords="offset points",
            va="center",
            ha="right",
            color=PAGE,
            fontsize=8,
        )
    axes.axvline(peak, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"peak {peak:.0f}", (peak, 1), (4, -2), ("data", "axes fraction"), "offset points", fontsize=8, va="top"
    )
    axes.set_yticks(places, [textwrap.fill(name, LABEL) for name in gflops])
    _horizontal(axes, "GFLOP/s of needed work", max(peak, *gflops.values()))
    return figure


@_styled
def growth(found: Growth, label: str) -> Figure:
    """Time of one utterance against its length, with the straight line over the lengths it was fitted to."""
    figure, axes = _figure(2.7)
    fit = found.fit
    fitted = [point.x for point in found.points if point.x <= fit.up_to]
    ends = np.array([min(fitted), max(fitted)])
    axes.plot(
        ends,
        fit.slope * ends + fit.intercept,
        color=ORANGE,
        label=f"{fit.slope:.3g} ms each + {fit.intercept:.3g} ms, R² {fit.r2:.4f}",
    )
    axes.plot(
        [point.x for point in found.points], [point.ms for point in found.points], "o", color=BLUE, label="measured"
    )
    axes.set(xlabel=label, ylabel="ms", xlim=(0, None), ylim=(0, None))
    axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    axes.legend(loc="upper left")
    return figure


@_styled
def cpu_time(seconds: Mapping[str, float]) -> Figure:
    """CPU time by process, as shares, the largest first."""
    total = sum(seconds.values())
    ranked = dict(sorted(seconds.items(), key=lambda item: -item[1]))
    figure, axes = _figure(0.6 + 0.32 * len(ranked))
    places = np.arange(len(ranked))
    shares = [value / total for value in ranked.values()]
    axes.barh(places, shares, 0.62, color=BLUE, alpha=0.85)
    for place, share in zip(places, shares, strict=True):
        axes.annotate(f"{share:.1%}", (share, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(places, list(ranked))
    _horizontal(axes, "share of CPU time", max(shares))
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    return figure


@_styled
def scaling(
    series: Mapping[str, Sequence[tuple[float, float]]], begun: float, over: float, target: float, rate: float
) -> Figure:
    """What an autoscaler sees, over time: (s, value) of "waiting", "utilisation", "answered" and "failing"."""
    figure = Figure(figsize=(1.5 * _WIDTH, 5.2), layout="constrained")
    waiting, shares, rates = figure.subplots(3, 1, sharex=True)
    for axes in (waiting, shares, rates):
        axes.axvspan(0, over - begun, color=ORANGE, alpha=0.08, linewidth=0)
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)

    def curve(axes: Axes, name: str, colour: str) -> None:
        moments, values = zip(*series[name], strict=True)
        axes.plot([moment - begun for moment in moments], values, color=colour, label=name)

    curve(waiting, "waiting", BLUE)
    waiting.axhline(target, color=FAINT, linestyle="--", linewidth=0.8, label=f"target, {target:g} s")
    waiting.set(ylabel="s a request waits", ylim=(0, None))
    curve(shares, "utilisation", GREEN)
    curve(shares, "failing", ORANGE)
    shares.set(ylabel="share", ylim=(0, 1.05))
    shares.yaxis.set_major_formatter(FuncFormatter(_percent))
    curve(rates, "answered", BLUE)
    rates.hlines(rate, 0, over - begun, color=ORANGE, linestyle="--", linewidth=0.8, label="offered")
    rates.set(ylabel="requests a second", ylim=(0, None), xlabel="s since the overload began")
    for axes in (waiting, shares, rates):
        axes.legend(loc="upper left", ncols=2)
    return figure


@_styled
def overload(levels: "Sequence[Level]", floods: "Sequence[Flood]", seconds: float) -> Figure:
    """Goodput and latency by how much is offered; below, interactive callers before, during and after each flood."""
    figure = Figure(figsize=(1.5 * _WIDTH, 5.6), layout="constrained")
    rows = figure.subplots(1 + len(floods), 1, height_ratios=[1.3, *[1.0] * len(floods)])
    upper = rows[0]
    places = np.arange(len(levels))
    upper.bar(places, [level.goodput for level in levels], 0.55, color=BLUE, alpha=0.85, label="answered a second")
    upper.set_xticks(places, [f"{level.factor:g} x" for level in levels])
    upper.set(ylabel="answers a second", xlabel="offered, of what the server can answer", ylim=(0, None))
    right = upper.twinx()
    right.plot(places, [level.p99 / 1e3 for level in levels], color=ORANGE, marker="o", label="p99 of the answered")
    right.plot(places, [level.p50 / 1e3 for level in levels], color=GREEN, marker="s", label="p50 of the answered")
    right.spines["right"].set_visible(True)
    right.set(ylabel="latency in s", ylim=(0, None))
    handles = [*upper.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    upper.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    for axes, flood in zip(rows[1:], floods, strict=True):
        axes.axvspan(0, seconds, color=ORANGE, alpha=0.08, linewidth=0)
        failed = np.isnan(flood.latency)
        axes.plot(flood.moments, flood.latency / 1e3, ".", color=BLUE, markersize=3, label="interactive, answered")
        axes.plot(flood.moments[failed], np.zeros(failed.sum()), "x", color=ORANGE, markersize=4, label="failed")
        axes.set_title(f"beside a flood of {flood.priority} requests", fontsize=9, loc="left")
        axes.set(ylabel="latency in s", ylim=(-0.05, None))
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
    rows[1].legend(loc="upper left", ncols=2, markerscale=2)
    rows[-1].set_xlabel("s since the flood began")
    return figure


@_styled
def soak(held: Sequence[Holdings], found: Load | None, begin: float, judged: float) -> Figure:
    """What a server held over the minutes since `begin`, and how fast it answered; pale before what is judged."""
    figure = Figure(figsize=(1.5 * _WIDTH, 6.4), layout="constrained")
    memory, regions, counts, latency = figure.subplots(4, 1, sharex=True)
    minutes = [(one.time - begin) / 60 for one in held]
    for axes, names in (
        (memory, {"uss_mib": "memory (USS)", "pss_mib": "memory (PSS)"}),
        (regions, {"region_mib": "shared memory"}),
        (counts, {"descriptors": "descriptors", "threads": "threads"}),
    ):
        for (name, label), colour in zip(names.items(), SERIES, strict=False):
            axes.plot(minutes, [getattr(one, name) for one in held], color=colour, label=label)
    memory.set(ylabel="MiB")
    regions.set(ylabel="MiB", ylim=(0, None))
    counts.set(ylabel="number", ylim=(0, None))
    if found:
        moments, answers = (found.start[found.answered] - begin) / 60, found.latency[found.answered]
        edges = np.linspace(0, moments.max(initial=1e-3), 31)
        spans = [answers[(start <= moments) & (moments <= end)] for start, end in pairwise(edges)]
        for percent, colour in ((50, BLUE), (99, ORANGE)):
            values = [float(np.percentile(span, percent)) if span.size else nan for span in spans]
            latency.plot((edges[1:] + edges[:-1]) / 2, values, color=colour, label=f"latency, p{percent}")
    latency.set(ylabel="ms", ylim=(0, None), xlabel="minutes", xlim=(0, None))
    for axes in (memory, regions, counts, latency):
        axes.axvspan(0, (judged - begin) / 60, color=FAINT, alpha=0.12, linewidth=0)
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
        if axes.lines:
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.97), ncols=2)
    return figure


@_styled
def gpu_check(results: "gpu_checks.Results") -> Figure:
    """Throughput and p99 of a GPU and the CPU beside it for each load; the GPU's use and memory over time."""
    gpu = results.devices["GPU"]
    figure = Figure(figsize=(1.5 * _WIDTH, 8.0), layout="constrained")
    throughput, latency, use, memory = figure.subplots(4, 1)
    latency.sharex(throughput)
    use.sharex(memory)
    places = np.arange(len(gpu.points))
    for shift, (name, device), colour in zip((-0.2, 0.2), results.devices.items(), SERIES, strict=False):
        label = f"{name}, {device.precision}"
        throughput.bar(places + shift, [point.throughput for point in device.points], 0.38, color=colour, label=label)
        latency.bar(places + shift, [point.p99 for point in device.points], 0.38, color=colour, label=label)
        latency.plot(places + shift, [point.p50 for point in device.points], "_", color=INK, markersize=12)
    throughput.set(ylabel="utterances/s", yscale="log")
    latency.set(ylabel="ms: p99, p50 (line)", yscale="log")
    for axes in (throughput, latency):
        axes.set_xticks(places, [point.load for point in gpu.points])
        axes.yaxis.set_major_formatter(FuncFormatter(_plainly))
        axes.tick_params(axis="x", length=0)
        axes.legend(loc="upper left")
    start = gpu.samples[0].time if gpu.samples else 0.0
    for index in sorted({sample.index for sample in gpu.samples}):
        mine = [sample for sample in gpu.samples if sample.index == index]
        at = [sample.time - start for sample in mine]
        colour = SERIES[index % len(SERIES)]
        use.plot(at, [nan if one.utilization is None else one.utilization for one in mine], color=colour)
        memory.plot(
            at, [nan if one.memory_mib is None else one.memory_mib for one in mine], color=colour, label=f"GPU {index}"
        )
    use.set(ylabel="GPU use", ylim=(0, 1.05))
    use.yaxis.set_major_formatter(FuncFormatter(_percent))
    memory.margins(y=0.1)
    memory.set(ylabel="GPU memory, MiB", xlabel="s", ylim=(0, None))
    for axes in (throughput, latency, use, memory):
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    if memory.lines:
        memory.legend(loc="lower right")
    return figure


def inline(figure: Figure, name: str) -> str:
    """The figure as an <svg> element in the page's font and colours, whose ids occur nowhere else in the page."""
    buffer = io.StringIO()
    with rc_context(_STYLE | {"svg.hashsalt": name}):  # the same figure is the same text
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)  # it would style the whole page
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows them
    svg = svg.replace("xlink:href", "href")
    return re.sub(r"font-family: [^;\"]+; ", "", svg)


def save(figure: Figure, path: Path) -> None:
    """A picture for the docs, SVG or PNG by the path's ending, on white."""
    with rc_context(_STYLE | {"svg.hashsalt": path.stem}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, facecolor=PAGE, dpi=200, metadata=metadata)


def _figure(height: float) -> tuple[Figure, Axes]:
    """One plot; height in inches."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _horizontal(axes: Axes, label: str, longest: float) -> None:
    """What horizontal bars share: the first on top, room for the numbers at their ends."""
    axes.invert_yaxis()
    axes.set(xlabel=label, xlim=(0, longest * 1.14))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def _in_order(names: Iterable[str]) -> list[str]:
    """The stages among them, each once, in the order of a request."""
    known = set(names)
    return [name for name in STAGES if name in known]


def _plainly(value: float, _: object) -> str:
    return f"{value:g}" if value < 10_000 else _thousands(round(value))


def _percent(value: float, _: object) -> str:
    return f"{value:.0%}"


def _thousands(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
