"""The cost of a request by its patches and tokens."""

import numpy as np
import pytest

from stages.cost import cost


@pytest.mark.parametrize(
    ("patches", "tokens", "expected"),
    [([[3]], [[15]], 4.5), ([[0]], [[512]], 51.2), ([[-(2**31)]], [[160]], 16.0), ([[7], [7]], [[10], [0]], 15.0)],
)
def test_cost_counts_the_patches_and_tokens_of_all_utterances(
    patches: list[list[int]], tokens: list[list[int]], expected: float
) -> None:
    counts = {"PATCH_COUNT": np.array(patches, np.int32), "TOKEN_COUNT": np.array(tokens, np.int32)}
    assert cost(counts) == pytest.approx(expected)
