"""Draw a radar chart of answers: one axis per emotion, one polygon per utterance."""

import math
from collections.abc import Mapping
from itertools import cycle
from os import PathLike
from typing import cast

import matplotlib
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from emotion_client.types import EMOTIONS, EmotionResult

# Okabe and Ito's palette for all kinds of colour vision, without its black and its yellow (too pale for a line)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_LINES = ("-", "--", "-.", ":")  # polygons stay distinguishable without colour
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_INK, _GREY, _PALE, _RED = "#222222", "#6b6b6b", "#d0d0d0", "#b00020"


def radar(results: Mapping[str, EmotionResult], path: str | PathLike[str]) -> None:
    """Draw a radar chart to an image file.

    Several answers are drawn with their fused views. One answer is drawn with its fused, audio and text views.

    Args:
        results: answers by the name of the utterance.
        path: image file; its suffix gives the format (.png, .svg, .pdf).

    Raises:
        ValueError: there are no results, or matplotlib cannot write this format.
        OSError: the file cannot be written.
    """
    if not results:
        raise ValueError("there is no answer to draw")
    views = {name: result.probabilities for name, result in results.items()}
    if len(results) == 1:
        [result] = results.values()
        three = {
            "answer": result.probabilities,
            "audio alone": result.audio_probabilities,
            "text alone": result.text_probabilities,
        }
        views = {name: view for name, view in three.items() if view is not None}
    with matplotlib.rc_context({"font.family": "sans-serif", "text.color": _INK}):
        _draw(views, *_titles(results)).savefig(path, dpi=150)


def _titles(results: Mapping[str, EmotionResult]) -> tuple[str, str]:
    """Return the title, and the warning below it (empty if every part of the model was trained)."""
    if len(results) == 1:
        [(name, result)] = results.items()
        title = f"{_short(name, 40)}: {result.label} {result.probabilities[result.label]:.0%}"
    else:
        title = f"Emotions of {len(results)} utterances"
    untrained = sorted({part for result in results.values() for part in result.untrained})
    return title, f"untrained: {', '.join(untrained)}. Do not rely on these figures." if untrained else ""


def _draw(views: Mapping[str, Mapping[str, float]], title: str, warning: str) -> Figure:
    figure = Figure(figsize=(12, 8), facecolor="white")
    axes = cast(PolarAxes, figure.add_axes((0.12, 0.04, 0.46, 0.76), projection="polar"))
    axes.set_theta_offset(math.pi / 2)  # the first emotion at the top, the others clockwise
    axes.set_theta_direction(-1)
    axes.set_axis_off()
    angles = [2 * math.pi * i / len(EMOTIONS) for i in range(len(EMOTIONS))]
    outline = [*angles, angles[0]]

    top = math.ceil(5 * max(max(view.values()) for view in views.values())) / 5  # rounded up to the next 20 %
    axes.set_ylim(0, top)
    middle = angles[1] / 2
    for ring in (top * i / 4 for i in range(1, 5)):  # straight lines, like the polygons
        axes.plot(outline, [ring] * len(outline), color=_PALE, linewidth=1, zorder=1)
        label = axes.text(middle, ring * math.cos(middle), f"{ring:.0%}", color=_GREY, fontsize=11, zorder=1.5)
        label.set(ha="center", va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})
    for angle, emotion in zip(angles, EMOTIONS, strict=True):
        axes.plot([angle, angle], [0, top], color=_PALE, linewidth=1, zorder=1)
        right = math.sin(angle)
        label = axes.text(angle, 1.06 * top, emotion, fontsize=17, va="center")
        label.set_horizontalalignment("center" if abs(right) < 0.1 else "left" if right > 0 else "right")

    styles = zip(cycle(_COLOURS), cycle(_LINES), cycle(_MARKERS), strict=False)
    for (name, view), (colour, line, marker) in zip(views.items(), styles, strict=False):
        values = [view[emotion] for emotion in (*EMOTIONS, EMOTIONS[0])]
        [polygon] = axes.plot(outline, values, line, color=colour, linewidth=2.5, label=_short(name, 25), zorder=3)
        polygon.set(marker=marker, markersize=8, markeredgecolor="white", clip_on=False)
        axes.fill(outline, values, color=colour, alpha=0.3 / len(views), zorder=2)

    figure.text(0.04, 0.94, title, fontsize=22, fontweight="bold", va="center")
    figure.text(0.04, 0.88, warning, fontsize=15, color=_RED, va="center")
    small = min(13, 220 / len(views))  # any number of names must fit the height
    figure.legend(loc="center left", bbox_to_anchor=(0.70, 0.44), frameon=False, handlelength=3, fontsize=small)
    return figure


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"  # the end of a path distinguishes files
