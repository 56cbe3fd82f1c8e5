"""The report's figures, as SVG to be put into a page: its font, its colours, light or dark."""

import io
import re
from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from emotion.labels import EMOTIONS
from training.metrics import Calibration

# drawn in colours that no one would choose, which the page then replaces by its own
INK, FAINT, FIRST, SECOND, THIRD, HEAT = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_CSS = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
    HEAT: "var(--heat)",
}
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
    "lines.linewidth": 1.4,
}

History = Sequence[Mapping[str, float | None]]


def curves(histories: Sequence[History], chosen: Sequence[int | None], series: Mapping[str, str], label: str) -> str:
    """Figures over epochs, a thin line a fold, a dot at each fold's chosen epoch.

    Args:
        histories: of each fold; each epoch with the key `epoch` and those of `series`.
        chosen: each fold's epoch.
        series: key in the history -> name in the legend.
        label: of the vertical axis.
    """
    with rc_context(_STYLE):
        figure, axes = _figure(3.1, 2.5)
        width = 1.6 if len(histories) == 1 else 0.8
        for (key, name), colour in zip(series.items(), (FIRST, SECOND, THIRD), strict=False):
            for index, (history, epoch) in enumerate(zip(histories, chosen, strict=True)):
                points = {
                    at: value
                    for row in history
                    if (at := row["epoch"]) is not None and (value := row.get(key)) is not None
                }
                legend = name if index == 0 else "_"
                axes.plot(list(points), list(points.values()), color=colour, linewidth=width, label=legend)
                if epoch is not None and epoch in points:
                    axes.plot(epoch, points[epoch], "o", color=colour, markersize=4.5)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", scilimits=(-2, 4))
        axes.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
        axes.legend(fontsize=8)
        return _svg(figure, f"curves-{label}")


def confusion(counts: Sequence[Sequence[int]], name: str) -> str:
    """A confusion matrix: shade and percentage by row, counts below."""
    matrix = np.array(counts)
    support = matrix.sum(1, keepdims=True)
    shares = matrix / np.maximum(support, 1)
    with rc_context(_STYLE):
        figure, axes = _figure(4.6, 3.9)
        for (row, column), count in np.ndenumerate(matrix):
            share = float(shares[row, column])
            axes.add_patch(Rectangle((column, row), 0.97, 0.97, facecolor=HEAT, alpha=share, linewidth=0))
            middle = column + 0.485
            percentage = f"{share:.0%}" if support[row, 0] else "–"
            axes.text(middle, row + 0.4, percentage, ha="center", va="center", fontsize=10)
            axes.text(middle, row + 0.74, f"{count}", ha="center", va="center", fontsize=7.5)
        axes.set(xlim=(0, len(EMOTIONS)), ylim=(len(EMOTIONS), 0), xlabel="decision", ylabel="truth")
        ticks = np.arange(len(EMOTIONS)) + 0.485
        axes.set_xticks(ticks, EMOTIONS, fontsize=8)
        axes.set_yticks(ticks, EMOTIONS, fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return _svg(figure, f"confusion-{name}")


def reliability(calibration: Calibration, name: str) -> str:
    """A reliability diagram: accuracy by confidence as bars, below it the share of utterances in each bin."""
    filled = [bin for bin in calibration.bins if bin.n]
    total = sum(bin.n for bin in filled)
    with rc_context(_STYLE):
        figure = Figure(figsize=(2.9, 3.1), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        for axes, heights in (
            (upper, [bin.accuracy for bin in filled]),
            (lower, [bin.n / total for bin in filled]),
        ):
            axes.bar(
                [bin.low for bin in filled],
                heights,
                width=[(bin.high - bin.low) * 0.92 for bin in filled],
                align="edge",
                color=FIRST if axes is upper else FAINT,
                alpha=0.75 if axes is upper else 0.6,
            )
        upper.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        lower.set(xlabel="confidence", ylabel="share")
        lower.yaxis.set_major_locator(MaxNLocator(2))
        lower.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        return _svg(figure, f"reliability-{name}")


def class_distribution(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Each class's share of each part: part -> emotion -> utterances; parts without utterances are left out."""
    parts = {part: total for part, classes in counts.items() if (total := sum(classes.values()))}
    height = 0.8 / len(parts)
    with rc_context(_STYLE):
        figure, axes = _figure(5.4, 2.9)
        for index, ((part, total), colour) in enumerate(zip(parts.items(), (FIRST, SECOND, THIRD), strict=False)):
            places = np.arange(len(EMOTIONS)) + (index - (len(parts) - 1) / 2) * height
            shares = [counts[part].get(emotion, 0) / total for emotion in EMOTIONS]
            axes.barh(places, shares, height * 0.9, color=colour, label=part)
        axes.set_yticks(range(len(EMOTIONS)), EMOTIONS)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(axis="x", color=FAINT, alpha=0.3, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        figure.legend(loc="outside upper left", ncols=3, fontsize=8)
        return _svg(figure, "classes")


def has(histories: Sequence[History], key: str) -> bool:
    """Whether any epoch has a number under a key."""
    return any((value := row.get(key)) is not None and isfinite(value) for history in histories for row in history)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """One plot; width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element whose ids occur nowhere else in the page."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):  # the same figure is the same text
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    prefix = re.sub(r"\W+", "-", name)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for drawn, shown in _CSS.items():
        svg = svg.replace(drawn, shown)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)  # it would style the whole page
    return re.sub(r"font-family: [^;\"]+; ", "", svg)
