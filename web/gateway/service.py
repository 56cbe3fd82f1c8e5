"""Run analyses on the emotion server, a limited number at a time, and know whether it is ready."""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager

import numpy as np
from emotion_client import TLS, AsyncEmotionClient, EmotionResult, InvalidInput
from numpy.typing import NDArray

from emotion.audio import SAMPLE_RATE
from web.gateway import analysis, utterances
from web.gateway.analysis import Analysis
from web.gateway.certificates import contents, load
from web.gateway.errors import busy, invalid_input
from web.gateway.metrics import Metrics
from web.gateway.places import NoPlaceError, Places
from web.gateway.settings import Settings

READY_MAX_AGE_S = 0.5  # after which the server is asked again whether it is ready
SPEECH_MAX_AGE_S = 10.0  # after which the server is asked again whether it recognises speech
USUAL_SHARE = 0.1  # of the newest analysis in the moving average of durations
CERTIFICATE_POLL_S = 5.0  # between two checks of the client certificate for renewal


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
        self._places = Places(settings.in_flight)
        self._decoding = asyncio.Lock()  # of long recordings: one takes up to 0.5 GiB
        self._usual_s: float | None = None  # moving average of the duration of an analysis
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
        with self._place(caller):
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
        seconds = found.timings.total_ms / 1e3
        self._usual_s = seconds if self._usual_s is None else self._usual_s + USUAL_SHARE * (seconds - self._usual_s)
        self.metrics.record_success(transcribe, seconds)
        return found

    async def utterances(
        self, caller: str, recording: bytes, request_id: str, trace_context: dict[str, str]
    ) -> AsyncGenerator[utterances.Message, None]:
        """Yield the messages about the utterances of a recording. It counts as one analysis while it runs.

        Args:
            caller: the caller's address.
            recording: an encoded file.
            request_id: id of the request; requests for the utterances append `.1`, `.2`, ...
            trace_context: as in `analyze`.

        Raises:
            ApiError: before the first message: the gateway is busy, or the recording cannot be used.
        """
        with self._place(caller):
            async with self._decoding:
                waveform, found = await asyncio.to_thread(utterances.find, recording, self.settings.long_seconds)
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

    @contextmanager
    def _place(self, caller: str) -> Iterator[None]:
        """Hold one of the places for analyses while the block runs.

        Raises:
            ApiError: there is none for this caller.
        """
        try:
            with self._places.take(caller), self.metrics.in_flight.track_inprogress():
                yield
        except NoPlaceError:
            raise busy(self._usual_s) from None
