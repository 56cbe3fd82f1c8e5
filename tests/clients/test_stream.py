"""Test streams: events while audio arrives, outages, slow consumers, and the detection of utterances."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from emotion_client import (
    AsyncEmotionClient,
    EmotionError,
    InvalidInput,
    NoSpeech,
    SpokenUtterance,
    StreamAnswer,
    StreamEvent,
    Unavailable,
    VoiceUpdate,
)
from emotion_client import stream as stream_module
from emotion_client.voice_activity import LONGEST_S, UtteranceDetector
from numpy.typing import NDArray

from emotion import decoding
from serving import Triton
from tests.clients.conftest import HangingHandler, RejectingHandler

RATE = 16_000
CHUNK_S = 0.1


@pytest.fixture(scope="module")
def clip(recordings: dict[str, bytes]) -> NDArray[np.float32]:
    """Return speech of 3 s, [n] at RATE."""
    return decoding.decode(recordings["austen-0880.flac"])


@pytest.fixture(scope="module")
def conversation(recordings: dict[str, bytes], clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return two recordings with pauses of a second around them."""
    pause = np.zeros(RATE, np.float32)
    return np.concatenate([pause, clip, pause, decoding.decode(recordings["austen-0930.flac"]), pause])


async def spoken(waveform: NDArray[Any], speed: float = 1.0) -> AsyncIterator[NDArray[Any]]:
    """Yield a waveform in chunks, at the pace of speech or `speed` times as fast."""
    size = int(CHUNK_S * RATE)
    for start in range(0, len(waveform), size):
        yield waveform[start : start + size]
        await asyncio.sleep(CHUNK_S / speed)


async def events(client: AsyncEmotionClient, chunks: AsyncIterator[NDArray[Any]], **options: Any) -> list[StreamEvent]:
    return [event async for event in client.stream(chunks, RATE, **options)]


async def test_stream_reports_voice_utterances_and_the_answer_of_the_whole(
    speech_server: Triton, conversation: NDArray[np.float32]
) -> None:
    async with AsyncEmotionClient(speech_server.grpc_url) as client:
        found = await events(client, spoken(conversation), transcribe=True)
        whole = await client.analyze(conversation, rate=RATE, transcribe=True)
    voices = [event for event in found if isinstance(event, VoiceUpdate)]
    utterances = [event for event in found if isinstance(event, SpokenUtterance)]
    seconds = len(conversation) / RATE
    assert len(voices) >= seconds / stream_module.HOP_S / 3  # other tests may load the server
    assert [voice.end for voice in voices] == sorted({voice.end for voice in voices})
    assert all(sum(voice.probabilities.values()) == pytest.approx(1) for voice in voices if voice.probabilities)
    assert sum(voice.probabilities is not None for voice in voices) > len(voices) / 2
    assert [utterance.start for utterance in utterances] == pytest.approx([1.0, 5.0], abs=0.5)
    assert [utterance.end for utterance in utterances] == pytest.approx([4.0, 8.3], abs=0.5)
    for utterance in utterances:
        assert not isinstance(utterance.result, EmotionError) and utterance.result.transcript
    assert isinstance(found[-1], StreamAnswer) and found[-1].result is not None
    assert found[-1].seconds == pytest.approx(seconds)
    assert found[-1].result.probabilities == pytest.approx(whole.probabilities, abs=1e-4)
    assert found[-1].result.transcript == whole.transcript


async def test_stream_takes_int16_and_other_rates(server: Triton, clip: NDArray[np.float32]) -> None:
    quantised = (clip * 32767).astype(np.int16)
    async with AsyncEmotionClient(server.grpc_url) as client:
        *_, end = await events(client, spoken(quantised, speed=10))
        expected = await client.analyze(quantised, rate=RATE)
        *_, fast = [event async for event in client.stream(spoken(np.repeat(quantised, 3), speed=10), 48_000)]
    assert isinstance(end, StreamAnswer) and end.result is not None
    assert end.result.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert isinstance(fast, StreamAnswer) and fast.seconds == pytest.approx(end.seconds)


async def test_stream_of_silence_has_updates_without_probabilities(server: Triton) -> None:
    silence = np.zeros(2 * RATE, np.float32)
    async with AsyncEmotionClient(server.grpc_url) as client:
        found = await events(client, spoken(silence, speed=4), answer=False)
        with pytest.raises(NoSpeech):
            await events(client, spoken(silence, speed=10))
    assert {type(event) for event in found[:-1]} == {VoiceUpdate}
    assert all(event.probabilities is None for event in found[:-1] if isinstance(event, VoiceUpdate))
    assert found[-1] == StreamAnswer(2.0, None)


async def test_stream_longer_than_a_recording_has_no_answer_to_the_whole(
    server: Triton, clip: NDArray[np.float32]
) -> None:
    long = np.tile(clip, 25)
    async with AsyncEmotionClient(server.grpc_url) as client:
        found = await events(client, spoken(long, speed=50))
    assert found[-1] == StreamAnswer(len(long) / RATE, None)
    assert sum(isinstance(event, SpokenUtterance) for event in found) >= len(long) / RATE / LONGEST_S


async def test_slow_consumer_misses_updates_and_no_utterance(server: Triton, conversation: NDArray[np.float32]) -> None:
    found = []
    async with AsyncEmotionClient(server.grpc_url) as client:
        async for event in client.stream(spoken(conversation, speed=2), RATE):
            found.append(event)
            await asyncio.sleep(2)
    assert sum(isinstance(event, SpokenUtterance) for event in found) == 2
    assert sum(isinstance(event, VoiceUpdate) for event in found) <= 5
    assert isinstance(found[-1], StreamAnswer)


async def test_stream_on_a_busy_server_leaves_out_updates_and_reports_failed_utterances(
    serve: Callable[..., str], conversation: NDArray[np.float32]
) -> None:
    endpoint = serve(RejectingHandler(grpc.StatusCode.UNAVAILABLE, "too busy"))
    async with AsyncEmotionClient(endpoint, retries=False) as client:
        found = await events(client, spoken(conversation, speed=10), answer=False)
    *utterances, end = found
    assert [type(event) for event in utterances] == [SpokenUtterance, SpokenUtterance]
    assert all(isinstance(event.result, Unavailable) for event in utterances if isinstance(event, SpokenUtterance))
    assert isinstance(end, StreamAnswer)


@pytest.mark.parametrize("size", [17, 30 * RATE, 100 * RATE])
async def test_stream_in_chunks_of_any_length_has_the_same_utterances(
    server: Triton, conversation: NDArray[np.float32], size: int
) -> None:
    """Audio before and after an utterance, as much as is kept, comes in the same chunk."""
    long = np.concatenate([np.zeros(20 * RATE, np.float32), conversation, np.zeros(30 * RATE, np.float32)])
    if size < RATE:
        long = long[19 * RATE : -29 * RATE]

    async def chunks() -> AsyncIterator[NDArray[np.float32]]:
        for start in range(0, len(long), size):
            yield long[start : start + size]

    async with AsyncEmotionClient(server.grpc_url) as client:
        found = await events(client, chunks(), answer=False)
    utterances = [event for event in found if isinstance(event, SpokenUtterance)]
    lead = 1.0 if size < RATE else 20.0
    assert [utterance.start - lead for utterance in utterances] == pytest.approx([1.0, 5.0], abs=0.5)
    assert not any(isinstance(utterance.result, EmotionError) for utterance in utterances)


async def test_long_chunk_leaves_time_for_other_tasks(server: Triton, clip: NDArray[np.float32]) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def chunks() -> AsyncIterator[NDArray[np.float32]]:
        yield np.zeros(100 * RATE, np.float32)

    async with AsyncEmotionClient(server.grpc_url) as client:
        counting = asyncio.create_task(count())
        await events(client, chunks(), answer=False)
        counting.cancel()
    assert turns > 100  # one for each second of audio


async def test_pause_of_the_audio_is_no_outage(
    serve: Callable[..., str], clip: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_OUTAGE_S", 0.5)
    endpoint = serve(RejectingHandler(grpc.StatusCode.UNAVAILABLE, "too busy"))

    async def chunks() -> AsyncIterator[NDArray[np.float32]]:
        await asyncio.sleep(1)
        yield clip[: RATE // 2]  # one update, which fails
        await asyncio.sleep(1)

    async with AsyncEmotionClient(endpoint, retries=False) as client:
        assert await events(client, chunks(), answer=False) == [StreamAnswer(0.5, None)]


async def test_unexpected_error_of_an_utterance_is_raised(
    server: Triton, conversation: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncEmotionClient(server.grpc_url) as client:
        monkeypatch.setattr(client, "analyze", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await events(client, spoken(conversation, speed=20), answer=False)


async def test_stream_in_an_outage_raises(
    serve: Callable[..., str], clip: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_OUTAGE_S", 0.5)
    endpoint = serve(RejectingHandler(grpc.StatusCode.UNAVAILABLE, "too busy"))
    async with AsyncEmotionClient(endpoint, retries=False) as client:
        with pytest.raises(Unavailable, match="too busy"):
            await events(client, spoken(clip))


async def test_stream_that_is_left_sends_nothing_more(serve: Callable[..., str], clip: NDArray[np.float32]) -> None:
    handler = HangingHandler()
    async with AsyncEmotionClient(serve(handler)) as client:
        stream = client.stream(spoken(clip), RATE)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(1.5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert handler.wait_abandoned(handler.calls)
        assert len(asyncio.all_tasks()) == 1  # this one


@pytest.mark.parametrize(
    ("chunk", "rate", "message"),
    [
        (np.zeros((10, 2), np.float32), RATE, r"^a chunk must have the shape \[n\], not \[10, 2\]: mix"),
        (np.full(10, np.nan, np.float32), RATE, r"^a floating-point waveform must lie in \[-1, 1\]"),
        (np.zeros(10, np.uint8), RATE, r"^a waveform must be floating point, int16 or int32, not uint8$"),
        (np.zeros(0, np.float32), RATE, r"^no audio arrived: send at least one chunk with samples$"),
        ([0.0] * 10, RATE, r"^a chunk must be a numpy array, not list$"),
        (np.zeros(10, np.float32), float("nan"), r"^rate must be a whole number of Hz from 8000 to 192000, not nan$"),
        (np.zeros(10, np.float32), "16000", r"^rate must be a whole number of Hz from 8000 to 192000, not '16000'$"),
        (np.zeros(10, np.float32), 4_000, r"^rate must be a whole number of Hz from 8000 to 192000, not 4000$"),
    ],
)
async def test_stream_of_unusable_audio_raises(server: Triton, chunk: Any, rate: Any, message: str) -> None:
    async def chunks() -> AsyncIterator[NDArray[Any]]:
        yield chunk

    async with AsyncEmotionClient(server.grpc_url) as client:
        with pytest.raises(InvalidInput, match=message):
            async for _ in client.stream(chunks(), rate):
                pass


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.005])
def test_detector_finds_the_recordings_between_pauses(recordings: dict[str, bytes], noise: float) -> None:
    random, pause = np.random.default_rng(0), np.zeros(RATE, np.float32)
    waveforms = [decoding.decode(data) for _, data in sorted(recordings.items())]
    whole = np.concatenate([part for waveform in waveforms for part in (pause, waveform)] + [pause])
    whole = (whole + noise * random.standard_normal(len(whole))).astype(np.float32)
    detector = UtteranceDetector(RATE)
    found = [one for start in range(0, len(whole), 1_000) for one in detector.add(whole[start : start + 1_000])]
    found += detector.end()
    at, expected = 0, []
    for waveform in waveforms:
        at += RATE
        expected.append((at / RATE, (at + len(waveform)) / RATE))
        at += len(waveform)
    assert len(found) == len(expected)
    for (start, end), (begin, stop) in zip(found, expected, strict=True):
        # at first, noise counts as loud until the background is known
        assert start / RATE == pytest.approx(begin, abs=0.6) or (noise and begin == 1.0)
        assert end / RATE == pytest.approx(stop, abs=0.6)


def test_detector_finds_the_same_in_chunks_of_any_length(clip: NDArray[np.float32]) -> None:
    whole = np.concatenate([clip, np.zeros(RATE, np.float32), clip])
    expected = UtteranceDetector(RATE)
    utterances = expected.add(whole) + expected.end()
    detector, found, random, at = UtteranceDetector(RATE), [], np.random.default_rng(1), 0
    while at < len(whole):
        size = int(random.integers(1, 3_000))
        found += detector.add(whole[at : at + size])
        at += size
    assert found + detector.end() == utterances
    assert len(utterances) == 2


def test_detector_cuts_speech_without_pauses(clip: NDArray[np.float32]) -> None:
    tone = np.sin(np.arange(40 * RATE) / 20).astype(np.float32) / 2
    detector = UtteranceDetector(RATE)
    found = detector.add(tone) + detector.end()
    assert max(end - start for start, end in found) / RATE <= LONGEST_S + 0.1
    assert sum(end - start for start, end in found) / RATE > 38  # a new one needs 0.1 s to begin
