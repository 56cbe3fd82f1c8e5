"""Test the blocking and asyncio clients against a running server."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tritonclient.grpc as triton
from emotion_client import (
    EMOTIONS,
    AsyncEmotionClient,
    DeadlineExceeded,
    EmotionClient,
    EmotionError,
    EmotionResult,
    InvalidInput,
    Utterance,
)

import emotion.labels


def assert_same(left: EmotionResult, right: EmotionResult) -> None:
    """Compare two results except for request ids and timings. Batches of other sizes may round differently."""
    assert (left.label, left.checkpoint, left.untrained) == (right.label, right.checkpoint, right.untrained)
    for view in ("probabilities", "audio_probabilities", "text_probabilities"):
        assert getattr(left, view) == pytest.approx(getattr(right, view), abs=1e-4), view


@pytest.fixture(scope="module")
def client(server: Any) -> Any:
    with EmotionClient(server.grpc_url) as client:
        yield client


def test_emotions_have_the_order_of_the_server(server: Any) -> None:
    assert emotion.labels.EMOTIONS == EMOTIONS
    with triton.InferenceServerClient(server.grpc_url) as raw:
        inputs = [triton.InferInput(name, [1, 1], "BYTES") for name in ("AUDIO", "TEXT")]
        for tensor, value in zip(inputs, (b"", b"hello"), strict=True):
            tensor.set_data_from_numpy(np.array([[value]], np.object_))
        outputs = [triton.InferRequestedOutput("PROBABILITIES", class_count=5)]
        entries = raw.infer("emotion", inputs, outputs=outputs).as_numpy("PROBABILITIES")[0]
    by_index = {int(index): label for _, index, label in (entry.decode().split(":") for entry in entries)}
    assert tuple(by_index[i] for i in range(5)) == EMOTIONS


def test_analyze_returns_a_complete_result(client: EmotionClient, clips: dict[Path, str]) -> None:
    clip, text = next(iter(clips.items()))
    answer = client.analyze(clip, text, request_id="call-7")
    for view in (answer.probabilities, answer.audio_probabilities, answer.text_probabilities):
        assert view is not None
        assert tuple(view) == EMOTIONS
        assert sum(view.values()) == pytest.approx(1, abs=1e-5)
    assert answer.probabilities[answer.label] == max(answer.probabilities.values())
    assert answer.request_id == "call-7"
    assert answer.checkpoint
    assert 0 < answer.timings.prepare < answer.timings.request


def test_analyze_without_a_modality_returns_no_view_of_it(client: EmotionClient, clip: Path) -> None:
    audio, text = client.analyze(clip), client.analyze(text="I miss him every day.")
    assert audio.audio_probabilities and audio.text_probabilities is None
    assert text.text_probabilities and text.audio_probabilities is None
    assert audio.request_id != text.request_id


def test_analyze_of_each_form_of_the_same_audio_returns_the_same_result(client: EmotionClient, clip: Path) -> None:
    expected = client.analyze(clip)
    floats, rate = soundfile.read(clip, dtype="float32")
    integers, _ = soundfile.read(clip, dtype="int16")
    for form in (str(clip), clip.read_bytes()):
        assert_same(client.analyze(form), expected)
    for waveform in (floats, floats.astype(np.float64), integers, np.stack([integers] * 2, axis=1)):
        assert_same(client.analyze(waveform, rate=rate), expected)
    assert client.analyze(floats[: rate * 2], rate=rate).probabilities != expected.probabilities


def test_async_client_returns_the_same_results(client: EmotionClient, server: Any, clips: dict[Path, str]) -> None:
    async def ask() -> tuple[EmotionResult, list[EmotionResult | EmotionError], str]:
        async with AsyncEmotionClient(server.grpc_url) as twin:
            one = await twin.analyze(*first, request_id="a")
            many = await twin.analyze_many(utterances, concurrency=2)
            with pytest.raises(InvalidInput) as error:
                await twin.analyze(b"noise")
            return one, many, str(error.value)

    first = next(iter(clips.items()))
    utterances = [*(Utterance(clip, text) for clip, text in clips.items()), Utterance("missing.flac")]
    one, many, sentence = asyncio.run(ask())
    assert one.request_id == "a"
    assert_same(one, client.analyze(*first))
    for answer, (clip, text) in zip(many[:-1], clips.items(), strict=True):
        assert isinstance(answer, EmotionResult)
        assert_same(answer, client.analyze(clip, text))
    assert isinstance(many[-1], InvalidInput)
    with pytest.raises(InvalidInput) as error:
        client.analyze(b"noise")
    assert sentence == str(error.value)


def test_analyze_many_returns_results_and_exceptions_in_order(client: EmotionClient, clips: dict[Path, str]) -> None:
    utterances = [Utterance(clip, text) for clip, text in clips.items()]
    expected = [client.analyze(u.audio, u.text) for u in utterances]
    bad = [Utterance("missing.flac"), Utterance(b"not audio at all"), Utterance()]
    answers = client.analyze_many([*utterances[:2], *bad, *utterances[2:]])
    for answer, one in zip(answers[:2] + answers[5:], expected, strict=True):
        assert isinstance(answer, EmotionResult)
        assert_same(answer, one)
    assert [type(answer) for answer in answers[2:5]] == [InvalidInput] * 3
    assert client.analyze_many([]) == []


def test_analyze_many_keeps_to_its_concurrency(server: Any) -> None:
    class Counting(EmotionClient):
        in_flight = most = 0
        lock = threading.Lock()

        def analyze(self, *args: Any, **options: Any) -> EmotionResult:
            with self.lock:
                self.in_flight += 1
                self.most = max(self.most, self.in_flight)
            try:
                return super().analyze(*args, **options)
            finally:
                with self.lock:
                    self.in_flight -= 1

    with Counting(server.grpc_url) as client:
        answers = client.analyze_many([Utterance(text=f"line {i}") for i in range(12)], concurrency=3)
    assert all(isinstance(answer, EmotionResult) for answer in answers)
    assert 1 < client.most <= 3


def test_analyze_of_invalid_audio_raises_the_servers_message(client: EmotionClient) -> None:
    with pytest.raises(InvalidInput, match=r"^AUDIO ") as error:
        client.analyze(b"not audio at all")
    assert "ensemble" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "neither audio nor text was given"),
        ({"text": ""}, "neither audio nor text was given"),
        ({"text": "hello", "rate": 16_000}, "rate is only for a waveform"),
        ({"text": "broken \ud800"}, "not valid Unicode at position 7"),
        ({"text": "hello", "deadline": 0}, "deadline must be above 0"),
        ({"text": "hello", "deadline": float("inf")}, "deadline must be above 0"),
        ({"text": "hello", "headers": {"Traceparent": "00"}}, "lower-case letters, .* not 'Traceparent'"),
        ({"text": "hello", "headers": {"traceparent": "00\n"}}, "traceparent must have printable ASCII"),
    ],
)
def test_analyze_with_invalid_arguments_sends_nothing(
    link: Callable[..., Any], arguments: dict[str, Any], sentence: str
) -> None:
    to_server = link()
    with EmotionClient(to_server.url) as client, pytest.raises(InvalidInput, match=sentence):
        client.analyze(**arguments)
    assert to_server.received == 0


def test_analyze_past_its_deadline_raises_and_the_next_call_is_answered(link: Callable[..., Any]) -> None:
    to_server = link()
    with EmotionClient(to_server.url, deadline=20) as client:
        client.analyze(text="hello")
        to_server.stall()
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=rf"no answer from {to_server.url} within the deadline of 0.3 s"):
            client.analyze(text="hello", deadline=0.3)
        assert 0.3 <= time.monotonic() - start < 2
        to_server.flow()
        assert isinstance(client.analyze(text="hello"), EmotionResult)


def test_analyze_of_a_large_file_is_answered(client: EmotionClient) -> None:
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (20 * 48_000, 2))  # 7.7 MB as sent; gRPC's usual limit is 4 MiB
    assert isinstance(client.analyze(noise, rate=48_000), EmotionResult)


def test_async_client_without_a_loop_raises() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncEmotionClient()


def test_result_is_immutable_and_serialisable(client: EmotionClient) -> None:
    answer = client.analyze(text="hello")
    assert json.loads(json.dumps(answer.probabilities)) == answer.probabilities
    with pytest.raises(AttributeError):
        answer.label = "anger"  # type: ignore[misc]
