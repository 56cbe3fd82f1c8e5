"""Lay out utterances of unequal length for the served models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def at_least_one(row: NDArray[Any]) -> NDArray[Any]:
    """Return an utterance's elements [n, ...] unchanged, or one element of zeros if there are none.

    A request's tensor must never be empty: Triton's native backends stop copying a batch at a request of zero bytes,
    and the requests behind it read stale memory (docs/upstream-zero-bytes.md).
    """
    return row if len(row) else np.zeros((1, *row.shape[1:]), row.dtype)


def pad_rows(rows: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Pad the utterances of one request to equal length.

    A request with one utterance, the usual case, is neither padded nor copied.

    Args:
        rows: the elements of each utterance, [n, ...] of one dtype; n may be 0.

    Returns:
        The rows, padded with zeros: [utterances, longest, ...] with longest >= 1; and the number of elements of each
        row: int32 [utterances, 1].
    """
    count = np.array([[len(row)] for row in rows], np.int32)
    if len(rows) == 1:
        return at_least_one(rows[0])[None], count
    padded = np.zeros((len(rows), max(1, count.max()), *rows[0].shape[1:]), rows[0].dtype)
    for row, target in zip(rows, padded, strict=True):
        target[: len(row)] = row
    return padded, count
