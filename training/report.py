"""Write a run's report: a self-contained HTML page, and all its numbers as JSON."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table

from emotion.audio import SAMPLE_RATE
from emotion.labels import EMOTIONS
from emotion.loudness import find_sound
from training import metrics, plots
from training.corpora.table import Utterance
from training.errors import TrainingError
from training.files import write_atomically
from training.metrics import Estimate, Metrics
from training.predictions import Predictions
from training.recordings import Recordings

ORDER = ("audio", "text", "fused")  # order of the views in tables
PARTS = ("train", "validation", "test")
# view -> published accuracy and weighted F1 of the source system on IEMOCAP's five classes
REFERENCE = {"audio": (0.601, 0.607), "text": (0.655, 0.661), "fused": (0.766, 0.772)}

Judged = dict[str, Metrics | None]  # by view; None for a view without predictions


@dataclass(frozen=True)
class Fold:
    """A trained fold and its test utterances; `evaluate` reports one fold without training.

    Attributes:
        name: of the split, such as "session-1".
        class_counts: part ("train", "validation", "test") -> emotion -> number of utterances; an evaluation has only
            "test".
        test_ids: of the test utterances, for the metrics by fold.
        temperatures: by view.
        digest: of the checkpoint.
        history: a dictionary for each epoch with `epoch` and any of `train_loss`, `validation_loss`,
            `validation_macro_f1`, `validation_uar`, `validation_accuracy`, `learning_rate`, ...
        chosen_epoch: the epoch whose weights were saved.
    """

    name: str
    class_counts: Mapping[str, Mapping[str, int]]
    test_ids: Sequence[str] = ()
    temperatures: Mapping[str, float] = field(default_factory=dict)
    digest: str | None = None
    history: Sequence[Mapping[str, float | None]] = ()
    chosen_epoch: int | None = None


@dataclass(frozen=True)
class RunRecord:
    """Description of a run: corpus, split, settings, environment.

    Attributes:
        name: title of the report.
        corpus: one of `training.corpora.CORPORA`.
        split: kind of the split, such as "session".
        folds: finished folds, at least one.
        planned_folds: number of folds of the full cross-validation.
        shares_speakers: whether test speakers may occur in training.
        seed: of the training.
        settings: name -> value.
        versions: package -> version.
        hardware: description, as `training.environment.hardware` returns it.
        seconds: training time; None for an evaluation.
        dropped: reason -> number of utterances of the corpus left out for it.
        warnings: shown above the metrics, together with those that the report adds.
        date: ISO 8601.
    """

    name: str
    corpus: str
    split: str
    folds: Sequence[Fold]
    planned_folds: int
    shares_speakers: bool
    seed: int
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    hardware: str
    seconds: float | None
    dropped: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Figures:
    """All metrics of a report.

    Attributes:
        modalities: number of utterances with "both", "audio alone", "text alone".
        views: metrics of the calibrated predictions.
        uncalibrated: metrics of the same predictions without temperatures, if they are known.
        improvised: metrics of the improvised utterances, if the corpus has styles.
        groups: metrics by group of speakers, if the corpus has groups.
        modality_ablation: the fused model on utterances with both modalities, with both and with one removed, and the
            unimodal models on the same utterances; empty if it was not computed.
        folds: by the fold's name.
        baselines: by name.
    """

    modalities: dict[str, int]
    views: Judged
    uncalibrated: Judged | None
    improvised: Judged | None
    groups: dict[str, Judged]
    modality_ablation: dict[str, Metrics | None]
    folds: dict[str, Judged]
    baselines: dict[str, Metrics]


def write(
    directory: Path,
    run: RunRecord,
    predictions: Predictions,
    uncalibrated: Predictions | None = None,
    without_audio: Predictions | None = None,
    without_text: Predictions | None = None,
    baselines: Sequence[tuple[str, Metrics]] = (),
    examples: Mapping[str, NDArray[np.float32]] | None = None,
) -> Path:
    """Write report.html and report.json, each atomically.

    Args:
        directory: created if it does not exist.
        run: description of the run.
        predictions: for the test utterances of all folds, calibrated.
        uncalibrated: for the same utterances, without temperatures.
        without_audio: for utterances of the test set without their audio.
        without_text: for utterances of the test set without their text.
        baselines: name and metrics of other classifiers on the same utterances.
        examples: title -> waveform whose spectrogram is drawn; see `example_recordings`.

    Returns:
        The path of report.html.

    Raises:
        TrainingError: predictions are not probabilities or are missing, or the directory can't be written.
    """
    figures = _figures(run, predictions, uncalibrated, without_audio, without_text, baselines)
    warnings = _warnings(run, predictions)
    record = asdict(run)
    for fold in record["folds"]:
        del fold["test_ids"]
    numbers = _plain(
        {"run": record, "warnings": warnings, "figures": asdict(figures), "reference": _reference(run.corpus)}
    )
    page = _page(run, figures, warnings, examples or {})
    write_atomically(directory / "report.json", json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    html = directory / "report.html"
    write_atomically(html, page)
    return html


def example_recordings(utterances: Iterable[Utterance], recordings: Recordings) -> dict[str, NDArray[np.float32]]:
    """Choose the recording of median length of each emotion that has recordings.

    Returns:
        Title ("anger: Ses01F_impro01_F000, 3.2 s") -> waveform, float32 [n] at 16 kHz, as `find_sound` returns it.
    """
    spoken: dict[str, list[tuple[int, str, NDArray[np.float32]]]] = {emotion: [] for emotion in EMOTIONS}
    for utterance in utterances:
        if utterance.audio is not None:
            waveform = recordings[utterance.audio]
            spoken[utterance.emotion].append((waveform.size, utterance.id, waveform))
    examples = {}
    for emotion, found in spoken.items():
        if found:
            samples, id_, waveform = sorted(found, key=lambda each: each[:2])[len(found) // 2]
            if sound := find_sound(waveform):
                examples[f"{emotion}: {id_}, {samples / SAMPLE_RATE:.1f} s"] = sound.waveform
    return examples


def summary_table(predictions: Predictions) -> Table:
    """Return the metrics of the three views as a table for a terminal."""
    table = Table(
        box=SIMPLE, pad_edge=False, caption="95 % intervals below each figure; ECE: expected calibration error"
    )
    table.add_column("model", no_wrap=True)
    for heading in ("n", "accuracy", "weighted F1", "macro F1", "UAR", "ECE"):
        table.add_column(heading, justify="right", no_wrap=True)
    for view, judged in _judge(predictions).items():
        if judged is None:
            table.add_row(view, "0")
            continue
        table.add_row(
            view,
            f"{judged.n:,}",
            *(
                f"{figure.value:.3f}\n[dim]{figure.low:.3f}–{figure.high:.3f}[/]"
                for figure in (judged.accuracy, judged.weighted_f1, judged.macro_f1, judged.uar)
            ),
            f"{judged.calibration.error:.3f}" if judged.calibration else "",
        )
    return table


def _figures(
    run: RunRecord,
    predictions: Predictions,
    uncalibrated: Predictions | None,
    without_audio: Predictions | None,
    without_text: Predictions | None,
    baselines: Sequence[tuple[str, Metrics]],
) -> Figures:
    views = _judge(predictions)
    if not any(views.values()):
        raise TrainingError("there is nothing to report: the model has no prediction for any test utterance")
    audio, text = metrics.answered(predictions, "audio"), metrics.answered(predictions, "text")
    groups = np.array(predictions.groups, object)
    improvised = np.array([style == "improvised" for style in predictions.styles])
    ids = np.array(predictions.ids)
    return Figures(
        modalities={
            "both": int(np.count_nonzero(audio & text)),
            "audio alone": int(np.count_nonzero(audio & ~text)),
            "text alone": int(np.count_nonzero(text & ~audio)),
        },
        views=views,
        uncalibrated=None if uncalibrated is None else _judge(uncalibrated),
        improvised=_judge(predictions.select(improvised)) if improvised.any() else None,
        groups={group: _judge(predictions.select(groups == group)) for group in sorted(set(filter(None, groups)))},
        modality_ablation=_modality_ablation(predictions.select(audio & text), without_audio, without_text),
        folds={fold.name: _judge(predictions.select(np.isin(ids, fold.test_ids))) for fold in run.folds},
        baselines=dict(baselines),
    )


def _judge(predictions: Predictions) -> Judged:
    return {view: metrics.of_view(predictions, view) for view in ORDER}


def _modality_ablation(
    whole: Predictions, without_audio: Predictions | None, without_text: Predictions | None
) -> dict[str, Metrics | None]:
    if not whole.ids or (without_audio is None and without_text is None):
        return {}
    judged = {"fused, both given": metrics.of_view(whole, "fused")}
    for name, deprived in (("fused, audio taken away", without_audio), ("fused, text taken away", without_text)):
        if deprived is not None:
            same = deprived.select(np.isin(np.array(deprived.ids), whole.ids))
            judged[name] = metrics.of_view(same, "fused")
    return judged | {f"{view} model": metrics.of_view(whole, view) for view in ("text", "audio")}


def _warnings(run: RunRecord, predictions: Predictions) -> list[str]:
    found = []
    if run.shares_speakers:
        found.append(
            "Speakers of the test utterances are, or may be, in training too: the metrics hold for these speakers, "
            "those for new speakers may be lower."
        )
    if len(run.folds) < run.planned_folds:
        found.append(
            f"{len(run.folds)} of {run.planned_folds} folds were run; the metrics use their test utterances alone."
        )
    untaught: dict[str, list[str]] = {}
    for fold in run.folds:
        if "train" in fold.class_counts:
            for emotion in EMOTIONS:
                if not fold.class_counts["train"].get(emotion):
                    untaught.setdefault(emotion, []).append(fold.name)
    for emotion, folds in untaught.items():
        where = "" if len(folds) == len(run.folds) else f" in {', '.join(folds)}"
        found.append(f"No training utterance is labelled {emotion}{where}: the model can't have learned it.")
    untested = [emotion for index, emotion in enumerate(EMOTIONS) if not (predictions.truth == index).any()]
    if untested:
        found.append(
            f"No test utterance is labelled {' or '.join(untested)}: macro F1 and unweighted average recall are means "
            f"over the other {len(EMOTIONS) - len(untested)} classes."
        )
    return [*found, *run.warnings]


def _reference(corpus: str) -> dict[str, dict[str, float]] | None:
    if corpus != "iemocap":
        return None
    return {view: {"accuracy": accuracy, "weighted_f1": f1} for view, (accuracy, f1) in REFERENCE.items()}


def _page(
    run: RunRecord, figures: Figures, warnings: Sequence[str], examples: Mapping[str, NDArray[np.float32]]
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["whole"] = lambda value: f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    environment.filters["duration"] = _duration
    pooled = {part: _pooled(run.folds, part) for part in PARTS}
    judged = {view: found for view in reversed(ORDER) if (found := figures.views[view]) is not None}
    return environment.get_template("report.html").render(
        run=run,
        figures=figures,
        warnings=warnings,
        reference=_reference(run.corpus),
        order=ORDER,
        threshold=metrics.SURE_CONFIDENCE,
        emotions=EMOTIONS,
        judged=judged,
        counts={part: classes for part, classes in pooled.items() if classes},
        spread={view: _spread(figures.folds, view) for view in ORDER},
        curves=_curves(run.folds),
        confusions={view: Markup(plots.confusion(found.confusion, view)) for view, found in judged.items()},
        reliability={view: _reliability(figures, view) for view in judged},
        classes=Markup(plots.class_distribution(pooled)),
        shown_seconds=f"{plots.SHOWN_PATCHES * plots.PATCH_SECONDS:.1f}",
        spectrograms=Markup(plots.spectrograms(examples)) if examples else None,
    )


def _pooled(folds: Sequence[Fold], part: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for fold in folds:
        total.update(fold.class_counts.get(part, {}))
    return total


def _curves(folds: Sequence[Fold]) -> list[Markup]:
    histories = [fold.history for fold in folds]
    chosen = [fold.chosen_epoch for fold in folds]
    drawn = []
    for label, series in (
        ("loss", {"train_loss": "training", "validation_loss": "validation"}),
        (
            "on validation",
            {"validation_macro_f1": "macro F1", "validation_uar": "UAR", "validation_accuracy": "accuracy"},
        ),
        ("learning rate", {"learning_rate": "learning rate"}),
    ):
        if known := {key: name for key, name in series.items() if plots.has_values(histories, key)}:
            drawn.append(Markup(plots.curves(histories, chosen, known, label)))
    return drawn


def _reliability(figures: Figures, view: str) -> list[tuple[str, float, Markup]]:
    """Return diagrams before and after the temperature: (when, calibration error, drawing)."""
    diagrams = []
    for when, judged in (("before", figures.uncalibrated), ("after", figures.views)):
        found = judged[view] if judged else None
        if found and found.calibration:
            drawing = Markup(plots.reliability(found.calibration, f"{view}-{when}"))
            diagrams.append((when, found.calibration.error, drawing))
    return diagrams


def _spread(folds: Mapping[str, Judged], view: str) -> dict[str, tuple[float, float]] | None:
    """Return mean and sample standard deviation of accuracy and UAR over folds; None for fewer than two folds."""
    judged = [found for fold in folds.values() if (found := fold[view]) is not None]
    if len(judged) < 2:
        return None
    values: dict[str, list[Estimate]] = {
        "accuracy": [found.accuracy for found in judged],
        "uar": [found.uar for found in judged],
    }
    return {
        name: (float(np.mean(points)), float(np.std(points, ddof=1)))
        for name, points in ((name, [point.value for point in points]) for name, points in values.items())
    }


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _plain(value: Any) -> Any:
    """Return a value in JSON types, with None for numbers that are not finite."""
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case np.generic():
            return _plain(value.item())
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
    return str(value)
