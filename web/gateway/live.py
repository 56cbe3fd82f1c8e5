"""Analyze speech over a WebSocket while it arrives.

The gateway holds the audio and calls the ensemble as for recordings, so every server can answer the next call.
"""

import asyncio
import contextlib
import io
import json
import time
import wave
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Literal, TypeVar

import numpy as np
from emotion_client import EmotionError, SpokenUtterance, StreamAnswer, VoiceUpdate
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from emotion.decoding import GRACE_S
from web.gateway.analysis import Analysis, Probabilities
from web.gateway.errors import ApiError, busy, from_client_error, invalid_input
from web.gateway.guard import Admission, caller
from web.gateway.messages import Failed, Spoken, spoken
from web.gateway.metrics import Metrics
from web.gateway.places import NoPlaceError, Places
from web.gateway.service import Service
from web.gateway.settings import Settings
from web.gateway.tracing import trace_headers

START_TIMEOUT_S = 10.0  # for the first message
IDLE_TIMEOUT_S = 30.0  # between two messages
SLACK_S = 60.0  # that a stream may last longer than its audio
SEND_TIMEOUT_S = 20.0  # for a caller who does not read
MAX_MESSAGE_BYTES = 1 << 20
# one message costs about as much as 10 ms of audio; an AudioWorklet's blocks have 8 ms at 16 kHz
MESSAGES_PER_S, EARLY_MESSAGES = 200, 500
MAX_RECEIVED_BYTES = 2 * MAX_MESSAGE_BYTES  # of one message; uvicorn's `ws_max_size` closes the connection beyond it
SAMPLE_BYTES = 2
Result = TypeVar("Result")
# of RFC 6455: 1008 policy violation, 1009 message too big, 1011 internal error, 1013 try again later
CLOSE_CODES = {400: 1008, 401: 1008, 408: 1008, 413: 1009, 429: 1013, 500: 1011, 503: 1013, 504: 1013}


class Start(BaseModel):
    """The first message of a caller."""

    type: Literal["start"]
    rate: int = Field(ge=8_000, le=48_000, strict=True)
    key: str = ""


class Ready(BaseModel):
    """Audio may be sent."""

    type: Literal["ready"] = "ready"
    speech: bool


class Voice(BaseModel):
    """The emotion of the voice in the last 3 s."""

    type: Literal["voice"] = "voice"
    end: float
    probabilities: Probabilities | None


class Answer(BaseModel):
    """The answer to the whole stream: what an upload of the recording returns; null if it is too long for one."""

    type: Literal["answer"] = "answer"
    seconds: float
    analysis: Analysis | None


class Live:
    """Serves the streams of one gateway, at most `streams` at a time."""

    def __init__(self, service: Service, admission: Admission, settings: Settings, metrics: Metrics) -> None:
        self._service, self._admission, self._settings, self._metrics = service, admission, settings, metrics
        self._places = Places(settings.streams, active_s=settings.stream_seconds)

    async def serve(self, socket: WebSocket) -> None:
        """Serve one connection until its stream has ended."""
        if not self._is_allowed(socket):
            await socket.close(1008)  # before the handshake: the caller gets 403
            return
        await socket.accept()
        outcome = "fault"
        try:
            await self._serve_stream(socket)
            outcome = "answered"
            await socket.close()
        except WebSocketDisconnect:
            outcome = "canceled"
        except ApiError as error:
            outcome = error.code
            await fail(socket, error)
        except Exception:
            await fail(socket, ApiError(500, "fault", "The gateway failed; its log says why."))
            raise
        finally:
            socket.scope.setdefault("state", {})["outcome"] = outcome
            self._metrics.record_stream(outcome)

    def _is_allowed(self, socket: WebSocket) -> bool:
        """Return whether the page that connects is ours or named in `cors_origins`; programs send no origin."""
        origin = socket.headers.get("origin")
        if origin is None or origin.partition("://")[2] == socket.headers.get("host"):
            return True
        return bool({origin, "*"} & set(self._settings.cors_origins))

    async def _serve_stream(self, socket: WebSocket) -> None:
        start = await self._started(socket)
        self._admission.check(start.key, socket.client)
        try:
            with self._places.take(caller(socket.client)), self._metrics.streams.track_inprogress():
                async with asyncio.timeout(self._settings.stream_seconds + SLACK_S):
                    await self._answer(socket, start.rate)
        except NoPlaceError:
            raise busy() from None
        except TimeoutError:
            raise ApiError(408, "slow_upload", "The stream took much longer than its audio.") from None

    async def _answer(self, socket: WebSocket, rate: int) -> None:
        """Send the events of a stream, and the answer to the whole if its caller ends it."""
        request_id, trace_context = socket.state.request_id, trace_headers(socket.headers)
        speech = await self._service.speech()
        await send(socket, Ready(speech=speech))
        recording = bytearray()
        events = self._service.client.stream(
            self._chunks(socket, rate, recording),
            rate,
            transcribe=speech,
            answer=False,
            request_id=request_id,
            headers=trace_context,
        )
        try:
            async with contextlib.aclosing(events):  # a caller who leaves cancels the running requests
                async for event in events:
                    if isinstance(event, StreamAnswer):
                        seconds = event.seconds
                    else:
                        await send(socket, to_message(event))
        except EmotionError as error:
            raise from_client_error(error) from None
        analysis = None
        if recording:
            whole = self._analyze(caller(socket.client), to_wav(recording, rate), request_id, trace_context)
            analysis = await unless_left(socket, whole)
        await send(socket, Answer(seconds=seconds, analysis=analysis))

    async def _analyze(self, who: str, recording: bytes, request_id: str, trace_context: dict[str, str]) -> Analysis:
        """Return the answer to the whole; wait while the service is busy, because the caller can't repeat it."""
        until = time.monotonic() + self._settings.deadline
        while True:
            try:
                return await self._service.analyze(who, recording, "", request_id, trace_context)
            except ApiError as error:
                if error.code != "busy" or time.monotonic() > until:
                    raise
                await asyncio.sleep(1.0)

    async def _chunks(self, socket: WebSocket, rate: int, recording: bytearray) -> AsyncIterator[NDArray[np.int16]]:
        """Yield the samples as they arrive until the caller ends the stream, and keep those of one recording.

        Raises:
            ApiError: a message cannot be used, or none arrives.
            WebSocketDisconnect: the caller disconnected.
        """
        limit, received, messages = SAMPLE_BYTES * rate * self._settings.stream_seconds, 0, 0
        kept = SAMPLE_BYTES * rate * (self._settings.max_seconds + GRACE_S)
        while True:
            message = await receive(socket, IDLE_TIMEOUT_S)
            if isinstance(message, str):
                if is_end(message):
                    return
                raise invalid_input('Text messages after the first must be {"type": "end"}.')
            if len(message) % SAMPLE_BYTES:
                raise invalid_input("The audio must be whole samples of 16 bits.")
            received, messages = received + len(message), messages + 1
            if messages > EARLY_MESSAGES + MESSAGES_PER_S * received / SAMPLE_BYTES / rate:
                raise invalid_input("The messages are too short: send 0.1 s of audio in each.")
            if received > limit:
                longest = self._settings.stream_seconds
                raise ApiError(413, "too_large", f"The stream is too long; at most {longest:g} s are accepted.")
            if received <= kept:
                recording += message
            else:
                recording.clear()
            yield np.frombuffer(message, "<i2")

    async def _started(self, socket: WebSocket) -> Start:
        message = await receive(socket, START_TIMEOUT_S)
        try:
            return Start.model_validate_json(message)
        except ValidationError:
            raise invalid_input(
                'The first message must be {"type": "start", "rate": 16000}, with a rate of 8000 to 48000 Hz.'
            ) from None


def to_message(event: VoiceUpdate | SpokenUtterance) -> Voice | Spoken:
    """Return the message for an event."""
    if isinstance(event, VoiceUpdate):
        return Voice(end=event.end, probabilities=event.probabilities)
    return spoken(event.start, event.end, event.result)


async def fail(socket: WebSocket, error: ApiError) -> None:
    """Report an error to the caller, if it is still there, and close the connection."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await send(socket, Failed(code=error.code, message=error.message))
        await socket.close(CLOSE_CODES[error.status])


async def send(socket: WebSocket, message: BaseModel) -> None:
    """Send a message.

    Raises:
        WebSocketDisconnect: the caller left, or does not read.
    """
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send_text(message.model_dump_json())
    except TimeoutError:
        raise WebSocketDisconnect(1006) from None


async def receive(socket: WebSocket, timeout: float) -> str | bytes:
    """Return the next message.

    Raises:
        ApiError: none came within `timeout` seconds, or it is too large.
        WebSocketDisconnect: the caller disconnected.
    """
    try:
        async with asyncio.timeout(timeout):
            message = await socket.receive()
    except TimeoutError:
        raise ApiError(408, "slow_upload", f"No message arrived within {timeout:g} s.") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    found: str | bytes = message.get("bytes") or message.get("text") or b""
    if len(found) > MAX_MESSAGE_BYTES:
        raise ApiError(413, "too_large", f"A message may have {MAX_MESSAGE_BYTES >> 20} MiB.")
    return found


async def unless_left(socket: WebSocket, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of some work, which is cancelled if the caller disconnects meanwhile.

    Raises:
        WebSocketDisconnect: the caller disconnected.
    """

    async def leave() -> None:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass

    running, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise WebSocketDisconnect(1006)
    finally:
        running.cancel()
        leaving.cancel()
        await asyncio.gather(running, leaving, return_exceptions=True)


def is_end(message: str) -> bool:
    """Return whether a text message ends the stream."""
    try:
        return bool(json.loads(message) == {"type": "end"})
    except (ValueError, RecursionError):
        return False


def to_wav(samples: bytes | bytearray, rate: int) -> bytes:
    """Return 16-bit mono samples as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(SAMPLE_BYTES)
        writer.setframerate(rate)
        writer.writeframes(samples)
    return file.getvalue()
