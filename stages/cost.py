"""The cost of a request: how much work it is for the models, in patches of audio.

A request may have one second of speech or sixty, so the number of requests says little about a wait.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATCHES_PER_TOKEN = 0.1  # in floating-point operations, bert-base beside VGGish


def cost(counts: Mapping[str, NDArray[Any]]) -> float:
    """Return the cost of a request in patches.

    Args:
        counts: PATCH_COUNT and TOKEN_COUNT, int32 [n, 1] each.
            Callers of `queue` may send negative counts, which are 0.
    """
    patches, tokens = (float(np.maximum(counts[name], 0).sum()) for name in ("PATCH_COUNT", "TOKEN_COUNT"))
    return patches + PATCHES_PER_TOKEN * tokens
