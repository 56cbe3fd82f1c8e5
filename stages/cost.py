"""The cost of a request: how much work it is for the models, in patches of audio.

A request may have one second of speech or sixty, so the number of requests says little about a wait.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATCHES_PER_TOKEN = 0.1  # in floating-point operations, bert-base beside VGGish
USUAL_COST = 8.0  # of a request, at most
MAX_COUNT = 512  # patches or tokens of an utterance; callers of `queue` alone may send any number

# A request is ordered as if it had arrived later, so that short requests do not wait behind long ones. The delay is
# bounded, so that a long request is still answered before its timeout.
DELAY_S_PER_PATCH = 0.05
MAX_DELAY_S = 3.0
MAX_DELAY_SHARE = 0.2  # of the time that the caller waits


def cost(counts: Mapping[str, NDArray[Any]]) -> float:
    """Return the cost of a request in patches.

    Args:
        counts: PATCH_COUNT and TOKEN_COUNT, int32 [n, 1] each; values outside 0 to MAX_COUNT are limited.
    """
    patches, tokens = (float(np.clip(counts[name], 0, MAX_COUNT).sum()) for name in ("PATCH_COUNT", "TOKEN_COUNT"))
    return patches + PATCHES_PER_TOKEN * tokens


def delay_s(cost: float, waits_s: float) -> float:
    """Return the seconds by which a request is ordered behind its arrival.

    Args:
        cost: cost of the request, in patches.
        waits_s: seconds that its caller waits.
    """
    return min(DELAY_S_PER_PATCH * cost, MAX_DELAY_S, MAX_DELAY_SHARE * waits_s)
