"""Find the utterances of a long recording, and analyze each of them."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Literal

import numpy as np
from emotion_client import DeadlineExceeded, EmotionError, EmotionResult, InvalidInput, Unavailable, find_utterances
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from emotion.audio import SAMPLE_RATE
from web.gateway.errors import ApiError, from_client_error
from web.gateway.messages import Failed, Spoken, spoken
from web.gateway.recordings import decode

AT_ONCE = 2  # utterances of one recording: speech is recognised one at a time, while the other models answer
DEFAULT_PAUSE_S = 1.0  # between two attempts while the server is busy
Ask = Callable[[NDArray[np.float32], int], Awaitable[EmotionResult]]


class Recording(BaseModel):
    """The first message: what follows."""

    type: Literal["recording"] = "recording"
    seconds: float = Field(description="length of the recording in seconds", examples=[412.3])
    utterances: int = Field(description="number of utterances that follow", examples=[97])
    speech: bool = Field(
        description="whether speech is recognised; if not, an utterance is analysed by its voice alone"
    )


class End(BaseModel):
    """The last message if every utterance has been answered."""

    type: Literal["end"] = "end"
    checkpoint: str | None = Field(
        description="digest of the weights that computed the answers; null if there are none"
    )
    untrained: list[str] = Field(
        description="parts of the model that were never trained; if not empty, ignore the answers"
    )


Message = Recording | Spoken | End | Failed


def find(data: bytes, max_seconds: float) -> tuple[NDArray[np.float32], list[tuple[int, int]]]:
    """Decode a recording and find its utterances.

    Args:
        data: an encoded file.
        max_seconds: longest recording accepted, in seconds.

    Returns:
        The waveform, float32 [n] at 16 kHz, and the start and end of each utterance in samples, at least one.

    Raises:
        ApiError: the recording cannot be used, or nobody speaks in it.
    """
    waveform = decode(data, max_seconds)
    found = find_utterances(waveform, SAMPLE_RATE)
    if not found:
        raise ApiError(400, "no_speech", "No speech was found in the recording; check that it is loud enough.")
    return waveform, found


async def messages(
    waveform: NDArray[np.float32], found: list[tuple[int, int]], speech: bool, ask: Ask, patience_s: float
) -> AsyncGenerator[Message, None]:
    """Yield the messages about a recording in the order of time, each utterance as soon as it is answered.

    Args:
        waveform: float32 [n] at 16 kHz.
        found: start and end of each utterance in samples.
        speech: whether `ask` recognises speech.
        ask: returns the answer to a waveform; its second argument is the number of the utterance, from 1.
        patience_s: seconds for which an utterance is asked for again while the server is busy.
    """
    yield Recording(seconds=len(waveform) / SAMPLE_RATE, utterances=len(found), speech=speech)
    last: EmotionResult | None = None
    running: deque[asyncio.Task[EmotionResult | EmotionError]] = deque()
    waiting = enumerate(found, 1)

    async def answer(number: int, start: int, end: int) -> EmotionResult | EmotionError:
        try:
            return await _while_busy(lambda: ask(waveform[start:end], number), patience_s)
        except (InvalidInput, DeadlineExceeded) as error:  # such as a click, in which the model finds no sound
            return error

    def start_next(count: int) -> None:
        parts = itertools.islice(waiting, count)
        running.extend(asyncio.create_task(answer(number, *part)) for number, part in parts)

    try:
        start_next(AT_ONCE)
        for start, end in found:
            result = await running[0]
            running.popleft()
            start_next(1)
            last = result if isinstance(result, EmotionResult) else last
            yield spoken(start / SAMPLE_RATE, end / SAMPLE_RATE, result)
        yield End(checkpoint=last.checkpoint if last else None, untrained=list(last.untrained) if last else [])
    except EmotionError as error:
        failure = from_client_error(error)
        yield Failed(code=failure.code, message=failure.message)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _while_busy(ask: Callable[[], Awaitable[EmotionResult]], patience_s: float) -> EmotionResult:
    """Return the first answer; a busy server is asked again, because the caller can't repeat a single utterance."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return await ask()
        except Unavailable as error:
            pause = error.retry_after or DEFAULT_PAUSE_S
            if time.monotonic() + pause > until:
                raise
            await asyncio.sleep(pause)
