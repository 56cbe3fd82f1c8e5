"""The whole service in a real Triton, tested as callers use it."""

import io
import json
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from types import ModuleType

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

from emotion import audio, decoding, text
from emotion.checkpoint import Checkpoint
from emotion.labels import EMOTIONS
from export import parity
from serving import Triton
from tests.conftest import HAS_NATIVE_ONNXRUNTIME, Administrator

OUTPUTS = ("PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES", "CONFIDENCE")
MODELS = ("emotion", "preprocess", "queue", "vggish", "bert", "fusion")
Row = tuple[bytes, bytes]  # AUDIO, TEXT


@pytest.fixture(scope="module")
def client(server: Triton) -> grpc.InferenceServerClient:
    connected = grpc.InferenceServerClient(server.grpc_url)
    connected.register_plugin(Administrator(server))
    return connected


def inputs(rows: Sequence[Row], module: ModuleType = grpc) -> list[grpc.InferInput]:
    tensors = []
    for name, column in zip(("AUDIO", "TEXT"), zip(*rows, strict=True), strict=True):
        tensor = module.InferInput(name, [len(rows), 1], "BYTES")
        tensor.set_data_from_numpy(np.array(column, object).reshape(-1, 1))
        tensors.append(tensor)
    return tensors


def infer(client: grpc.InferenceServerClient, *rows: Row) -> dict[str, NDArray[np.float32]]:
    # without a timeout, a slow machine rejects some of 64 concurrent requests
    answer = client.infer("emotion", inputs(rows), client_timeout=60, timeout=60_000_000)
    return {name: answer.as_numpy(name) for name in OUTPUTS}


def wav(samples: NDArray[np.float32], rate: int = 16_000, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def mixed(recordings: dict[str, bytes], transcripts: dict[str, str]) -> list[Row]:
    """Return 64 utterances of different lengths, 0.4 to 10 s and 1 to 40 words; some lack one modality."""
    speech = np.concatenate([decoding.decode(data) for data in recordings.values()])
    words = (" ".join(transcripts.values()) + " ").split() * 2
    rows = []
    for number in range(64):
        samples = int((0.4 + 0.15 * number) * audio.SAMPLE_RATE)
        start = 997 * number
        sentence = " ".join(words[number : number + 1 + (number * 7) % 40])
        data = b"" if number % 8 == 3 else wav(speech[start : start + samples])
        rows.append((data, b"" if number % 8 == 6 else sentence.encode()))
    return rows


@pytest.fixture(scope="module")
def alone(client: grpc.InferenceServerClient, mixed: list[Row]) -> list[dict[str, NDArray[np.float32]]]:
    """Return the answer to each utterance alone."""
    return [infer(client, row) for row in mixed]


# --- what is served


def test_server_has_the_pinned_version_and_ready_models(client: grpc.InferenceServerClient) -> None:
    assert client.get_server_metadata().version == "2.51.0"
    assert all(client.is_model_ready(model) for model in MODELS)


def test_answers_equal_those_of_the_pytorch_model(
    checkpoint: Checkpoint, mixed: list[Row], alone: list[dict[str, NDArray[np.float32]]]
) -> None:
    word_piece = text.WordPiece(checkpoint.tokenizer)
    worst = 0.0
    for (data, sentence), answer in zip(mixed, alone, strict=True):
        patches = audio.sound_patches(decoding.decode(data)) if data else np.empty((0, 96, 64), np.float32)
        ids = word_piece.encode(text.clean(sentence.decode()))
        expected = parity.eager(checkpoint, parity.Utterance(patches, ids))
        worst = max(worst, *(float(np.abs(answer[name] - expected[name]).max()) for name in OUTPUTS))
    assert worst < 1e-4


def test_probabilities_sum_to_one_or_are_zero_without_the_modality(
    mixed: list[Row], alone: list[dict[str, NDArray[np.float32]]]
) -> None:
    for (data, sentence), answer in zip(mixed, alone, strict=True):
        assert answer["PROBABILITIES"].shape == (1, 5)
        assert answer["PROBABILITIES"].sum() == pytest.approx(1, abs=1e-5)
        assert answer["AUDIO_PROBABILITIES"].sum() == pytest.approx(float(bool(data)), abs=1e-5)
        assert answer["TEXT_PROBABILITIES"].sum() == pytest.approx(float(bool(sentence)), abs=1e-5)
        if not data:
            np.testing.assert_array_equal(answer["PROBABILITIES"], answer["TEXT_PROBABILITIES"])
        if not sentence:
            np.testing.assert_array_equal(answer["PROBABILITIES"], answer["AUDIO_PROBABILITIES"])


def test_requests_of_mixed_lengths_share_batches_with_equal_answers(
    client: grpc.InferenceServerClient, mixed: list[Row], alone: list[dict[str, NDArray[np.float32]]]
) -> None:
    def executions() -> NDArray[np.int64]:
        """Return [inferences, executions] of vggish, bert and fusion."""
        time.sleep(0.5)  # Triton counts a request after it has sent the answer
        names = ("vggish", "bert", "fusion")
        rows = [client.get_inference_statistics(name, as_json=True)["model_stats"][0] for name in names]
        return np.array([[int(row["inference_count"]), int(row["execution_count"])] for row in rows])

    rounds = []
    for _ in range(3):  # `fusion` starts with the first answered request of a batch; once it had 34 executions
        before = executions()
        with ThreadPoolExecutor(len(mixed)) as pool:
            together = list(pool.map(lambda row: infer(client, row), mixed))
        requests, runs = (executions() - before).T
        assert (requests == 64).all()
        assert (runs[:2] <= 16).all(), f"{runs} executions of vggish, bert and fusion for 64 requests"
        rounds.append(runs[2])
    # a native backend sends the answers of a batch one by one, and the idle `fusion` starts with the first
    assert HAS_NATIVE_ONNXRUNTIME or np.median(rounds) <= 32, f"{rounds} executions of fusion for 64 requests"
    for one, other in zip(alone, together, strict=True):
        for name in OUTPUTS:
            np.testing.assert_allclose(other[name], one[name], atol=1e-5)


def test_request_of_several_utterances_answers_as_single_requests(
    client: grpc.InferenceServerClient, mixed: list[Row], alone: list[dict[str, NDArray[np.float32]]]
) -> None:
    answer = infer(client, *mixed[:8])
    for name in OUTPUTS:
        np.testing.assert_allclose(answer[name], np.concatenate([row[name] for row in alone[:8]]), atol=1e-5)


def test_answers_contain_the_checkpoint(client: grpc.InferenceServerClient, checkpoint: Checkpoint) -> None:
    answer = client.infer("emotion", inputs([(b"", b"hello"), (b"", b"there")]))
    rows = [json.loads(row) for row in answer.as_numpy("CHECKPOINT").reshape(-1)]
    assert rows == [{"digest": checkpoint.digest[:12], "untrained": []}] * 2


# --- other interfaces


def test_http_answers_as_grpc_does(
    server: Triton, mixed: list[Row], alone: list[dict[str, NDArray[np.float32]]]
) -> None:
    with http.InferenceServerClient(server.http_url) as client:
        answer = client.infer("emotion", inputs(mixed[:1], http))
    for name in OUTPUTS:
        np.testing.assert_allclose(answer.as_numpy(name), alone[0][name], atol=1e-6)


@pytest.mark.parametrize("name", OUTPUTS[:3])
def test_classification_extension_returns_labels(
    client: grpc.InferenceServerClient, mixed: list[Row], alone: list[dict[str, NDArray[np.float32]]], name: str
) -> None:
    wanted = [grpc.InferRequestedOutput(name, class_count=5)]
    classes = client.infer("emotion", inputs(mixed[:1]), outputs=wanted).as_numpy(name)
    ranked = [row.decode().split(":") for row in classes.reshape(-1)]
    order = np.argsort(-alone[0][name][0])
    assert [(int(index), label) for _, index, label in ranked] == [(index, EMOTIONS[index]) for index in order]


# --- invalid input


def header_lie(data: bytes) -> bytes:
    lie = bytearray(data)
    struct.pack_into("<I", lie, lie.index(b"data") + 4, 10_000_000)
    return bytes(lie)


SECOND = np.zeros(16_000, np.float32)
TONE = np.sin(np.arange(32_000) / 8).astype(np.float32)
INVALID: dict[str, tuple[Row, str]] = {
    "both empty": ((b"", b""), "AUDIO and TEXT are both empty"),
    "not audio": ((b"these are words, not audio", b"hello"), "AUDIO is text, not an audio file"),
    "truncated WAV": ((wav(TONE)[:20_000], b""), "truncated WAV"),
    "truncated FLAC": ((wav(TONE, kind="FLAC")[:5_000], b""), "truncated or damaged FLAC"),
    "truncated MP3": ((wav(TONE, kind="MP3", subtype="MPEG_LAYER_III")[:3_000], b""), "truncated MP3"),
    "zero samples": ((wav(SECOND[:0]), b"hello"), "zero samples"),
    "NaN": ((wav(SECOND * np.nan, subtype="FLOAT"), b""), "NaN or infinite"),
    "Inf": ((wav(SECOND + np.inf, subtype="FLOAT"), b""), "NaN or infinite"),
    "header lie": ((header_lie(wav(TONE)), b""), "its header promises 10000000 bytes of samples"),
    "10 minutes": ((wav(np.zeros(9_600_000, np.float32), kind="FLAC"), b""), "at most 60 s are accepted"),
    "1 Hz": ((wav(SECOND[:40], rate=1), b""), "sample rate of 1 Hz"),
    "10 MHz": ((wav(SECOND, rate=10_000_000), b""), "sample rate of 10000000 Hz"),
    "invalid UTF-8": ((wav(TONE), b"caf\xe9"), "not valid UTF-8"),
    "NUL": ((b"", b"he\0llo"), "NUL character"),
    "1 MB of text": ((b"", b"word " * 200_000), "1000000 bytes; at most 16384"),
    "too many tokens": ((b"", b"word " * 600), "602 tokens; at most 512"),
    "silence": ((wav(SECOND), b""), "AUDIO has no sound above -60 dB of full scale"),
    "silence and a text without words": ((wav(SECOND), b"..."), "and TEXT has no word left after cleaning"),
    "nothing left of the text": ((b"", b"[LAUGHTER] ..."), "no letter or digit left"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_input_is_rejected_with_a_sentence(client: grpc.InferenceServerClient, case: str) -> None:
    row, sentence = INVALID[case]
    with pytest.raises(InferenceServerException) as caught:
        infer(client, row)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert sentence in caught.value.message()
    assert "Traceback" not in caught.value.message()
    assert "\n" not in caught.value.message()


def test_invalid_requests_do_not_change_concurrent_answers(
    client: grpc.InferenceServerClient, mixed: list[Row], alone: list[dict[str, NDArray[np.float32]]]
) -> None:
    good, bad = mixed[:16], [row for row, _ in INVALID.values()]

    def ask(row: Row) -> dict[str, NDArray[np.float32]] | str:
        try:
            return infer(client, row)
        except InferenceServerException as error:
            return str(error.status())

    with ThreadPoolExecutor(len(good) + len(bad)) as pool:
        answers = list(pool.map(ask, [row for pair in zip(good, bad, strict=False) for row in pair]))
    for expected, answer, status in zip(alone, answers[::2], answers[1::2], strict=False):
        assert status == "StatusCode.INVALID_ARGUMENT"
        assert isinstance(answer, dict)
        for name in OUTPUTS:
            np.testing.assert_allclose(answer[name], expected[name], atol=1e-5)


def test_text_without_words_counts_as_absent(client: grpc.InferenceServerClient) -> None:
    with_text, without = infer(client, (wav(TONE), b"[LAUGHTER]")), infer(client, (wav(TONE), b""))
    for name in OUTPUTS:
        np.testing.assert_array_equal(with_text[name], without[name])


SILENCES = {
    "digital silence": np.zeros(48_000, np.float32),
    "0.1 s of digital silence": np.zeros(1_600, np.float32),
    "noise at -80 dB": (np.random.default_rng(0).standard_normal(48_000) * 1e-4).astype(np.float32),
}


@pytest.mark.parametrize("name", SILENCES)
def test_silence_with_text_is_answered_from_the_text(client: grpc.InferenceServerClient, name: str) -> None:
    silence = wav(SILENCES[name])
    for sentence in (b"I hate you", b"so it is"):
        with_silence, without = infer(client, (silence, sentence)), infer(client, (b"", sentence))
        for output in OUTPUTS:
            np.testing.assert_allclose(with_silence[output], without[output], atol=1e-5)
    with pytest.raises(InferenceServerException, match="AUDIO has no sound above -60 dB"):
        infer(client, (silence, b""))


def test_answer_does_not_depend_on_level_and_surrounding_silence(
    client: grpc.InferenceServerClient, recordings: dict[str, bytes]
) -> None:
    faint = SILENCES["noise at -80 dB"]
    for name, data in recordings.items():
        waveform = decoding.decode(data)
        expected = infer(client, (data, b""))["PROBABILITIES"][0]
        gained = {f"{gain:+} dB": waveform * np.float32(10 ** (gain / 20)) for gain in (-18, -12, 12)}  # +12 dB clips
        padded = {
            "1 s of silence before": np.concatenate([SECOND, waveform]),
            "0.77 s of silence behind": np.concatenate([waveform, SECOND[:12_345]]),
            "3 s of faint noise around": np.concatenate([faint, waveform, faint]),
        }
        for change, changed in (gained | padded).items():
            found = infer(client, (wav(changed), b""))["PROBABILITIES"][0]
            assert found.argmax() == expected.argmax(), f"{name}, {change}: {expected} became {found}"
            assert np.abs(found - expected).max() < 0.15, f"{name}, {change}: {expected} became {found}"


def wrong_shape() -> list[grpc.InferInput]:
    tensors = inputs([(b"", b"hello")])
    tensors[1] = grpc.InferInput("TEXT", [1, 2], "BYTES")
    tensors[1].set_data_from_numpy(np.array([[b"hello", b"there"]], object))
    return tensors


def wrong_type() -> list[grpc.InferInput]:
    tensors = inputs([(b"", b"hello")])
    tensors[0] = grpc.InferInput("AUDIO", [1, 1], "FP32")
    tensors[0].set_data_from_numpy(np.zeros((1, 1), np.float32))
    return tensors


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (wrong_shape, "unexpected shape for input 'TEXT'"),
        (wrong_type, "inference input 'AUDIO' data-type is 'FP32'"),
        (lambda: inputs([(b"", b"hello")])[:1], "expected 2 inputs but got 1"),
        (lambda: inputs([(b"", b"hello")] * 33), "batch-size must be <= 32"),
    ],
)
def test_tensors_of_wrong_shape_or_type_are_rejected(
    client: grpc.InferenceServerClient, tensors: Callable[[], list[grpc.InferInput]], sentence: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("emotion", tensors())
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert sentence in caught.value.message()
    assert infer(client, (b"", b"still healthy"))["PROBABILITIES"].shape == (1, 5)


# --- requested outputs


def test_request_of_some_outputs_returns_only_those(
    client: grpc.InferenceServerClient, recordings: dict[str, bytes]
) -> None:
    """Triton skips steps that the requested outputs do not need, but must run all others."""
    row = inputs([(recordings["austen-0890.flac"], b"hello there")])
    for count in range(1, len(OUTPUTS) + 2):
        for names in combinations((*OUTPUTS, "CHECKPOINT"), count):
            wanted = [grpc.InferRequestedOutput(name) for name in names]
            answer = client.infer("emotion", row, outputs=wanted, client_timeout=60)
            assert {output.name for output in answer.get_response().outputs} == set(names)
