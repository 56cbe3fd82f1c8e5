"""Run analyses on the emotion server, a limited number at a time, and know whether it is ready."""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager

import numpy as np
from emotion_client import TLS, AsyncEmotionClient, EmotionResult, InvalidInput
from numpy.typing import NDArray

from emotion.audio import SAMPLE_RATE
from web.gateway import analysis, utterances
from web.gateway.analysis import Analysis
from web.gateway.certificates import contents, load
from web.gateway.errors import busy, invalid_input
from web.gateway.feedback import FeedbackStore
from web.gateway.metrics import Metrics
from web.gateway.places import NoPlaceError, Places
from web.gateway.settings import Settings

READY_MAX_AGE_S = 0.5  # after which the server is asked again whether it is ready
SPEECH_MAX_AGE_S = 10.0  # after which the server is asked again whether it recognises speech
USUAL_SHARE = 0.1  # of the newest analysis in the moving average of durations
LONG_USUAL_S = 20.0  # a recording of 5 minutes on 2 cores
CERTIFICATE_POLL_S = 5.0  # between two checks of the client certificate for renewal


class Work:
    """The places for one kind of analysis, and how long it usually takes."""

    def __init__(self, places: int, usual_s: float | None = None) -> None:
        """Start with free places.

        Args:
            places: number of analyses that may run at a time.
            usual_s: their expected duration in seconds, until one has ended; None if it is not known.
        """
        self._places = Places(places)
        self._usual_s = usual_s  # moving average of the duration

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """Hold a place while the block runs, and note its duration unless it fails.

        Raises:
            ApiError: there is no place for this caller.
        """
        started = time.monotonic()
        try:
            with self._places.take(caller):
                yield
        except NoPlaceError:
            raise busy(self._usual_s) from None
        seconds = time.monotonic() - started
        self._usual_s = seconds if self._usual_s is None else self._usual_s + USUAL_SHARE * (seconds - self._usual_s)


class Service:
    """The emotion server's client and the analyses that run, shared by all callers of the gateway.

    Attributes:
        client: client of the emotion server.
        metrics: Prometheus metrics of the gateway.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.client: AsyncEmotionClient
        self._short, self._long = Work(settings.in_flight), Work(settings.long_recordings, LONG_USUAL_S)
        # one at a time, even if its caller leaves: decoding 10 minutes takes up to 0.5 GiB
        self._decoder = ThreadPoolExecutor(1, "decoder")
        self._ready, self._ready_checked_at = False, -READY_MAX_AGE_S
        self._speech, self._speech_checked_at = False, -SPEECH_MAX_AGE_S

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Hold a connected client while the block runs; the client reconnects when its certificates are renewed."""
        self.client = self._connect()
        watcher = asyncio.create_task(self._watch_certificates())
        try:
            yield
        finally:
            watcher.cancel()
            await self.client.close()

    def _connect(self) -> AsyncEmotionClient:
        settings = self.settings
        tls = TLS(settings.ca, settings.private_key, settings.certificate) if settings.ca else None
        return AsyncEmotionClient(settings.endpoints, deadline=settings.deadline, tls=tls)

    async def _watch_certificates(self) -> None:
        files = (self.settings.certificate, self.settings.private_key, self.settings.ca)
        used = contents(*files)
        while True:
            await asyncio.sleep(CERTIFICATE_POLL_S)
            now = contents(*files)
            if now is None or now == used:
                continue
            try:
                load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), *files)
                new = self._connect()
            except (OSError, InvalidInput):  # only some of the files are replaced yet
                continue
            used, old, self.client = now, self.client, new
            await asyncio.sleep(self.settings.deadline)  # requests that run on the old client finish first
            await old.close()

    async def ready(self) -> bool:
        """Return whether the server is ready; the result is cached for READY_MAX_AGE_S, because each page polls it."""
        if time.monotonic() - self._ready_checked_at >= READY_MAX_AGE_S:
            self._ready = await self.client.is_ready()
            self._ready_checked_at = time.monotonic()
        return self._ready

    async def speech(self) -> bool:
        """Return whether the server recognises speech; the result is cached for SPEECH_MAX_AGE_S seconds."""
        if time.monotonic() - self._speech_checked_at >= SPEECH_MAX_AGE_S:
            self._speech = await self.client.is_ready(transcribe=True)
            self._speech_checked_at = time.monotonic()
        return self._speech

    async def analyze(
        self, caller: str, recording: bytes | None, text: str, request_id: str, trace_context: dict[str, str]
    ) -> Analysis:
        """Run one analysis, unless `in_flight` analyses are running or the free places are for others.

        Args:
            caller: the caller's address.
            recording: an encoded file, or None.
            text: the words; may be empty if there is a recording.
            request_id: id of the request in the server's log and traces.
            trace_context: `traceparent` and `tracestate` to pass on; empty if the request is not traced.

        Raises:
            ApiError: the gateway is busy, the input cannot be used, or the server gave no answer.
        """
        text = text.strip()
        if recording is None and not text:
            raise invalid_input("There is neither a recording nor a text: send one of them, or both.")
        with self._short.place(caller), self.metrics.in_flight.track_inprogress():
            transcribe = recording is not None and not text and await self.speech()
            found = await analysis.analyze(
                self.client,
                recording,
                text,
                transcribe,
                self.settings.max_seconds,
                self.settings.deadline,
                request_id,
                trace_context,
            )
        self.metrics.record_success(transcribe, found.timings.total_ms / 1e3)
        return found

    async def utterances(
        self, caller: str, recording: bytes, request_id: str, trace_context: dict[str, str]
    ) -> AsyncGenerator[utterances.Message, None]:
        """Yield the messages about the utterances of a recording, unless `long_recordings` of them are running.

        Args:
            caller: the caller's address.
            recording: an encoded file.
            request_id: id of the request; requests for the utterances append `.1`, `.2`, ...
            trace_context: as in `analyze`.

        Raises:
            ApiError: before the first message: the gateway is busy, or the recording cannot be used.
        """
        with self._long.place(caller), self.metrics.in_flight.track_inprogress():
            waveform, found = await asyncio.get_running_loop().run_in_executor(
                self._decoder, utterances.find, recording, self.settings.long_seconds
            )
            speech = await self.speech()

            async def ask(part: NDArray[np.float32], number: int) -> EmotionResult:
                return await self.client.analyze(
                    part,
                    None,
                    SAMPLE_RATE,
                    transcribe=speech,
                    deadline=self.settings.deadline,
                    request_id=f"{request_id}.{number}",
                    headers=trace_context,
                )

            messages = utterances.messages(waveform, found, speech, ask, self.settings.deadline)
            async with aclosing(messages):
                async for message in messages:
                    yield message

    async def correct(
        self, caller: str, feedback: FeedbackStore, emotion: str, consent: str, text: str, recording: bytes | None
    ) -> str:
        """Store a correction of an answer, as `FeedbackStore.add` describes, and return its id."""
        with self._short.place(caller):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._decoder, feedback.add, emotion, consent, text, recording)
