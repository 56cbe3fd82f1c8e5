"""Fit temperatures and confidence coefficients on validation predictions.

Temperatures (Guo et al., 2017) calibrate the probabilities of each view, Platt scaling (Platt, 1999) the confidence.
Neither changes which class is predicted.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_expit, log_softmax, logit

from emotion.model import LOGIT_LIMIT
from training.errors import TrainingError

SCALE_LIMITS = (0.05, 20.0)  # of temperatures and of slopes
PRIOR_DEVIATION = 0.5  # of log T, of the logarithm of a slope, and of an offset; limits the effect of few utterances
MIN_OFFSET = -10.0


def fit_temperature(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Return the T for which softmax(logits / T) gives the true labels the highest likelihood.

    A fully trained network is overconfident. Division of its logits by T > 1 softens all probabilities and keeps the
    order of the classes. The log-normal prior on T has no effect with hundreds of utterances, and keeps T moderate with
    thirty.

    Args:
        logits: float64 [n, 5] of utterances that were not trained on, without rows of an absent modality.
        truth: int64 [n], indices into EMOTIONS.

    Returns:
        T within SCALE_LIMITS; 1.0 if there are no rows.

    Raises:
        TrainingError: a logit is not finite.
    """
    if not truth.size:
        return 1.0
    if not np.isfinite(logits).all():
        raise TrainingError(
            "no temperature can be fitted, as some logits are NaN or infinite; train again with a lower learning rate"
        )
    rows = np.arange(truth.size)

    def loss(log_temperature: float) -> float:
        likelihood = log_softmax(logits / np.exp(log_temperature), axis=1)[rows, truth].sum()
        return float((log_temperature / PRIOR_DEVIATION) ** 2 / 2 - likelihood)

    return float(np.exp(minimize_scalar(loss, bounds=np.log(SCALE_LIMITS), method="bounded").x))


def fit_confidence(
    probabilities: NDArray[np.float64], right: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the slope and the offset for which sigmoid(slope * logit(probability) + offset) is best calibrated.

    They maximise the weighted likelihood of `right` under normal priors on log(slope) and on the offset, around 0. The
    slope is positive and the offset at most 0, so that a probability of 0.5 or less gives a confidence
    of 0.5 or less (see emotion.model.confidence).

    Args:
        probabilities: float64 [n], of the predicted labels.
        right: bool [n], whether the predicted label is the true one.
        weights: float64 [n], 0 to 1.

    Returns:
        Slope and offset; 1 and 0 if there are no predictions.
    """
    logits = logit(np.clip(probabilities, LOGIT_LIMIT, 1 - LOGIT_LIMIT))

    def loss(parameters: NDArray[np.float64]) -> float:
        log_slope, offset = parameters
        values = np.exp(log_slope) * logits + offset
        likelihood = (weights * log_expit(np.where(right, values, -values))).sum()
        return float(((log_slope / PRIOR_DEVIATION) ** 2 + (offset / PRIOR_DEVIATION) ** 2) / 2 - likelihood)

    limits = (tuple(np.log(SCALE_LIMITS)), (MIN_OFFSET, 0.0))
    log_slope, offset = minimize(loss, (0.0, 0.0), method="L-BFGS-B", bounds=limits).x.tolist()
    return float(np.exp(log_slope)), float(offset)
