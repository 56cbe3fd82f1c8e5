"""Test the parity gate: its utterances, its calculations, and the ONNX and PyTorch models."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from emotion.checkpoint import Checkpoint
from emotion.text import WordPiece
from export import parity
from export.parity import Utterance


@pytest.fixture(scope="module")
def utterances(checkpoint: Checkpoint) -> list[Utterance]:
    return parity.mixed_utterances(WordPiece(checkpoint.tokenizer))


def test_mixed_utterances_have_mixed_lengths(utterances: list[Utterance]) -> None:
    assert len(utterances) == 64
    patches = [len(utterance.patches) for utterance in utterances if len(utterance.patches)]
    tokens = [len(utterance.ids) for utterance in utterances if len(utterance.ids)]
    assert min(patches) <= 2
    assert max(patches) >= 15
    assert len(set(patches)) >= 10
    assert min(tokens) < 8
    assert max(tokens) > 80
    assert len(set(tokens)) >= 30


def test_mixed_utterances_one_of_eight_lacks_audio_and_one_lacks_text(utterances: list[Utterance]) -> None:
    assert [number for number, each in enumerate(utterances) if not len(each.patches)] == list(range(3, 64, 8))
    assert [number for number, each in enumerate(utterances) if not len(each.ids)] == list(range(6, 64, 8))


def test_mixed_utterances_have_the_types_of_the_front_ends(utterances: list[Utterance]) -> None:
    for utterance in utterances:
        assert utterance.patches.dtype == np.float32
        assert utterance.patches.shape[1:] == (96, 64)
        assert utterance.ids.dtype == np.int64
        assert np.isfinite(utterance.patches).all()
    assert {(each.ids[0], each.ids[-1]) for each in utterances if len(each.ids)} == {(101, 102)}  # [CLS] and [SEP]


def test_mixed_utterances_are_reproducible(checkpoint: Checkpoint, utterances: list[Utterance]) -> None:
    for first, again in zip(utterances, parity.mixed_utterances(WordPiece(checkpoint.tokenizer)), strict=True):
        assert np.array_equal(first.patches, again.patches)
        assert np.array_equal(first.ids, again.ids)


def utterances_of_lengths(*lengths: tuple[int, int]) -> list[Utterance]:
    """Return utterances with these numbers of patches and tokens."""
    return [Utterance(np.zeros((patches, 96, 64), np.float32), np.zeros(ids, np.int64)) for patches, ids in lengths]


def compare(found: Mapping[str, list[list[float]]], expected: Mapping[str, list[list[float]]]) -> parity.Comparison:
    """Compare two utterances, of 1 patch and 2 tokens, and of 3 patches and 4 tokens."""
    first, second = ({name: np.array(rows, np.float32) for name, rows in each.items()} for each in (found, expected))
    return parity._compare("this against that", first, second, 1e-3, utterances_of_lengths((1, 2), (3, 4)))


def test_compare_finds_the_tensor_and_utterance_with_the_largest_difference() -> None:
    expected = {"PROBABILITIES": [[0.5, 0.5], [0.5, 0.5]], "TEXT_PROBABILITIES": [[0.0, 1.0], [1.0, 0.0]]}
    found = {"PROBABILITIES": [[0.6, 0.5], [0.5, 0.5]], "TEXT_PROBABILITIES": [[0.0, 1.0], [0.75, 0.0]]}
    worst = compare(found, expected)
    assert (worst.name, worst.tensor, worst.tolerance) == ("this against that", "TEXT_PROBABILITIES", 1e-3)
    assert worst.utterance == "utterance 1 (3 patches and 4 tokens)"
    assert worst.difference == pytest.approx(0.25)


def test_compare_of_embeddings_is_relative_to_the_largest_value() -> None:
    worst = compare({"AUDIO_EMBEDDING": [[1.0], [-200.0]]}, {"AUDIO_EMBEDDING": [[3.0], [-200.0]]})
    assert worst.difference == pytest.approx(2 / 200)
    small = compare({"AUDIO_EMBEDDING": [[0.1], [0.2]]}, {"AUDIO_EMBEDDING": [[0.1], [0.1]]})
    assert small.difference == pytest.approx(0.1)  # differences of values below 1 are absolute


def test_compare_of_equal_tensors_is_zero_and_names_a_tensor() -> None:
    worst = compare({"AUDIO_EMBEDDING": [[1.0], [2.0]]}, {"AUDIO_EMBEDDING": [[1.0], [2.0]]})
    assert (worst.difference, worst.tensor) == (0.0, "AUDIO_EMBEDDING")


def test_compare_of_confidences_leaves_out_utterances_whose_labels_differ() -> None:
    expected = {"PROBABILITIES": [[0.5, 0.4999], [0.9, 0.1]], "CONFIDENCE": [[0.5], [0.8]]}
    tied = {"PROBABILITIES": [[0.4999, 0.5], [0.9, 0.1]], "CONFIDENCE": [[0.1], [0.8]]}
    assert compare(tied, expected).tensor == "PROBABILITIES"
    assert compare(tied | {"CONFIDENCE": [[0.1], [0.7]]}, expected).difference == pytest.approx(0.1)
    assert compare(tied | {"CONFIDENCE": [[np.nan], [0.8]]}, expected).difference == np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("tensor", ["AUDIO_EMBEDDING", "TEXT_EMBEDDING"])
def test_compare_of_nan_or_infinity_is_over_tolerance(value: float, tensor: str) -> None:
    expected = {"AUDIO_EMBEDDING": [[1.0, 1.0], [2.0, 2.0]], "TEXT_EMBEDDING": [[1.0], [2.0]]}
    rows = [[1.0, 9.0], [2.0, value]] if tensor == "AUDIO_EMBEDDING" else [[9.0], [value]]
    worst = compare(expected | {tensor: rows}, expected)
    assert not worst.difference <= worst.tolerance
    assert (worst.tensor, worst.utterance) == (tensor, "utterance 1 (3 patches and 4 tokens)")


def test_onnx_models_equal_the_pytorch_model_with_one_or_both_modalities(
    checkpoint: Checkpoint, repository: Path, utterances: list[Utterance]
) -> None:
    chosen = [utterances[0], utterances[3], utterances[6]]
    assert [(bool(len(each.patches)), bool(len(each.ids))) for each in chosen] == [
        (True, True),
        (False, True),
        (True, False),
    ]
    answers = parity.OnnxModels(repository)
    together = answers(chosen)
    assert together["PROBABILITIES"].sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    assert not together["AUDIO_PROBABILITIES"][1].any()
    assert not together["TEXT_PROBABILITIES"][2].any()
    assert together["TEXT_PROBABILITIES"][1] == pytest.approx(together["PROBABILITIES"][1])
    for row, utterance in enumerate(chosen):
        reference = parity.eager(checkpoint, utterance)
        assert reference.keys() == together.keys() - {"PATCHES_USED", "TOKENS_USED"}
        for name, tensor in reference.items():
            scale = max(1.0, float(np.abs(tensor).max()))
            assert together[name][row : row + 1] / scale == pytest.approx(tensor / scale, abs=1e-4), name
    assert np.abs(together["PROBABILITIES"] - together["PROBABILITIES"][0]).max(axis=1)[1:].min() > 1e-3
