"""Test the gateway's analysis with stub clients: recordings with silence, transcripts that are not understood."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest
import soundfile
from emotion_client import EMOTIONS, EmotionResult, NoSpeech, Timings, TranscriptConfidence

from emotion.audio import SAMPLE_RATE
from web.gateway.analysis import Analysis, analyze
from web.gateway.errors import ApiError

SHARES = dict.fromkeys(EMOTIONS, 0.2)


class SilenceDetectingClient:
    """Stub client of a server that finds no sound in windows that are all zero."""

    async def analyze(self, audio: Any, text: str | None, rate: int | None, **options: Any) -> EmotionResult:
        silent = audio is None or not audio.any()
        if silent and text is None:
            raise NoSpeech("AUDIO has no sound above -60 dB")
        status, voice = ("no_speech", None) if silent else ("unsure", SHARES)
        words = SHARES if text else None
        return EmotionResult("neutral", 0.4, False, status, SHARES, voice, words, None, "r", "0", (), Timings(1, 1))  # type: ignore[arg-type]


def recording(*seconds: tuple[float, float]) -> bytes:
    """Return a WAV file of noise whose parts have the given (amplitude, seconds)."""
    random = np.random.default_rng(0)
    parts = [amplitude * random.uniform(-1, 1, int(length * SAMPLE_RATE)) for amplitude, length in seconds]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate(parts), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def ask(data: bytes, text: str = "") -> Analysis:
    return asyncio.run(analyze(SilenceDetectingClient(), data, text, False, 60, 10, "r", {}))  # type: ignore[arg-type]


class TranscribingClient:
    """Stub client of a server that transcribes speech and reports whether it understood the words."""

    def __init__(self, understood: bool) -> None:
        self.confidence = TranscriptConfidence(understood, -0.3 if understood else -1.4, 0.1, "en", 1.0)

    async def analyze(self, audio: Any, text: str | None, rate: int | None, **options: Any) -> EmotionResult:
        words = SHARES if self.confidence.understood else None
        timings = Timings(1, 1)
        return EmotionResult(
            "neutral", 0.4, False, "unsure", SHARES, SHARES, words, "ten luck", "r", "0", (), timings, self.confidence
        )


@pytest.mark.parametrize("understood", [True, False])
def test_analyze_with_transcript_uses_it_only_if_understood(understood: bool) -> None:
    client = TranscribingClient(understood)
    found = asyncio.run(analyze(client, recording((0.5, 2.0)), "", True, 60, 10, "r", {}))  # type: ignore[arg-type]
    assert (found.transcript, found.understood) == ("ten luck", understood)
    assert found.text == ("ten luck" if understood else "")


def test_analyze_with_silent_windows_leaves_only_their_probabilities_out() -> None:
    found = ask(recording((0.5, 3.0), (0.0, 6.0)))
    assert (found.status, found.confidence) == ("unsure", 0.4)
    assert [window.probabilities is None for window in found.timeline] == [False, False, True, True, True]
    assert found.model_dump()["timeline"][0]["probabilities"] == SHARES


def test_analyze_of_silence_with_text_uses_the_text_alone() -> None:
    found = ask(recording((0.0, 4.0)), "so it is")
    assert (found.status, found.audio_probabilities, found.text_probabilities) == ("no_speech", None, SHARES)
    assert {window.probabilities is None for window in found.timeline} == {True}


def test_analyze_of_silence_without_text_raises_no_speech_with_a_user_message() -> None:
    with pytest.raises(ApiError) as raised:
        ask(recording((0.0, 2.0)))
    assert (raised.value.status, raised.value.code) == (400, "no_speech")
    assert raised.value.message.endswith(".") and "AUDIO" not in raised.value.message
