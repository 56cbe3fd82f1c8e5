"""How good a set of answers is: accuracy, F1, recall, confusions, calibration, each figure with its uncertainty."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from emotion.labels import EMOTIONS
from training.errors import TrainingError
from training.predictions import Predictions

BINS = 15  # of the top probability, equally wide; Guo et al., 2017
RESAMPLES = 1000
MIN_SPEAKERS = 5  # with fewer, the bootstrap draws utterances instead of speakers
SURE_CONFIDENCE = 0.9  # confidence from which an answer counts as sure: right nine times in ten
TOLERANCE = 0.01  # of a row's sum: fp16 graphs round
_LABELS = range(len(EMOTIONS))


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassMetrics:
    """One class; None where a figure is undefined (nothing to find, nothing found)."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class Bin:
    """The utterances whose top probability is in (low, high]; means are None where there are none."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error, the mean of |confidence - accuracy| over utterances, and what it is made of."""

    error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class SureAnswers:
    """The answers whose confidence is at least SURE_CONFIDENCE.

    Attributes:
        n: how many.
        share: of all answers.
        precision: share of them that are right; None where there are none.
    """

    n: int
    share: float
    precision: float | None


@dataclass(frozen=True)
class Metrics:
    """All figures of one classifier on one set of utterances.

    Attributes:
        n: utterances judged.
        absent: utterances left out, as the classifier had nothing to go by.
        weighted_f1: over classes by their support.
        macro_f1: over the classes that occur in the truth.
        uar: unweighted average recall, over the classes that occur in the truth.
        classes: by emotion.
        confusion: truth by decision, in the order of EMOTIONS.
        calibration: None for a classifier without probabilities.
        sure: None where the confidence of the answers is not known.
        resampled: what the intervals' bootstrap draws, "speakers" or "utterances".
    """

    n: int
    absent: int
    accuracy: Estimate
    weighted_f1: Estimate
    macro_f1: Estimate
    uar: Estimate
    classes: dict[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]
    calibration: Calibration | None
    sure: SureAnswers | None = None
    resampled: str = "utterances"

    def as_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and numbers, fit for JSON: no NaN."""
        return asdict(self)


def of_view(predictions: Predictions, view: str, seed: int = 0) -> Metrics | None:
    """Judge one view by its most probable class; rows without an answer (all zero) are left out.

    Args:
        view: one of VIEWS.
        seed: of the bootstrap.

    Returns:
        None where no row has an answer.

    Raises:
        TrainingError: a row is neither probabilities nor all zero.
    """
    probabilities = predictions.probabilities[view]
    present = answered(predictions, view)
    wrong = present & ~((probabilities >= 0).all(1) & (np.abs(probabilities.sum(1) - 1) <= TOLERANCE))
    if wrong.any():
        raise TrainingError(
            f"{np.count_nonzero(wrong)} answers of the {view} view are not probabilities, the first for utterance "
            f"{predictions.ids[wrong.argmax()]} ({probabilities[wrong.argmax()].tolist()}); each must be five numbers "
            "from 0 that sum to 1, or five zeros for an absent modality: was the model trained without NaN?"
        )
    if not present.any():
        return None
    truth, probabilities = predictions.truth[present], probabilities[present]
    decided = probabilities.argmax(1)
    calibration = _calibration(probabilities.max(1), decided == truth)
    sure = None
    if view in predictions.confidence:
        sure = _sure(predictions.confidence[view][present], decided == truth)
    speakers = [speaker for speaker, there in zip(predictions.speakers, present, strict=True) if there]
    return _judge(truth, decided, speakers, seed, int(np.count_nonzero(~present)), calibration, sure)


def of_decisions(
    truth: NDArray[np.int64], decided: NDArray[np.int64], seed: int = 0, speakers: Sequence[str | None] = ()
) -> Metrics:
    """Judge a classifier that gives no probabilities, such as a baseline.

    Args:
        truth: int64 [n], n > 0, indices into EMOTIONS.
        decided: int64 [n], the same.
        seed: of the bootstrap.
        speakers: of the utterances, where they are known.
    """
    return _judge(truth, decided, speakers, seed, 0, None)


def answered(predictions: Predictions, view: str) -> NDArray[np.bool_]:
    """Which rows of a view have an answer: bool [n]."""
    return (predictions.probabilities[view] != 0).any(1)


def _judge(
    truth: NDArray[np.int64],
    decided: NDArray[np.int64],
    speakers: Sequence[str | None],
    seed: int,
    absent: int,
    calibration: Calibration | None,
    sure: SureAnswers | None = None,
) -> Metrics:
    confusion = confusion_matrix(truth, decided, labels=_LABELS)
    values = _summaries(confusion)
    known = sorted({speaker for speaker in speakers if speaker is not None})
    by_speaker = len(known) >= MIN_SPEAKERS and None not in speakers
    if by_speaker:
        said = np.array(speakers)
        parts = [confusion_matrix(truth[said == each], decided[said == each], labels=_LABELS) for each in known]
        samples = _resample_speakers(np.stack(parts), seed)
    else:
        samples = _resample(confusion, seed)
    low, high = np.percentile(_summaries(samples), (2.5, 97.5), axis=0)
    accuracy, weighted_f1, macro_f1, uar = (
        Estimate(*figures) for figures in np.stack([values, low, high], axis=1).tolist()
    )
    table = precision_recall_fscore_support(truth, decided, labels=_LABELS, zero_division=np.nan)
    classes = {
        emotion: ClassMetrics(_defined(precision), _defined(recall), _defined(f1), int(support))
        for emotion, precision, recall, f1, support in zip(EMOTIONS, *table, strict=True)
    }
    counts = tuple(map(tuple, confusion.tolist()))
    resampled = "speakers" if by_speaker else "utterances"
    summaries = (accuracy, weighted_f1, macro_f1, uar)
    return Metrics(truth.size, absent, *summaries, classes, counts, calibration, sure, resampled)


def _defined(figure: np.float64) -> float | None:
    return None if np.isnan(figure) else float(figure)


def _summaries(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Accuracy, weighted F1, macro F1 and UAR of confusion matrices: [..., 5, 5] -> [..., 4]."""
    support, found = confusion.sum(-1), confusion.sum(-2)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    n, occurring = support.sum(-1), np.count_nonzero(support, axis=-1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + found, 1)
    occurs = support > 0
    return np.stack(
        [
            hits.sum(-1) / n,
            (f1 * support).sum(-1) / n,
            (f1 * occurs).sum(-1) / occurring,
            recall.sum(-1) / occurring,
        ],
        axis=-1,
    )


def _resample(confusion: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Confusion matrices of bootstrap samples: [5, 5] -> [RESAMPLES, 5, 5].

    Drawing n utterances with replacement is one multinomial draw over the cells. Utterances count as independent:
    the intervals hold for new utterances of the same speakers, and are narrower than for new speakers.
    """
    n = confusion.sum()
    draws = np.random.default_rng(seed).multinomial(n, confusion.ravel() / n, RESAMPLES)
    return draws.reshape(RESAMPLES, *confusion.shape)


def _resample_speakers(confusions: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return confusion matrices of bootstrap samples that draw speakers: [speakers, 5, 5] -> [RESAMPLES, 5, 5].

    A speaker's utterances are alike, so intervals for new speakers need whole speakers drawn with replacement.
    """
    count = len(confusions)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    samples: NDArray[np.int64] = np.tensordot(draws, confusions, axes=1)
    return samples


def _calibration(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibration:
    edges = np.linspace(0, 1, BINS + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)
    bins, error = [], 0.0
    for index in range(BINS):
        chosen = place == index
        n = int(np.count_nonzero(chosen))
        means = (float(confidence[chosen].mean()), float(right[chosen].mean())) if n else (None, None)
        bins.append(Bin(float(edges[index]), float(edges[index + 1]), n, *means))
        error += abs(float(confidence[chosen].sum() - right[chosen].sum())) / confidence.size
    return Calibration(error, tuple(bins))


def _sure(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> SureAnswers:
    chosen = confidence >= SURE_CONFIDENCE
    n = int(np.count_nonzero(chosen))
    return SureAnswers(n, n / chosen.size, float(right[chosen].mean()) if n else None)
