"""Compute metrics of predictions: accuracy, F1, recall, confusion matrix, calibration; with confidence intervals."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from emotion.labels import EMOTIONS
from training.errors import TrainingError
from training.predictions import Predictions

BINS = 15  # of equal width, for the calibration error (Guo et al., 2017)
RESAMPLES = 1000  # of the bootstrap
MIN_SPEAKERS = 5  # with fewer, the bootstrap draws utterances instead of speakers
SURE_CONFIDENCE = 0.9  # confidence from which a prediction counts as sure: 90 % of such predictions should be right
TOLERANCE = 0.01  # absolute, of the sum of probabilities; float16 graphs round
_LABELS = range(len(EMOTIONS))


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class; None for an undefined metric (the class does not occur, or is never predicted)."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class Bin:
    """The utterances whose highest probability is in (low, high]; means are None without utterances."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error, the mean of |confidence - accuracy| over utterances, and its bins."""

    error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class SureAnswers:
    """The predictions whose confidence is at least SURE_CONFIDENCE.

    Attributes:
        n: their number.
        share: of all predictions.
        precision: share of them that are right; None without any.
    """

    n: int
    share: float
    precision: float | None


@dataclass(frozen=True)
class Metrics:
    """All metrics of one classifier on one set of utterances.

    Attributes:
        n: number of utterances.
        absent: number of utterances left out, because they lack the classifier's modality.
        weighted_f1: over classes by their support.
        macro_f1: over the classes that occur in the truth.
        uar: unweighted average recall, over the classes that occur in the truth.
        classes: by emotion.
        confusion: truth by decision, in the order of EMOTIONS.
        calibration: None for a classifier without probabilities.
        sure: None if the confidence of the predictions is unknown.
        resampled: unit of the bootstrap, "speakers" or "utterances".
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
        """Return the metrics as dictionaries, lists and numbers without NaN, for JSON."""
        return asdict(self)


def of_view(predictions: Predictions, view: str, seed: int = 0) -> Metrics | None:
    """Return the metrics of one view; rows without a prediction (all zero) are left out.

    Args:
        predictions: of all views.
        view: one of VIEWS; its most probable class is the predicted one.
        seed: of the bootstrap.

    Returns:
        None if no row has a prediction.

    Raises:
        TrainingError: a row contains neither probabilities nor only zeros.
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
    """Return the metrics of a classifier without probabilities, such as a baseline.

    Args:
        truth: int64 [n], n > 0, true classes as indices into EMOTIONS.
        decided: int64 [n], predicted classes.
        seed: of the bootstrap.
        speakers: of the utterances, if they are known.
    """
    return _judge(truth, decided, speakers, seed, 0, None)


def answered(predictions: Predictions, view: str) -> NDArray[np.bool_]:
    """Return which rows of a view have a prediction: bool [n]."""
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
    """Return accuracy, weighted F1, macro F1 and UAR of confusion matrices: int64 [..., 5, 5] -> float64 [..., 4]."""
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
    """Return confusion matrices of bootstrap samples: int64 [5, 5] -> int64 [RESAMPLES, 5, 5].

    Drawing n utterances with replacement is one multinomial draw over the cells. Utterances count as independent, so
    the intervals hold for new utterances of the same speakers; those for new speakers are wider.
    """
    n = confusion.sum()
    draws = np.random.default_rng(seed).multinomial(n, confusion.ravel() / n, RESAMPLES)
    return draws.reshape(RESAMPLES, *confusion.shape)


def _resample_speakers(confusions: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return confusion matrices of bootstrap samples of speakers: int64 [speakers, 5, 5] -> int64 [RESAMPLES, 5, 5].

    Utterances of one speaker are similar, so intervals for new speakers need speakers drawn with replacement.
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
