"""Test the outputs of the Python stages in a real Triton."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient import grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from emotion import audio, decoding, text
from emotion.checkpoint import Checkpoint
from serving import Triton


@pytest.fixture(scope="module")
def client(server: Triton) -> grpc.InferenceServerClient:
    return grpc.InferenceServerClient(server.grpc_url)


def infer(client: grpc.InferenceServerClient, model: str, **arrays: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return all outputs of one request."""
    inputs = []
    for name, array in arrays.items():
        tensor = grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        inputs.append(tensor.set_data_from_numpy(array))
    result = client.infer(model, inputs)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def preprocess(client: grpc.InferenceServerClient, *rows: tuple[bytes, bytes]) -> dict[str, NDArray[Any]]:
    """Return the outputs of `preprocess` for one request of (AUDIO, TEXT) rows."""
    columns = [np.array(column, np.object_)[:, None] for column in zip(*rows, strict=True)]
    return infer(client, "preprocess", AUDIO=columns[0], TEXT=columns[1])


@pytest.mark.parametrize("has_audio", [True, False])
@pytest.mark.parametrize("has_text", [True, False])
def test_preprocess_with_absent_modalities_returns_no_empty_tensor(
    client: grpc.InferenceServerClient, recordings: dict[str, bytes], has_audio: bool, has_text: bool
) -> None:
    row = (recordings["austen-0880.flac"] if has_audio else b"", b"hello there" if has_text else b"")
    if not has_audio and not has_text:
        with pytest.raises(InferenceServerException, match="AUDIO and TEXT are both empty"):
            preprocess(client, row)
        return
    found = preprocess(client, row)
    patches, tokens = found["PATCHES"], found["INPUT_IDS"]
    assert (str(patches.dtype), patches.shape[2:], str(tokens.dtype)) == ("float32", (96, 64), "int64")
    assert patches.shape[1] == max(1, found["PATCH_COUNT"].item())
    assert tokens.shape[1] == max(1, found["TOKEN_COUNT"].item())
    assert bool(found["PATCH_COUNT"].item()) == has_audio
    assert bool(found["TOKEN_COUNT"].item()) == has_text
    if not has_audio:
        assert not patches.any()
    if not has_text:
        assert not tokens.any()


def test_preprocess_of_rows_without_a_modality_returns_one_unused_element(
    client: grpc.InferenceServerClient, recordings: dict[str, bytes]
) -> None:
    texts = preprocess(client, (b"", b"hello"), (b"", b"hello there"))
    assert texts["PATCHES"].shape == (2, 1, 96, 64)
    assert texts["PATCH_COUNT"].tolist() == [[0], [0]]
    clips = preprocess(client, *[(recordings["austen-0880.flac"], b"")] * 2)
    assert clips["INPUT_IDS"].tolist() == [[0], [0]]
    assert clips["TOKEN_COUNT"].tolist() == [[0], [0]]


def test_preprocess_returns_the_results_of_the_front_ends(
    client: grpc.InferenceServerClient, recordings: dict[str, bytes], checkpoint: Checkpoint
) -> None:
    data, sentence = recordings["austen-0880.flac"], "so it is"
    found = preprocess(client, (data, sentence.encode()), (b"", b"no"))
    patches = audio.sound_patches(decoding.decode(data))
    ids = text.WordPiece(checkpoint.tokenizer).encode(text.clean(sentence))
    assert found["PATCH_COUNT"].tolist() == [[len(patches)], [0]]
    assert found["TOKEN_COUNT"].tolist() == [[len(ids)], [3]]
    np.testing.assert_allclose(found["PATCHES"][0], patches, atol=1e-5)  # the stage's numpy uses one thread
    np.testing.assert_array_equal(found["INPUT_IDS"][0], ids)
    assert not found["INPUT_IDS"][1, 3:].any()


def test_queue_returns_counts_unchanged(client: grpc.InferenceServerClient) -> None:
    counts = np.array([[3], [0], [2**31 - 1]], np.int32)
    found = infer(client, "queue", PATCH_COUNT=counts, TOKEN_COUNT=-counts)
    np.testing.assert_array_equal(found["PATCH_COUNT"], counts)
    np.testing.assert_array_equal(found["TOKEN_COUNT"], -counts)
