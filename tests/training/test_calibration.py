"""Test that calibration recovers known temperatures and confidence coefficients."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax

from training.calibration import SCALE_LIMITS, fit_confidence, fit_temperature
from training.errors import TrainingError


def drawn(temperature: float, n: int = 20_000) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return logits scaled by a temperature, and truths drawn from the probabilities of the unscaled logits."""
    random = np.random.default_rng(1)
    right = random.normal(0, 2, (n, 5))
    cumulated = softmax(right, axis=1).cumsum(1)
    truth = (random.random((n, 1)) > cumulated).sum(1).clip(max=4)
    return right * temperature, truth


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_fit_temperature_recovers_the_true_temperature(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.03)


def test_fit_temperature_without_rows_is_one() -> None:
    assert fit_temperature(np.empty((0, 5)), np.empty(0, np.int64)) == 1.0


def test_fit_temperature_of_few_utterances_stays_near_one() -> None:
    logits = np.eye(5)
    assert 0.3 < fit_temperature(logits, np.arange(5)) < 0.7  # all right
    assert 1.1 < fit_temperature(logits, (np.arange(5) + 1) % 5) < 3  # all wrong


def test_fit_temperature_of_many_utterances_reaches_the_limits() -> None:
    logits, truth = np.tile(np.eye(5), (20_000, 1)), np.tile(np.arange(5), 20_000)
    assert fit_temperature(0.01 * logits, truth) == pytest.approx(SCALE_LIMITS[0], rel=0.01)
    assert fit_temperature(100 * logits, (truth + 1) % 5) == pytest.approx(SCALE_LIMITS[1], rel=0.01)


def test_fit_temperature_of_logits_that_are_not_finite_is_rejected() -> None:
    with pytest.raises(TrainingError, match="NaN or infinite"):
        fit_temperature(np.array([[0, 0, np.nan, 0, 0]]), np.array([0]))


@pytest.mark.parametrize(("slope", "offset"), [(0.6, -0.4), (1.0, 0.0), (2.5, -1.0)])
def test_fit_confidence_recovers_the_true_coefficients(slope: float, offset: float) -> None:
    random = np.random.default_rng(2)
    given = random.uniform(0.05, 0.95, 40_000)
    right = random.random(given.size) < expit(slope * logit(given) + offset)
    assert fit_confidence(given, right, np.ones(given.size)) == pytest.approx((slope, offset), abs=0.06)
    contradicted = np.arange(given.size) % 2 == 0
    right[contradicted] = False  # has no effect at weight 0
    assert fit_confidence(given, right, 1.0 - contradicted) == pytest.approx((slope, offset), abs=0.08)


def test_fit_confidence_of_a_tie_stays_at_most_one_half() -> None:
    given = np.random.default_rng(3).uniform(0.3, 0.5, 1000)
    slope, offset = fit_confidence(given, np.ones(1000, np.bool_), np.ones(1000))  # right each time
    assert slope > 0 and offset == 0


def test_fit_confidence_of_few_predictions_stays_moderate() -> None:
    slope, offset = fit_confidence(np.full(8, 0.7), np.ones(8, np.bool_), np.ones(8))
    assert 1 < slope < 2.5 and offset == 0
    slope, offset = fit_confidence(np.full(8, 0.7), np.zeros(8, np.bool_), np.ones(8))
    assert 0.3 < slope < 1 and -1.5 < offset < -0.3


def test_fit_confidence_without_predictions_is_neutral() -> None:
    assert fit_confidence(np.empty(0), np.empty(0, np.bool_), np.empty(0)) == pytest.approx((1.0, 0.0))


def test_fit_confidence_accepts_probabilities_of_zero_and_one() -> None:
    slope, offset = fit_confidence(np.array([0.0, 1.0, 1.0]), np.array([False, True, False]), np.ones(3))
    assert np.isfinite([slope, offset]).all()
