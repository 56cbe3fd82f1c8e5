"""Temperature scaling (Guo et al., 2017): confidence as high as the model is right, decisions unchanged."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from training.errors import TrainingError

LIMITS = (0.05, 20.0)
PRIOR = 0.5  # standard deviation of log T around T = 1, so that a handful of lucky utterances can't ask for certainty


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
        T within LIMITS, or 1.0 where there are no rows.

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
        return float((log_temperature / PRIOR) ** 2 / 2 - likelihood)

    return float(np.exp(minimize_scalar(loss, bounds=np.log(LIMITS), method="bounded").x))
