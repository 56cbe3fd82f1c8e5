"""Summarise and draw a corpus: emotions, durations, text lengths."""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emotion.audio import MIN_SAMPLES, SAMPLE_RATE
from emotion.errors import InputError
from emotion.labels import EMOTIONS
from emotion.progress import progress
from emotion.text import WordPiece, clean
from training.corpora.table import Corpus

MAX_GROUPS = 10  # largest number of sessions or speakers that bars are stacked by; there are ten distinct colours
ONE_PATCH_SECONDS = MIN_SAMPLES / SAMPLE_RATE  # shorter recordings are padded


def summary(corpus: Corpus, tokenizer: WordPiece | None = None) -> dict[str, Any]:
    """Return counts and lengths of a corpus, for JSON.

    Returns:
        utterances; emotions (count of each); with audio: recordings, hours, seconds (median, p95, longest),
        under_one_patch (recordings shorter than 0.975 s), unreadable (names of files whose header can't be read);
        with texts and a tokenizer: texts, tokens (median, p95, longest), too_long (texts that the encoder rejects).
    """
    emotions = Counter(utterance.emotion for utterance in corpus.utterances)
    numbers: dict[str, Any] = {
        "utterances": len(corpus.utterances),
        "emotions": {emotion: emotions[emotion] for emotion in EMOTIONS},
    }
    seconds, unreadable = _durations(corpus)
    if seconds.size or unreadable:
        numbers |= {
            "recordings": int(seconds.size) + len(unreadable),
            "hours": float(seconds.sum() / 3600),
            "seconds": _spread(seconds),
            "under_one_patch": int((seconds < ONE_PATCH_SECONDS).sum()),
            "unreadable": unreadable,
        }
    if tokenizer is not None:
        tokens, too_long = _tokens(corpus, tokenizer)
        if tokens.size or too_long:
            numbers |= {"texts": int(tokens.size) + too_long, "tokens": _spread(tokens), "too_long": too_long}
    return numbers


def draw(corpus: Corpus, tokenizer: WordPiece | None = None) -> Figure:
    """Draw a panel each for emotions, durations (with audio) and tokens (with texts and a tokenizer)."""
    seconds, _ = _durations(corpus)
    tokens = _tokens(corpus, tokenizer)[0] if tokenizer is not None else np.empty(0)
    panels = 1 + bool(seconds.size) + bool(tokens.size)
    figure = Figure(figsize=(5.5 * panels, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = iter(figure.subplots(1, panels, squeeze=False)[0])
    figure.suptitle(f"{corpus.name}: {len(corpus.utterances)} utterances")
    _draw_emotions(next(axes), corpus)
    if seconds.size:
        _draw_histogram(next(axes), seconds, "duration (s)", "recordings")
    if tokens.size:
        _draw_histogram(next(axes), tokens, "WordPiece tokens", "texts")
    return figure


def _durations(corpus: Corpus) -> tuple[NDArray[np.float64], list[str]]:
    """Return the seconds of each recording by its header, float64 [n], and the files without a readable header."""
    paths = [utterance.audio for utterance in corpus.utterances if utterance.audio is not None]
    found: list[float] = []
    unreadable: list[str] = []
    with progress() as bar:
        for path in bar.track(paths, description="reading durations"):
            seconds = _seconds(path)
            if seconds is None:
                unreadable.append(str(path))
            else:
                found.append(seconds)
    return np.asarray(found, np.float64), unreadable


@cache  # summary and draw read the same headers
def _seconds(path: Path) -> float | None:
    try:
        return float(soundfile.info(path).duration)
    except soundfile.LibsndfileError:
        return None


def _tokens(corpus: Corpus, tokenizer: WordPiece) -> tuple[NDArray[np.float64], int]:
    """Return the number of WordPieces of each text, float64 [n], and the number of texts too long to encode."""
    lengths: list[int] = []
    too_long = 0
    for utterance in corpus.utterances:
        if utterance.text is not None:
            try:
                lengths.append(tokenizer.encode(clean(utterance.text)).size)
            except InputError:
                too_long += 1
    return np.asarray(lengths, np.float64), too_long


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    if not values.size:
        return {}
    median, p95 = np.percentile(values, (50, 95))
    return {"median": float(median), "p95": float(p95), "longest": float(values.max())}


def _draw_emotions(axes: Axes, corpus: Corpus) -> None:
    """Draw bars by emotion, stacked by session or speaker if there are at most MAX_GROUPS."""
    label, groups = "", ["" for _ in corpus.utterances]
    for field in ("session", "speaker"):
        names = [getattr(utterance, field) or "unknown" for utterance in corpus.utterances]
        if 1 < len(set(names)) <= MAX_GROUPS:
            label, groups = field, names
            break
    counts = Counter(zip(groups, (utterance.emotion for utterance in corpus.utterances), strict=True))
    bottom = np.zeros(len(EMOTIONS), np.int64)
    for group in sorted(set(groups)):
        heights = np.array([counts[group, emotion] for emotion in EMOTIONS])
        axes.bar(EMOTIONS, heights, bottom=bottom, label=group)
        bottom += heights
    axes.bar_label(axes.bar(EMOTIONS, bottom, color="none"), fmt="%d")
    axes.set_ylabel("utterances")
    axes.tick_params(axis="x", labelrotation=20)
    if label:
        axes.legend(title=label, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def _draw_histogram(axes: Axes, values: NDArray[np.float64], quantity: str, unit: str) -> None:
    spread = _spread(values)
    axes.hist(values, bins=40, color="tab:grey")
    axes.axvline(spread["median"], color="tab:blue", label=f"median {spread['median']:.3g}")
    axes.axvline(spread["p95"], color="tab:red", label=f"95 % below {spread['p95']:.3g}")
    axes.set_xlabel(quantity)
    axes.set_ylabel(unit)
    axes.legend()
