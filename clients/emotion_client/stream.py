"""Analyze audio while it arrives: the emotion of the voice over the last seconds, and each utterance when it ends.

All calls go to the same models as those of whole recordings, so that they batch with them, and any server can answer
the next one. The audio is therefore kept here and not in the server.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from emotion_client.audio import to_float32
from emotion_client.errors import DeadlineExceeded, EmotionError, InvalidInput, NoSpeech, Unavailable
from emotion_client.types import EMOTIONS, EmotionResult
from emotion_client.voice_activity import LONGEST_S, UtteranceDetector

WINDOW_S, HOP_S = 3.0, 0.5  # of the updates of the voice
SMOOTHING = 0.5  # share of the newest window in an update
LONGEST_ANSWER_S = 61.0  # the server accepts recordings of 60 s and a second of grace
MIN_RATE, MAX_RATE = 8_000, 192_000
_UPDATE_DEADLINE_S = 2.0  # a later update is of no use
_OUTAGE_S = 10.0  # in which every update failed, after which a stream ends in the error
SHORTEST_BLOCK_S, LONGEST_BLOCK_S = 0.1, 1.0  # chunks are joined and cut to blocks of this length
_WAITING_UTTERANCES = 4  # no further audio is read while so many wait

Analyze: TypeAlias = Callable[..., Awaitable[EmotionResult]]  # AsyncEmotionClient.analyze


@dataclass(frozen=True, slots=True)
class VoiceUpdate:
    """The emotion of the voice alone in the last 3 s.

    Attributes:
        end: seconds since the beginning of the stream at which the window ends.
        probabilities: probability of each emotion, smoothed over the updates; None if the window has no sound.
    """

    end: float
    probabilities: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class SpokenUtterance:
    """An utterance of the stream, once it has ended.

    Attributes:
        start, end: seconds since the beginning of the stream.
        result: its answer, or the exception if it got none.
    """

    start: float
    end: float
    result: EmotionResult | EmotionError


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """The last event of a stream.

    Attributes:
        seconds: length of the stream.
        result: the answer to the whole stream as one recording; None if it is longer than 60 s or was not wanted.
    """

    seconds: float
    result: EmotionResult | None


StreamEvent: TypeAlias = VoiceUpdate | SpokenUtterance | StreamAnswer


async def stream_events(
    analyze: Analyze, chunks: AsyncIterable[NDArray[Any]], rate: int, transcribe: bool, answer: bool
) -> AsyncGenerator[StreamEvent, None]:
    """Yield the events of `AsyncEmotionClient.stream`, which describes the arguments.

    Args:
        analyze: `AsyncEmotionClient.analyze`, with request ids and headers bound to it.
        chunks, rate, transcribe, answer: as there.
    """
    if not isinstance(rate, int | np.integer) or not MIN_RATE <= rate <= MAX_RATE:
        raise InvalidInput(f"rate must be a whole number of Hz from {MIN_RATE} to {MAX_RATE}, not {rate!r}")
    session = _Session(analyze, int(rate), transcribe, LONGEST_ANSWER_S if answer else LONGEST_S + WINDOW_S)
    tasks = [asyncio.create_task(part) for part in (session.listen(chunks), session.follow(), session.answer_spoken())]
    for task in tasks:
        task.add_done_callback(session.wake)
    _, following, answering = tasks
    try:
        while True:
            while session.events:
                yield session.events.pop()
            for task in tasks:
                if task.done() and (error := task.exception()):
                    raise error
            if answering.done():
                break
            await session.news()
        following.cancel()
        if not session.heard:
            raise InvalidInput("no audio arrived: send at least one chunk with samples")
        whole = session.heard / rate if answer else np.inf
        result = None
        if whole <= LONGEST_ANSWER_S:
            result = await analyze(session.tape.read(0, session.heard), rate=rate, transcribe=transcribe)
        yield StreamAnswer(session.heard / rate, result)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Tape:
    """The end of the audio, at least `kept` samples."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._chunks: deque[tuple[int, NDArray[np.float32]]] = deque()  # with the position of the first sample

    def add(self, start: int, chunk: NDArray[np.float32]) -> None:
        self._chunks.append((start, chunk))
        while self._chunks[0][0] + len(self._chunks[0][1]) < start + len(chunk) - self._kept:
            self._chunks.popleft()

    def read(self, start: int, end: int) -> NDArray[np.float32]:
        """Return the samples from `start` to `end`, without what is no longer kept."""
        parts = [chunk[max(0, start - at) : max(0, end - at)] for at, chunk in self._chunks]
        return np.concatenate([part for part in parts if len(part)])


class _Events:
    """What the consumer has not taken yet: every utterance, and the newest update of the voice alone."""

    def __init__(self) -> None:
        self.utterances: deque[SpokenUtterance] = deque()
        self.voice: VoiceUpdate | None = None

    def __bool__(self) -> bool:
        return bool(self.utterances or self.voice)

    def pop(self) -> StreamEvent:
        if self.utterances:
            return self.utterances.popleft()
        voice, self.voice = self.voice, None
        assert voice is not None
        return voice


class _Session:
    """The state that the tasks of one stream share."""

    def __init__(self, analyze: Analyze, rate: int, transcribe: bool, kept_s: float) -> None:
        self._analyze, self._rate, self._transcribe = analyze, rate, transcribe
        self.tape, self.events = _Tape(int(kept_s * rate)), _Events()
        self.heard = 0  # samples
        self._detector = UtteranceDetector(rate)
        self._spoken: asyncio.Queue[tuple[int, int, NDArray[np.float32]] | None] = asyncio.Queue(_WAITING_UTTERANCES)
        self._news, self._more_audio = asyncio.Event(), asyncio.Event()

    def wake(self, *_: object) -> None:
        """Let `news` return."""
        self._news.set()

    async def news(self) -> None:
        """Wait until there are events, or a task has ended."""
        await self._news.wait()
        self._news.clear()

    async def listen(self, chunks: AsyncIterable[NDArray[Any]]) -> None:
        """Take the audio, and pass each utterance on when it has ended."""
        async for block in self._blocks(chunks):
            self.tape.add(self.heard, block)
            self.heard += len(block)
            self._more_audio.set()
            await self._pass_on(self._detector.add(block))
            await asyncio.sleep(0)  # a long chunk leaves time for other tasks
        await self._pass_on(self._detector.end())
        await self._spoken.put(None)

    async def _blocks(self, chunks: AsyncIterable[NDArray[Any]]) -> AsyncIterator[NDArray[np.float32]]:
        """Yield the samples of the chunks in blocks of SHORTEST_BLOCK_S to LONGEST_BLOCK_S; the last may be shorter."""
        shortest, longest = int(SHORTEST_BLOCK_S * self._rate), int(LONGEST_BLOCK_S * self._rate)
        waiting, length = list[NDArray[np.float32]](), 0
        async for chunk in chunks:
            if not isinstance(chunk, np.ndarray):
                raise InvalidInput(f"a chunk must be a numpy array, not {type(chunk).__name__}")
            if chunk.ndim != 1:
                shape = list(chunk.shape)
                raise InvalidInput(f"a chunk must have the shape [n], not {shape}: mix the channels into one")
            if not len(chunk):
                continue
            waiting.append(to_float32(chunk))
            length += len(chunk)
            if length >= shortest:
                joined = np.concatenate(waiting)
                for start in range(0, length, longest):
                    yield joined[start : start + longest]
                waiting, length = [], 0
        if waiting:
            yield np.concatenate(waiting)

    async def _pass_on(self, utterances: list[tuple[int, int]]) -> None:
        for start, end in utterances:
            await self._spoken.put((start, end, self.tape.read(start, end)))

    async def follow(self) -> None:
        """Ask for the emotion of the newest window again and again; audio that comes meanwhile is in the next one."""
        window, hop = int(WINDOW_S * self._rate), int(HOP_S * self._rate)
        asked, smooth, failing_since = 0, None, None
        while True:
            while self.heard - asked < hop:
                self._more_audio.clear()
                await self._more_audio.wait()
            asked = self.heard
            try:
                part = self.tape.read(max(0, asked - window), asked)
                voice = await self._analyze(part, rate=self._rate, deadline=_UPDATE_DEADLINE_S)
                new = np.array([voice.probabilities[name] for name in EMOTIONS])
                smooth = new if smooth is None else smooth + SMOOTHING * (new - smooth)
            except NoSpeech:
                smooth = None
            except (Unavailable, DeadlineExceeded):
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > _OUTAGE_S:
                    raise
                continue
            failing_since = None
            probabilities = None if smooth is None else dict(zip(EMOTIONS, smooth.tolist(), strict=True))
            self.events.voice = VoiceUpdate(asked / self._rate, probabilities)
            self._news.set()

    async def answer_spoken(self) -> None:
        """Ask for the emotion of each utterance, one after the other."""
        while (spoken := await self._spoken.get()) is not None:
            start, end, samples = spoken
            result: EmotionResult | EmotionError
            try:
                result = await self._analyze(samples, rate=self._rate, transcribe=self._transcribe)
            except NoSpeech:  # a short noise
                continue
            except EmotionError as error:
                result = error
            self.events.utterances.append(SpokenUtterance(start / self._rate, end / self._rate, result))
            self._news.set()
