"""Test confidence, is_confident and status of a result."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from emotion_client import (
    AsyncEmotionClient,
    Emotion,
    EmotionClient,
    EmotionResult,
    InvalidInput,
    NoSpeech,
    Utterance,
)
from tritonclient.grpc import service_pb2 as pb

from tests.clients.conftest import FixedAnswerHandler, RejectingHandler

NOISE = np.random.default_rng(0).uniform(-0.1, 0.1, 8000)
NOTHING, SOMETHING = [0.0] * 5, [0.1, 0.2, 0.4, 0.2, 0.1]
SILENT = "AUDIO has no sound above -60 dB: check the microphone, or send TEXT with it"


def answering(confidence: float, audio: list[float], text: list[float]) -> FixedAnswerHandler:
    """Return a handler that answers every request with these outputs."""
    answer = pb.ModelInferResponse(model_name="emotion", model_version="1")
    tensors = {"PROBABILITIES": SOMETHING, "AUDIO_PROBABILITIES": audio, "TEXT_PROBABILITIES": text}
    for name, values in (tensors | {"CONFIDENCE": [confidence]}).items():
        answer.outputs.add(name=name, datatype="FP32", shape=[1, len(values)])
        answer.raw_output_contents.append(np.array(values, np.float32).tobytes())
    checkpoint = b'{"digest": "0", "untrained": []}'
    answer.outputs.add(name="CHECKPOINT", datatype="BYTES", shape=[1, 1])
    answer.raw_output_contents.append(struct.pack("<I", len(checkpoint)) + checkpoint)
    return FixedAnswerHandler(answer.SerializeToString())


@pytest.mark.parametrize(
    ("confidence", "options", "is_confident", "status"),
    [
        (0.95, {}, True, "ok"),
        (0.85, {}, False, "unsure"),
        (0.85, {"confident_from": 0.8}, True, "ok"),
        (0.85, {"confident_from": 1}, False, "unsure"),
        (0.0, {"confident_from": 0}, True, "ok"),
    ],
)
def test_status_is_ok_from_the_confidence_threshold(
    serve: Callable[..., str], confidence: float, options: dict[str, Any], is_confident: bool, status: str
) -> None:
    with EmotionClient(serve(answering(confidence, SOMETHING, SOMETHING)), **options) as client:
        result = client.analyze(NOISE, "hello", rate=16_000)
    assert (result.label, result.is_confident, result.status) == ("anger", is_confident, status)
    assert result.confidence == pytest.approx(confidence)


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_status_of_audio_without_sound_is_no_speech(serve: Callable[..., str], confidence: float) -> None:
    url = serve(answering(confidence, NOTHING, SOMETHING))
    with EmotionClient(url) as client:
        silent, text = client.analyze(NOISE, "hello", rate=16_000), client.analyze(text="hello")
        [many] = client.analyze_many([Utterance(NOISE, "hello", 16_000)])
    assert isinstance(many, EmotionResult)
    for result in (silent, many, asyncio.run(ask(url, NOISE, "hello", 16_000))):
        assert (result.status, result.is_confident) == ("no_speech", confidence > 0.9)
        assert result.audio_probabilities is None
    assert text.status == ("ok" if confidence > 0.9 else "unsure")


async def ask(url: str, *utterance: Any) -> EmotionResult:
    async with AsyncEmotionClient(url) as client:
        return await client.analyze(*utterance)


def test_analyze_of_audio_without_sound_or_text_raises_no_speech(serve: Callable[..., str]) -> None:
    url = serve(RejectingHandler(grpc.StatusCode.INVALID_ARGUMENT, f"in ensemble 'emotion', {SILENT}"))
    with EmotionClient(url) as client, pytest.raises(NoSpeech) as error:
        client.analyze(NOISE, rate=16_000)
    assert str(error.value) == SILENT
    assert isinstance(error.value, InvalidInput)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_client_with_an_invalid_threshold_raises(threshold: float) -> None:
    with pytest.raises(InvalidInput, match="confident_from must be from 0 to 1"):
        EmotionClient("localhost:8001", confident_from=threshold)


def test_emotion_is_an_alias_of_emotion_result() -> None:
    assert Emotion is EmotionResult


def test_served_confidence_is_a_probability(server: Any, clips: dict[Any, str]) -> None:
    clip, text = next(iter(clips.items()))
    with EmotionClient(server.grpc_url) as client:
        results = [client.analyze(clip, text), client.analyze(clip), client.analyze(text=text)]
    for result in results:
        assert 0 < result.confidence < 1
        assert result.is_confident == (result.confidence >= 0.9)
        assert result.status == ("ok" if result.is_confident else "unsure")


def test_served_silence_with_text_equals_the_answer_of_the_text(server: Any) -> None:
    with EmotionClient(server.grpc_url) as client:
        silent, text = client.analyze(np.zeros(32_000), "so it is", rate=16_000), client.analyze(text="so it is")
        with pytest.raises(NoSpeech, match=r"^AUDIO has no sound above "):
            client.analyze(np.zeros(32_000), rate=16_000)
    assert (silent.status, silent.audio_probabilities) == ("no_speech", None)
    assert silent.probabilities == pytest.approx(text.probabilities, abs=1e-5)
    assert silent.confidence == pytest.approx(text.confidence, abs=1e-5)
