"""The style of all pictures that benchmarks save, and what several of them share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

INK, FAINT = "#1c1c1a", "#6b6b65"
# from the palette of Okabe and Ito, which people with any colour vision tell apart
BLUE, ORANGE, GREEN, SKY, YELLOW = SERIES = ("#0072b2", "#d55e00", "#009e73", "#56b4e9", "#c99a00")
WIDTH = 4.7  # inches: two pictures fit side by side on a page
PERCENT = FuncFormatter(lambda value, _: f"{value:.0%}")
PLAIN = FuncFormatter(lambda value, _: f"{value:g}" if value < 10_000 else f"{value:,.0f}")
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}
_Arguments = ParamSpec("_Arguments")
Curve = tuple[Any, Any]  # x, y: sequences of numbers


@dataclass(frozen=True)
class Panel:
    """A part of a picture: curves by their labels, the label of the y axis, and what else `Axes.set` takes."""

    curves: Mapping[str, Curve]
    ylabel: str
    options: Mapping[str, Any] = field(default_factory=dict)
    styles: Sequence[str] = ("-", "-", "-", "-", "-")  # of the curves, as `Axes.plot` takes them


def styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Decorate a function that draws a figure: it draws in the style of all pictures."""

    @wraps(draw)
    def within(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return within


@styled
def stack(
    panels: Sequence[Panel],
    xlabel: str,
    shaded: tuple[float, float] | None = None,
    width: float = 1.5,
    sharex: bool = True,
) -> Figure:
    """Draw panels one below the other; `width` is in units of WIDTH, `shaded` a range of the x axis."""
    figure = Figure(
        figsize=(width * WIDTH, 0.4 + (1.6 if len(panels) > 2 else 2.6) * len(panels)), layout="constrained"
    )
    rows = figure.subplots(len(panels), 1, sharex=sharex, squeeze=False)[:, 0]
    for axes, panel in zip(rows, panels, strict=True):
        for (label, (x, y)), colour, style in zip(panel.curves.items(), SERIES, panel.styles, strict=False):
            axes.plot(x, y, style, color=colour, label=label)
        if shaded:
            axes.axvspan(*shaded, color=FAINT, alpha=0.12, linewidth=0)
        axes.set(ylabel=panel.ylabel, **({"ylim": (0, None)} | dict(panel.options)))
        axes.yaxis.set_major_formatter(PERCENT if panel.ylabel == "share" else PLAIN)
        axes.grid()
        axes.legend(loc="best", ncols=2)
    rows[-1].set_xlabel(xlabel)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Save a figure as SVG or PNG, by the ending of the path, and make its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(_STYLE | {"svg.hashsalt": path.stem}):
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)
