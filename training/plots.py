"""Draw the report's figures as inline SVG that uses the page's font and colours, light or dark.

`python -m training.plots RECORDING PICTURE` draws one recording as the model receives it.
"""

import argparse
import io
import re
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from emotion.audio import (
    HOP,
    LOG_OFFSET,
    MEL_BANDS,
    MEL_RANGE,
    PATCH_FRAMES,
    SAMPLE_RATE,
    log_mel_patches,
)
from emotion.decoding import decode
from emotion.errors import InputError
from emotion.labels import EMOTIONS
from emotion.loudness import NO_SOUND, find_sound
from training.metrics import Calibration

PATCH_SECONDS = PATCH_FRAMES * HOP / SAMPLE_RATE  # 0.96 s
SHOWN_PATCHES = 6  # maximum for each example in the report: 5.76 s
FREQUENCIES = (250, 1000, 4000)  # Hz, of the labels

# placeholder colours, which _svg replaces by the page's own
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
    "svg.fonttype": "none",  # keeps text as text elements
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
    """Draw metrics over epochs: a line for each fold, a dot at its chosen epoch.

    Args:
        histories: of each fold; each epoch has the key `epoch` and those of `series`.
        chosen: the chosen epoch of each fold.
        series: key in the history -> name in the legend.
        label: of the vertical axis.

    Returns:
        An <svg> element.
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
    """Draw a confusion matrix with the percentage of each row and the counts; return an <svg> element."""
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
    """Draw a reliability diagram and the share of utterances in each bin; return an <svg> element."""
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
    """Draw the share of each class in each part; return an <svg> element.

    Args:
        counts: part -> emotion -> number of utterances; parts without utterances are left out.
    """
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


def spectrograms(examples: Mapping[str, NDArray[np.float32]]) -> str:
    """Draw log-mel spectrograms below each other on the same scales; return an <svg> element.

    Args:
        examples: title -> waveform, float32 [n], mono at 16 kHz, as `find_sound` returns it. The first SHOWN_PATCHES
            patches of each are drawn.
    """
    patches = {title: log_mel_patches(waveform)[:SHOWN_PATCHES] for title, waveform in examples.items()}
    loudest = max(float(each.max()) for each in patches.values())
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 0.6 + 1.05 * len(patches)), layout="constrained")
        rows = figure.subplots(len(patches), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, example) in zip(rows, patches.items(), strict=True):
            image = _draw_log_mel(axes, example, loudest)
            axes.set_title(title, loc="left", fontsize=9)
            axes.label_outer()
        rows[-1].set(xlabel="time (s)", xlim=(0, PATCH_SECONDS * max(map(len, patches.values()))))
        rows[-1].xaxis.set_major_locator(MaxNLocator(7))
        figure.colorbar(image, ax=rows, label="log-mel value", shrink=min(1, 2 / len(patches)))
        return _svg(figure, "spectrograms")


def recording(waveform: NDArray[np.float32], title: str) -> Figure:
    """Draw a waveform above its log-mel patches.

    Args:
        waveform: float32 [n], mono at 16 kHz, as `find_sound` returns it.
        title: of the figure.
    """
    from librosa.display import waveshow  # imported here, because it takes 2 s

    patches = log_mel_patches(waveform)
    seconds, used = waveform.size / SAMPLE_RATE, len(patches) * PATCH_SECONDS
    with rc_context(_STYLE | {"axes.edgecolor": "#6b6b65", "xtick.color": "#6b6b65", "ytick.color": "#6b6b65"}):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 3])
        waveshow(waveform, sr=SAMPLE_RATE, axis="s", ax=upper, color="#2f6690")
        upper.set(xlabel="", ylabel="amplitude")
        image = _draw_log_mel(lower, patches, float(patches.max()))
        above = lower.get_xaxis_transform()  # x in seconds, y in heights of the axes
        for number in range(len(patches)):
            border = (number + 1) * PATCH_SECONDS
            upper.axvline(border, color="#6b6b65", linewidth=0.8, linestyle="--")
            lower.axvline(border, color="white", linewidth=1.5)
            lower.text(
                border - PATCH_SECONDS / 2, 1.02, f"patch {number + 1}", transform=above, ha="center", fontsize=8
            )
        if seconds > used:  # the incomplete patch at the end
            lower.axvspan(used, seconds, facecolor="none", edgecolor="#6b6b65", hatch="//", linewidth=0)
            lower.text((used + seconds) / 2, 1.02, "dropped", transform=above, ha="center", fontsize=8)
        lower.set(xlabel="time (s)", xlim=(0, max(seconds, used)))
        lower.xaxis.set_major_locator(MaxNLocator(7))
        figure.colorbar(image, ax=lower, label="log-mel value")
        return figure


def _draw_log_mel(axes: Axes, patches: NDArray[np.float32], loudest: float) -> QuadMesh:
    """Draw patches, float32 [n, 96, 64], end to end; the colour scale goes from digital silence to `loudest`."""
    from librosa import mel_frequencies  # imported here, because it takes 2 s
    from librosa.display import specshow

    frames = patches.reshape(-1, MEL_BANDS)
    # band borders lie half a mel step beside the band centres
    half_steps = mel_frequencies(2 * MEL_BANDS + 3, fmin=MEL_RANGE[0], fmax=MEL_RANGE[1], htk=True)
    image: QuadMesh = specshow(
        frames.T,
        x_coords=np.arange(len(frames) + 1) * HOP / SAMPLE_RATE,
        y_coords=half_steps[1:-1:2],
        x_axis="s",
        y_axis="mel",
        cmap="magma",
        vmin=np.log(LOG_OFFSET),
        vmax=loudest,
        ax=axes,
    )
    axes.set(xlabel="", ylabel="Hz")
    axes.set_yticks(FREQUENCIES)
    axes.minorticks_off()
    return image


def has_values(histories: Sequence[History], key: str) -> bool:
    """Return whether any epoch has a finite value for a key."""
    return any((value := row.get(key)) is not None and isfinite(value) for history in histories for row in history)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure with one plot; width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, name: str) -> str:
    """Return the figure as an <svg> element whose ids are unique in the page."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):  # equal figures give equal text
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
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)  # it would apply to the whole page
    return re.sub(r"font-family: [^;\"]+; ", "", svg)


def main(argv: list[str] | None = None) -> int:
    """Return exit status 0 on success, 1 if the recording can't be read or the picture can't be written."""
    parser = argparse.ArgumentParser(
        prog="python -m training.plots", description="Draw a recording: its waveform and its log-mel patches."
    )
    parser.add_argument("recording", type=Path, metavar="RECORDING", help="a WAV, FLAC, MP3, Ogg, M4A or WebM file")
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="the PNG file to write")
    arguments = parser.parse_args(argv)
    try:
        sound = find_sound(decode(arguments.recording.read_bytes()))
        if sound is None:
            raise InputError(f"{arguments.recording} has {NO_SOUND}; choose another recording")
        recording(sound.waveform, arguments.recording.name).savefig(arguments.picture, dpi=100, format="png")
    except (OSError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
