"""Test the metrics against hand-computed values and scikit-learn."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, recall_score

from emotion.labels import EMOTIONS
from emotion.model import VIEWS
from training import metrics
from training.errors import TrainingError
from training.metrics import Metrics
from training.predictions import Predictions


def predictions(truth: list[int], probabilities: NDArray[np.float64]) -> Predictions:
    """Return predictions with the same probabilities in every view."""
    return Predictions(
        [f"u{place}" for place in range(len(truth))],
        np.array(truth),
        dict.fromkeys(VIEWS, probabilities),
        [None] * len(truth),
    )


def confident(decided: list[int], confidence: float = 0.8) -> NDArray[np.float64]:
    """Return rows of probabilities: `confidence` for the decided class, the rest shared by the others."""
    rows = np.full((len(decided), 5), (1 - confidence) / 4)
    rows[np.arange(len(decided)), decided] = confidence
    return rows


def judge(truth: list[int], decided: list[int], seed: int = 0) -> Metrics:
    return metrics.of_decisions(np.array(truth), np.array(decided), seed)


def test_of_view_equals_hand_computed_values() -> None:
    # neutral: 2 of 3 found, 1 false; anger: 1 of 1 found, 1 false; frustration is answered once and never true
    found = judge([0, 0, 0, 2, 3, 3], [0, 0, 2, 2, 1, 0])
    assert found.n == 6
    assert found.accuracy.value == pytest.approx(3 / 6)
    assert found.uar.value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found.macro_f1.value == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert found.weighted_f1.value == pytest.approx((3 * 2 / 3 + 1 * 2 / 3 + 2 * 0) / 6)
    assert found.classes["neutral"] == metrics.ClassMetrics(2 / 3, 2 / 3, 2 / 3, 3)
    assert found.classes["sadness"] == metrics.ClassMetrics(None, 0, 0, 2)
    assert found.classes["frustration"] == metrics.ClassMetrics(0, None, 0, 0)
    assert found.classes["excitement"] == metrics.ClassMetrics(None, None, None, 0)
    assert found.confusion[0] == (2, 0, 1, 0, 0)
    assert found.confusion[3] == (1, 1, 0, 0, 0)


@pytest.mark.parametrize("classes", [[0, 1, 2, 3, 4], [0, 2, 4], [3]])
def test_of_view_equals_sklearn(classes: list[int]) -> None:
    random = np.random.default_rng(len(classes))
    truth = random.choice(classes, 400)
    decided = np.where(random.random(400) < 0.6, truth, random.integers(0, 5, 400))
    found = metrics.of_decisions(truth, decided)
    assert found.accuracy.value == pytest.approx(accuracy_score(truth, decided))
    assert found.weighted_f1.value == pytest.approx(f1_score(truth, decided, average="weighted"))
    assert found.macro_f1.value == pytest.approx(f1_score(truth, decided, labels=classes, average="macro"))
    assert found.uar.value == pytest.approx(recall_score(truth, decided, labels=classes, average="macro"))


def test_of_view_leaves_out_and_counts_rows_without_a_prediction() -> None:
    rows = confident([0, 1, 2])
    rows[1] = 0
    found = metrics.of_view(predictions([0, 0, 2], rows), "audio")
    assert found is not None
    assert (found.n, found.absent, found.accuracy.value) == (2, 1, 1)
    assert metrics.of_view(predictions([0, 0], np.zeros((2, 5))), "audio") is None


@pytest.mark.parametrize("row", [[np.nan, 0.5, 0.5, 0, 0], [1.5, -0.5, 0, 0, 0], [0.5, 0, 0, 0, 0]])
def test_of_view_of_rows_that_are_no_probabilities_is_rejected(row: list[float]) -> None:
    rows = confident([0, 1])
    rows[1] = row
    with pytest.raises(TrainingError, match=r"1 answers of the text view are not probabilities.*u1"):
        metrics.of_view(predictions([0, 1], rows), "text")


def test_calibration_error_of_a_known_case_is_exact() -> None:
    # ten answers at 0.9, six of them right; ten at 0.5, five of them right: (10 x 0.3 + 10 x 0) / 20
    decided = [0] * 20
    truth = [0] * 6 + [1] * 4 + [0] * 5 + [1] * 5
    rows = np.concatenate([confident(decided[:10], 0.9), confident(decided[10:], 0.5)])
    found = metrics.of_view(predictions(truth, rows), "fused")
    assert found is not None and found.calibration is not None
    assert found.calibration.error == pytest.approx(0.15)
    filled = [bin for bin in found.calibration.bins if bin.n]
    assert [bin.n for bin in filled] == [10, 10]
    assert [bin.confidence for bin in filled] == pytest.approx([0.5, 0.9])
    assert [bin.accuracy for bin in filled] == pytest.approx([0.5, 0.6])
    assert all(bin.low < (bin.confidence or 0) <= bin.high for bin in filled)
    assert len(found.calibration.bins) == 15


def test_calibration_puts_a_confidence_of_one_into_the_last_bin() -> None:
    found = metrics.of_view(predictions([0, 1], confident([0, 1], 1.0)), "fused")
    assert found is not None and found.calibration is not None
    assert found.calibration.bins[-1].n == 2
    assert found.calibration.error == 0


def test_intervals_cover_the_true_accuracy() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        truth = random.integers(0, 5, 300)
        decided = np.where(random.random(300) < 0.7, truth, (truth + 1) % 5)
        interval = metrics.of_decisions(truth, decided, trial).accuracy
        covered += interval.low <= 0.7 <= interval.high
    assert 0.9 <= covered / 200 <= 0.99


def test_intervals_of_speakers_cover_the_accuracy_over_all_speakers() -> None:
    random = np.random.default_rng(0)
    covered = {"speakers": 0, "utterances": 0}
    for trial in range(100):
        skill = np.clip(random.normal(0.7, 0.15, 12), 0, 1).repeat(30)  # of 12 speakers with 30 utterances each
        truth = random.integers(0, 5, skill.size)
        decided = np.where(random.random(skill.size) < skill, truth, (truth + 1) % 5)
        named = [f"s{place // 30}" for place in range(skill.size)]
        for speakers in (named, []):
            found = metrics.of_decisions(truth, decided, trial, speakers)
            covered[found.resampled] += found.accuracy.low <= 0.695 <= found.accuracy.high
    assert covered["speakers"] >= 85 > covered["utterances"]


def test_intervals_with_few_or_unknown_speakers_resample_utterances() -> None:
    answers = predictions([0, 1] * 10, confident([0, 0] * 10))
    few: list[str | None] = ["a", "b", "c", "d"] * 5
    for speakers in (few, [*map(str, range(19)), None]):
        found = metrics.of_view(replace(answers, speakers=speakers), "fused")
        assert found is not None and found.resampled == "utterances"
    found = metrics.of_view(replace(answers, speakers=["a", "b", "c", "d", "e"] * 4), "fused")
    assert found is not None and found.resampled == "speakers"


def test_intervals_narrow_with_more_utterances() -> None:
    few, many = judge([0, 1] * 50, [0, 0] * 50), judge([0, 1] * 5000, [0, 0] * 5000)
    assert few.uar.value == many.uar.value
    for name in ("accuracy", "weighted_f1", "macro_f1"):
        width = [getattr(found, name).high - getattr(found, name).low for found in (few, many)]
        assert width[1] == pytest.approx(width[0] / 10, rel=0.15)  # by the square root of 100


def test_intervals_depend_on_the_seed_alone() -> None:
    truth, decided = [0, 1, 2, 3, 4] * 20, [0, 1, 2, 4, 4] * 15 + [0] * 25
    assert judge(truth, decided, 3) == judge(truth, decided, 3)
    assert judge(truth, decided, 3) != judge(truth, decided, 4)


def test_of_view_of_ten_thousand_utterances_is_fast() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 5, 10_000)
    rows = random.dirichlet(np.ones(5), 10_000)
    began = time.perf_counter()
    metrics.of_view(predictions(truth.tolist(), rows), "fused")
    assert time.perf_counter() - began < 2


def test_as_dict_can_be_written_as_json() -> None:
    text = json.dumps(judge([0, 3], [0, 1]).as_dict(), allow_nan=False)
    assert json.loads(text)["classes"]["sadness"]["precision"] is None
    assert list(json.loads(text)["classes"]) == list(EMOTIONS)


def test_sure_answers_have_at_least_the_threshold() -> None:
    answers = predictions([0, 1, 2, 3], confident([0, 1, 0, 3]))
    answers.confidence = {"fused": np.array([0.95, metrics.SURE_CONFIDENCE, 0.97, 0.89]), "text": np.full(4, 0.5)}
    found = metrics.of_view(answers, "fused")
    assert found is not None and found.sure == metrics.SureAnswers(3, 0.75, 2 / 3)
    found = metrics.of_view(answers, "text")
    assert found is not None and found.sure == metrics.SureAnswers(0, 0.0, None)
    found = metrics.of_view(answers, "audio")
    assert found is not None and found.sure is None  # no confidence is known for audio
