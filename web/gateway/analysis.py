"""One analysis: the whole recording or text, and the voice over time."""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from emotion_client import EMOTIONS, AsyncEmotionClient, EmotionError, EmotionResult, NoSpeech
from pydantic import BaseModel, Field

from emotion.audio import SAMPLE_RATE
from web.gateway.errors import from_client
from web.gateway.recordings import decode

WINDOW, WINDOW_HOP = 3.0, 1.5  # s: of the timeline

Probabilities = Annotated[
    dict[str, float],
    Field(
        description="by emotion; they sum to 1",
        examples=[{"neutral": 0.08, "frustration": 0.13, "anger": 0.05, "sadness": 0.7, "excitement": 0.04}],
        min_length=len(EMOTIONS),
        max_length=len(EMOTIONS),
    ),
]


class Window(BaseModel):
    """What the voice alone says in a part of the recording."""

    start: float = Field(description="s", examples=[0.0])
    end: float = Field(description="s", examples=[3.0])
    probabilities: Probabilities | None = Field(description="null where there is no sound")


class Timings(BaseModel):
    """Where the time went. The answer and the timeline are worked on side by side."""

    decode_ms: float
    answer_ms: float
    timeline_ms: float
    total_ms: float


class Analysis(BaseModel):
    """The answer."""

    transcript: str | None = Field(
        description="what was recognised, empty where nobody spoke; null where text was given, or nothing is recognised"
    )
    understood: bool | None = Field(description="whether the transcript is judged; null where there is none")
    text: str = Field(description="that the answer rests on", examples=["I can't believe that it's over."])
    label: str = Field(description="the most probable emotion", examples=["sadness"])
    confidence: float = Field(description="calibrated probability that the label is right", examples=[0.83], ge=0, le=1)
    status: Literal["ok", "unsure", "no_speech"] = Field(
        description="ok: confidence of at least 0.9; unsure: less; no_speech: the recording has no sound, and the "
        "answer rests on the text alone"
    )
    probabilities: Probabilities
    audio_probabilities: Probabilities | None = Field(description="what the voice alone says; null without sound")
    text_probabilities: Probabilities | None = Field(description="what the words alone say; null without text")
    seconds: float | None = Field(description="of the recording; null without one", examples=[4.2])
    timeline: list[Window] = Field(description="empty for recordings of up to 3 s")
    checkpoint: str = Field(description="digest of the weights that answered")
    untrained: list[str] = Field(description="parts that were never trained: not empty means a meaningless answer")
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
    """Decode and ask the server: for the whole and for every window of the timeline side by side.

    Args:
        recording: an encoded file, or None.
        text: may be empty where there is a recording.
        transcribe: whether to recognise the text.
        max_seconds: of the recording.
        deadline: s, for all of it.
        request_id: names the request in the server's log and traces; those of the timeline get a number behind it.
        trace_context: headers of W3C Trace Context, sent with each request.

    Raises:
        Failure: no answer, and why.
    """
    begun = time.perf_counter()
    waveform = None if recording is None else await asyncio.to_thread(decode, recording, max_seconds)
    decoded = time.perf_counter()
    left = max(0.001, deadline - (decoded - begun))
    windows = [] if waveform is None else spans(len(waveform))

    async def ask(name: str, *utterance: Any, transcribe: bool = False) -> tuple[EmotionResult, float]:
        answer = await client.analyze(
            *utterance, transcribe=transcribe, deadline=left, request_id=name, headers=trace_context
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
        (answer, answered), voices = await asyncio.gather(
            ask(request_id, waveform, text or None, rate, transcribe=transcribe),
            asyncio.gather(*(ask_window(number, part) for number, part in enumerate(parts, 1))),
        )
    except EmotionError as error:
        raise from_client(error) from None
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
            decode_ms=1e3 * (decoded - begun),
            answer_ms=1e3 * (answered - decoded),
            timeline_ms=1e3 * (max([decoded, *(done for _, done in voices)]) - decoded),
            total_ms=1e3 * (time.perf_counter() - begun),
        ),
    )


def spans(samples: int) -> list[tuple[int, int]]:
    """The timeline's windows of a recording as (start, end) in samples; none where it is no longer than one.

    The last one ends with the recording.
    """
    window, hop = int(WINDOW * SAMPLE_RATE), int(WINDOW_HOP * SAMPLE_RATE)
    if samples <= window:
        return []
    starts = [*range(0, samples - window, hop), samples - window]
    return [(start, start + window) for start in starts]
