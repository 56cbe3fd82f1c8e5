"""What is fitted on validation answers so that probabilities mean what they say; decisions stay as they are.

Temperatures (Guo et al., 2017) calibrate the probabilities of each view, Platt scaling (Platt, 1999) the confidence.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_expit, log_softmax, logit

from emotion.model import LOGIT_LIMIT
from training.errors import TrainingError

SCALE_LIMITS = (0.05, 20.0)  # of temperatures and of slopes
# standard deviation of log T, of the logarithm of a slope, and of an offset, each around 0: a handful of lucky
# utterances can't ask for certainty
PRIOR_DEVIATION = 0.5
MIN_OFFSET = -10.0


def fit_temperature(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The T for which softmax(logits / T) gives the truth the highest likelihood.

    A network trained to the end says "99 %" where it is right nine times in ten. Dividing its logits by one number
    above 1 softens all answers alike, and no class overtakes another; the number is fitted on utterances that were
    not trained on. What is minimised, in log T, is the negative log-likelihood with a log-normal prior on T: among
    hundreds of utterances the prior is not felt, among thirty it keeps T within reason.

    Args:
        logits: float64 [n, 5]; rows of an absent modality are not among them.
        truth: int64 [n], indices into EMOTIONS.

    Returns:
        T within SCALE_LIMITS, or 1.0 where there are no rows.

    Raises:
        TrainingError: logits that are not finite.
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
    slope is positive and the offset at most 0, so that a probability of 0.5 or less is never sure (see
    emotion.model.confidence).

    Args:
        probabilities: float64 [n], of the labels.
        right: bool [n], whether the label was the truth.
        weights: float64 [n], 0 to 1.

    Returns:
        Slope and offset; 1 and 0 where there are no answers.
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
