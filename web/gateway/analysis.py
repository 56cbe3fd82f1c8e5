"""Analyze a recording or a text as a whole, and the voice of a recording over time."""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from emotion_client import EMOTIONS, AsyncEmotionClient, EmotionError, EmotionResult, NoSpeech
from pydantic import BaseModel, Field

from emotion.audio import SAMPLE_RATE
from web.gateway.errors import from_client_error
from web.gateway.recordings import decode

WINDOW_S, WINDOW_HOP_S = 3.0, 1.5  # of the timeline

Probabilities = Annotated[
    dict[str, float],
    Field(
        description="probability of each emotion; they sum to 1",
        examples=[{"neutral": 0.08, "frustration": 0.13, "anger": 0.05, "sadness": 0.7, "excitement": 0.04}],
        min_length=len(EMOTIONS),
        max_length=len(EMOTIONS),
    ),
]


class Window(BaseModel):
    """The emotion of the voice alone in one window of the recording."""

    start: float = Field(description="start in seconds", examples=[0.0])
    end: float = Field(description="end in seconds", examples=[3.0])
    probabilities: Probabilities | None = Field(description="null if the window has no sound")


class Timings(BaseModel):
    """Milliseconds that each step took. The answer and the timeline are computed at the same time."""

    decode_ms: float
    answer_ms: float
    timeline_ms: float
    total_ms: float


class Analysis(BaseModel):
    """The answer to one request."""

    transcript: str | None = Field(
        description="recognised text, empty if nobody spoke; null if text was sent or speech is not recognised"
    )
    understood: bool | None = Field(description="whether the answer uses the transcript; null if there is none")
    text: str = Field(
        description="text that the answer uses; empty if it uses the voice alone",
        examples=["I can't believe that it's over."],
    )
    label: str = Field(description="the most probable emotion", examples=["sadness"])
    confidence: float = Field(
        description="calibrated probability that the label is right; low where voice and words disagree",
        examples=[0.83],
        ge=0,
        le=1,
    )
    status: Literal["ok", "unsure", "no_speech"] = Field(
        description="ok: confidence of at least 0.9; unsure: less; no_speech: the recording has no sound, and the "
        "answer uses the text alone"
    )
    probabilities: Probabilities
    audio_probabilities: Probabilities | None = Field(description="prediction from the voice alone; null without sound")
    text_probabilities: Probabilities | None = Field(description="prediction from the words alone; null without text")
    seconds: float | None = Field(
        description="length of the recording in seconds; null without a recording", examples=[4.2]
    )
    timeline: list[Window] = Field(
        description="emotion of the voice in windows of 3 s; empty for recordings of up to 3 s"
    )
    checkpoint: str = Field(description="digest of the weights that computed the answer")
    untrained: list[str] = Field(
        description="parts of the model that were never trained; if not empty, ignore the answer"
    )
    timings: Timings


async def analyze(
    client: AsyncEmotionClient,
    recording: bytes | None,
    text: str,
    transcribe: bool,
    max_seconds: float,
    deadline: float,
    request_id: str,
    trace_context: Mapping[str, str],
) -> Analysis:
    """Decode a recording, and request its answer and every window of its timeline concurrently.

    Args:
        client: client of the emotion server.
        recording: an encoded file, or None.
        text: the words; may be empty if there is a recording.
        transcribe: whether the server recognises the text.
        max_seconds: longest recording accepted, in seconds.
        deadline: seconds for decoding and all requests together.
        request_id: id of the request in the server's log and traces; requests of the timeline append `.1`, `.2`, ...
        trace_context: headers of W3C Trace Context, sent with each request.

    Raises:
        ApiError: the input cannot be used, or the server gave no answer.
    """
    started = time.perf_counter()
    waveform = None if recording is None else await asyncio.to_thread(decode, recording, max_seconds)
    decoded = time.perf_counter()
    remaining = max(0.001, deadline - (decoded - started))
    windows = [] if waveform is None else timeline_windows(len(waveform))

    async def ask(name: str, *utterance: Any, transcribe: bool = False) -> tuple[EmotionResult, float]:
        answer = await client.analyze(
            *utterance, transcribe=transcribe, deadline=remaining, request_id=name, headers=trace_context
        )
        return answer, time.perf_counter()

    async def ask_window(number: int, part: Any) -> tuple[dict[str, float] | None, float]:
        try:
            voice, done = await ask(f"{request_id}.{number}", part, None, rate)
            return voice.probabilities, done
        except NoSpeech:
            return None, time.perf_counter()

    rate = None if waveform is None else SAMPLE_RATE
    parts = [] if waveform is None else [waveform[start:end] for start, end in windows]
    try:
        (answer, answered_at), voices = await asyncio.gather(
            ask(request_id, waveform, text or None, rate, transcribe=transcribe),
            asyncio.gather(*(ask_window(number, part) for number, part in enumerate(parts, 1))),
        )
    except EmotionError as error:
        raise from_client_error(error) from None
    understood = answer.transcript_confidence.understood if answer.transcript_confidence else None
    return Analysis(
        transcript=answer.transcript,
        understood=understood,
        text=text if answer.transcript is None else answer.transcript if understood else "",
        label=answer.label,
        confidence=answer.confidence,
        status=answer.status,
        probabilities=answer.probabilities,
        audio_probabilities=answer.audio_probabilities,
        text_probabilities=answer.text_probabilities,
        seconds=None if waveform is None else len(waveform) / SAMPLE_RATE,
        timeline=[
            Window(start=a / SAMPLE_RATE, end=b / SAMPLE_RATE, probabilities=probabilities)
            for (a, b), (probabilities, _) in zip(windows, voices, strict=True)
        ],
        checkpoint=answer.checkpoint,
        untrained=list(answer.untrained),
        timings=Timings(
            decode_ms=1e3 * (decoded - started),
            answer_ms=1e3 * (answered_at - decoded),
            timeline_ms=1e3 * (max([decoded, *(done for _, done in voices)]) - decoded),
            total_ms=1e3 * (time.perf_counter() - started),
        ),
    )


def timeline_windows(samples: int) -> list[tuple[int, int]]:
    """Return the timeline's windows as (start, end) in samples; none if the recording fits into one window.

    The last window ends with the recording.
    """
    window, hop = int(WINDOW_S * SAMPLE_RATE), int(WINDOW_HOP_S * SAMPLE_RATE)
    if samples <= window:
        return []
    starts = [*range(0, samples - window, hop), samples - window]
    return [(start, start + window) for start in starts]
