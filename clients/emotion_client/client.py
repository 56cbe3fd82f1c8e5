"""The blocking and the asyncio client, each with one gRPC channel."""

import asyncio
import itertools
import json
import math
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any, Self, get_args

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from emotion_client.audio import encode
from emotion_client.breaker import Breaker
from emotion_client.channel import TLS, connection
from emotion_client.errors import EmotionError, InvalidInput, from_triton, is_broken_server, is_cancelled, is_outage
from emotion_client.hedging import Budget, is_final
from emotion_client.stream import StreamEvent, stream_events
from emotion_client.types import (
    EMOTIONS,
    Audio,
    EmotionResult,
    Priority,
    Status,
    Timings,
    TranscriptConfidence,
    Utterance,
)

_MODEL, _SPEECH_MODEL = "emotion", "emotion_speech"
_OUTPUTS: tuple[str, ...] = (
    "PROBABILITIES",
    "AUDIO_PROBABILITIES",
    "TEXT_PROBABILITIES",
    "CONFIDENCE",
    "CHECKPOINT",
)
_SPEECH_OUTPUTS: tuple[str, ...] = (
    "TRANSCRIPT",
    "UNDERSTOOD",
    "TRANSCRIPT_LOG_PROBABILITY",
    "NO_SPEECH_PROBABILITY",
    "LANGUAGE",
    "LANGUAGE_PROBABILITY",
)
_RETRY_PAUSE_S = 1.0  # a broken server exits within this time; the retry then reaches another one or its restart
_CLOSED = "this client is closed: create a new one"
_MAX_DEADLINE_S = 86_400.0  # far below the limits of gRPC and Triton
_HEADER_NAME, _HEADER_VALUE = re.compile(r"[0-9a-z_.-]+"), re.compile(r"[ -~]*")  # what gRPC accepts as metadata


@dataclass(frozen=True, slots=True)
class _Request:
    """A request that is ready to send.

    Attributes:
        arguments: keyword arguments of InferenceServerClient.infer.
        deadline: seconds that the call may take, retries included.
        prepare_ms: milliseconds that its preparation took.
        sent: time.perf_counter() when it was first sent.
        has_audio: whether it has audio.
    """

    arguments: dict[str, Any]
    deadline: float
    prepare_ms: float
    sent: float
    has_audio: bool

    def retry_after(self, pause: float = 0.0) -> Self | None:
        """Return the request to send again after `pause` seconds, or None if its deadline will have passed by then."""
        remaining = self.deadline - pause - (time.perf_counter() - self.sent)
        return replace(self, arguments=self.arguments | _time_limits(remaining)) if remaining > 0 else None


class _Client:
    """Base of both clients: converts utterances to requests and answers to results."""

    def __init__(
        self,
        endpoints: str | Sequence[str],
        deadline: float,
        tls: TLS | None,
        retries: bool,
        priority: Priority,
        hedge_after: float | None,
        confident_from: float,
    ) -> None:
        self._endpoints = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        self._deadline = _checked(deadline)
        self._hedge_after = None if hedge_after is None else _checked(hedge_after, "hedge_after")
        if priority not in get_args(Priority):
            raise InvalidInput(f"priority must be one of {', '.join(get_args(Priority))}, not {priority!r}")
        if not 0 <= confident_from <= 1:
            raise InvalidInput(f"confident_from must be from 0 to 1 (default: 0.9), not {confident_from:g}")
        self._confident_from = confident_from
        self._priority, self._retries = priority, retries
        self._connection = connection(self._endpoints, tls, retries)
        self._breaker, self._hedges = Breaker(), Budget()
        self._closed = False

    def _prepare(
        self,
        utterance: Utterance,
        request_id: str | None,
        deadline: float | None,
        headers: Mapping[str, str] | None,
    ) -> _Request:
        """Check an utterance and encode it as a request.

        Raises:
            InvalidInput: the server would reject the utterance or cannot receive it.
            CircuitOpen: no server has answered for a while.
            EmotionError: the client is closed.
        """
        start = time.perf_counter()
        if self._closed:
            raise EmotionError(_CLOSED)
        if utterance.audio is None and not utterance.text:
            raise InvalidInput("neither audio nor text was given: give at least one")
        if utterance.audio is None and utterance.rate is not None:
            raise InvalidInput("rate is only for a waveform: leave it out, as no audio was given")
        if utterance.transcribe and (utterance.audio is None or utterance.text):
            raise InvalidInput("transcribe recognises the text of audio: give audio, and no text")
        inputs = [_tensor("AUDIO", b"" if utterance.audio is None else encode(utterance.audio, utterance.rate))]
        model, outputs = _MODEL, _OUTPUTS
        if utterance.transcribe:
            model, outputs = _SPEECH_MODEL, (*_OUTPUTS, *_SPEECH_OUTPUTS)
        else:
            inputs.append(_tensor("TEXT", _utf8(utterance.text or "")))
        seconds = self._deadline if deadline is None else _checked(deadline)
        arguments = {
            "model_name": model,
            "inputs": inputs,
            "outputs": [triton.InferRequestedOutput(name) for name in outputs],
            "request_id": request_id or uuid.uuid4().hex,
            "headers": _checked_headers(headers or {}),
            **({"parameters": {"bulk": True}} if self._priority == "bulk" else {}),
            **_time_limits(seconds),
        }
        self._breaker.check()
        sent = time.perf_counter()
        return _Request(arguments, seconds, 1e3 * (sent - start), sent, utterance.audio is not None)

    def _result(self, request: _Request, answer: triton.InferResult) -> EmotionResult:
        """Convert an answer to a result.

        Raises:
            EmotionError: the answer contains NaN, which the server uses to withhold it.
        """
        self._breaker.record_success()
        self._hedges.record_success()
        fused, audio, text = (_by_name(answer.as_numpy(name)[0]) for name in _OUTPUTS[:3])
        checkpoint = json.loads(answer.as_numpy("CHECKPOINT")[0, 0])
        transcript, transcript_confidence = _transcript(answer)
        assert fused is not None  # a softmax is never all zero
        if any(math.isnan(probability) for probability in fused.values()):
            raise EmotionError(
                f"the server at {', '.join(self._endpoints)} withheld its answer because another request in the batch "
                "had an empty tensor: send the request again"
            )
        confidence = float(answer.as_numpy("CONFIDENCE")[0, 0])
        is_confident = confidence >= self._confident_from
        status: Status = "ok" if is_confident else "unsure"
        return EmotionResult(
            label=max(fused, key=fused.__getitem__),
            confidence=confidence,
            is_confident=is_confident,
            status="no_speech" if request.has_audio and audio is None else status,
            probabilities=fused,
            audio_probabilities=audio,
            text_probabilities=text,
            transcript=transcript,
            request_id=answer.get_response().id,
            checkpoint=checkpoint["digest"],
            untrained=tuple(checkpoint["untrained"]),
            timings=Timings(prepare=request.prepare_ms, request=1e3 * (time.perf_counter() - request.sent)),
            transcript_confidence=transcript_confidence,
        )

    def _second_attempt(self, request: _Request, error: InferenceServerException) -> _Request:
        """Return the request to send after _RETRY_PAUSE_S if a server was broken or cancelled the call.

        A server that stops cancels the calls that reach it last.

        There is only one second attempt, because this request may be what breaks servers.

        Raises:
            EmotionError: there is no second attempt.
        """
        again = is_broken_server(error) or (is_cancelled(error) and not self._closed)
        retry = request.retry_after(_RETRY_PAUSE_S) if self._retries and again else None
        if retry is None:
            raise self._failure(request, error) from None
        return retry

    def _hedge(self, request: _Request) -> _Request | None:
        """Return the hedge of a request whose answer is late, or None if there is no time or budget left."""
        hedge = request.retry_after()
        return hedge if hedge and self._hedges.try_acquire() else None

    def _failure(self, request: _Request, error: InferenceServerException) -> EmotionError:
        """Return the exception to raise for a failed request, and record it in the circuit breaker."""
        failure = from_triton(error, self._endpoints, request.arguments["model_name"], request.deadline)
        if not is_outage(error):
            self._breaker.record_success()
        elif self._retries:
            self._breaker.record_failure(str(failure))
        return failure


class EmotionClient(_Client):
    """Blocking client, which threads may share. Close it, or use it in a `with` statement.

    Calls are retried with exponential backoff and jitter for about 8 s if no server is reachable or all are too busy,
    and once if a server was broken or cancelled the call. Retries have a budget: when most calls fail, each is sent
    only once. When no call was answered for 10 s, calls fail at once with CircuitOpen, except for one every 2 s, until
    a call is answered.

    Args:
        endpoints: HOST:PORT of the server's gRPC endpoint, or of several. Calls are distributed round-robin over all
            addresses of one DNS name (which is looked up again as servers change) or over several endpoints (each
            looked up only once, here).
        deadline: seconds that a call may take, retries included; above 0 and at most 86400.
        tls: how to encrypt; None for no encryption.
        retries: False sends every call exactly once, without retries and circuit breaker. Load tests need this to
            count rejections.
        priority: "interactive", or "bulk" for calls that no user waits for: the server answers interactive ones first.
        hedge_after: seconds after which an unanswered call is sent a second time, to the next of several servers. The
            first answer is used, and the other call is cancelled. At most one call in ten is hedged, and at most ten
            at once. A good value is the 95th percentile of the latency. None sends no call twice.
        confident_from: smallest confidence of a confident answer, 0 to 1. With 0.9, nine in ten confident answers are
            right on utterances like those that the checkpoint was calibrated on.

    Raises:
        InvalidInput: an endpoint, deadline, threshold or certificate cannot be used.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = "localhost:8001",
        *,
        deadline: float = 30.0,
        tls: TLS | None = None,
        retries: bool = True,
        priority: Priority = "interactive",
        hedge_after: float | None = None,
        confident_from: float = 0.9,
    ) -> None:
        super().__init__(endpoints, deadline, tls, retries, priority, hedge_after, confident_from)
        self._triton = triton.InferenceServerClient(**self._connection)

    def analyze(
        self,
        audio: Audio | None = None,
        text: str | None = None,
        rate: int | None = None,
        *,
        transcribe: bool = False,
        request_id: str | None = None,
        deadline: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> EmotionResult:
        """Return the emotion of one utterance.

        Args:
            audio: see Utterance.
            text: see Utterance.
            rate: see Utterance.
            transcribe: see Utterance.
            request_id: id of the request in the server's log; generated if None.
            deadline: seconds that this call may take; the client's deadline if None.
            headers: gRPC metadata to send with the request, such as `traceparent` of W3C Trace Context. Names must be
                in lower case, values in printable ASCII.

        Raises:
            InvalidInput: the utterance cannot be used; NoSpeech if it has neither sound nor text.
            Unavailable: no server could be reached (Unreachable, CircuitOpen), or all are too busy.
            DeadlineExceeded: the answer did not arrive in time.
            EmotionError: any other error, such as a missing model or a failed server.
        """
        request = self._prepare(Utterance(audio, text, rate, transcribe), request_id, deadline, headers)
        try:
            try:
                answer = self._infer(request)
            except InferenceServerException as error:
                retry = self._second_attempt(request, error)
                time.sleep(_RETRY_PAUSE_S)
                answer = self._infer(retry)
        except InferenceServerException as error:
            raise self._failure(request, error) from None
        return self._result(request, answer)

    def analyze_many(
        self, utterances: Iterable[Utterance], concurrency: int = 16
    ) -> list[EmotionResult | EmotionError]:
        """Return the emotion of each utterance, in the same order.

        Args:
            utterances: the utterances.
            concurrency: number of requests in flight.

        Returns:
            A result for each utterance, or the exception if it failed. A failure does not stop the others.
        """

        def one(utterance: Utterance) -> EmotionResult | EmotionError:
            try:
                given = _checked_utterance(utterance)
                return self.analyze(given.audio, given.text, given.rate, transcribe=given.transcribe)
            except EmotionError as error:
                return error

        with ThreadPoolExecutor(concurrency) as executor:
            return list(executor.map(one, utterances))

    def _infer(self, request: _Request) -> triton.InferResult:
        """Return the first answer, of one attempt or, with a hedge, of two."""
        if self._hedge_after is None:
            return self._triton.infer(**request.arguments)
        outcomes: SimpleQueue[tuple[triton.InferResult, InferenceServerException | None]] = SimpleQueue()

        def send(attempt: _Request) -> Any:
            return self._triton.async_infer(
                callback=lambda result, error: outcomes.put((result, error)), **attempt.arguments
            )

        attempts = [send(request)]
        try:
            try:
                answer, error = outcomes.get(timeout=self._hedge_after)
            except Empty:
                if hedge := self._hedge(request):
                    attempts.append(send(hedge))
                answer, error = outcomes.get()
            if error is not None and len(attempts) > 1 and not is_final(error):
                answer, error = outcomes.get()
        finally:
            for attempt in attempts:
                attempt.cancel()
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        """Close the channel."""
        self._closed = True
        self._triton.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncEmotionClient(_Client):
    """The asyncio version of EmotionClient, with the same arguments. Create it inside a running event loop."""

    def __init__(
        self,
        endpoints: str | Sequence[str] = "localhost:8001",
        *,
        deadline: float = 30.0,
        tls: TLS | None = None,
        retries: bool = True,
        priority: Priority = "interactive",
        hedge_after: float | None = None,
        confident_from: float = 0.9,
    ) -> None:
        asyncio.get_running_loop()  # the channel is bound to a loop: without one, fail here and not at the first call
        super().__init__(endpoints, deadline, tls, retries, priority, hedge_after, confident_from)
        self._triton = triton_aio.InferenceServerClient(**self._connection)

    async def analyze(
        self,
        audio: Audio | None = None,
        text: str | None = None,
        rate: int | None = None,
        *,
        transcribe: bool = False,
        request_id: str | None = None,
        deadline: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> EmotionResult:
        """Return the emotion of one utterance, like EmotionClient.analyze."""
        # in a thread, because reading a file blocks the event loop
        utterance = Utterance(audio, text, rate, transcribe)
        request = await asyncio.to_thread(self._prepare, utterance, request_id, deadline, headers)
        try:
            try:
                answer = await self._infer(request)
            except InferenceServerException as error:
                retry = await asyncio.to_thread(self._second_attempt, request, error)
                await asyncio.sleep(_RETRY_PAUSE_S)
                answer = await self._infer(retry)
        except InferenceServerException as error:
            raise await asyncio.to_thread(self._failure, request, error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise EmotionError("the call was cancelled because this client was closed") from None
        return self._result(request, answer)

    async def analyze_many(
        self, utterances: Iterable[Utterance], concurrency: int = 16
    ) -> list[EmotionResult | EmotionError]:
        """Return the emotion of each utterance, like EmotionClient.analyze_many."""
        slots = asyncio.Semaphore(concurrency)

        async def one(utterance: Utterance) -> EmotionResult | EmotionError:
            async with slots:
                try:
                    given = _checked_utterance(utterance)
                    return await self.analyze(given.audio, given.text, given.rate, transcribe=given.transcribe)
                except EmotionError as error:
                    return error

        return await asyncio.gather(*map(one, utterances))

    def stream(
        self,
        chunks: AsyncIterable[NDArray[Any]],
        rate: int,
        *,
        transcribe: bool = False,
        answer: bool = True,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Analyze audio while it arrives, such as that of a microphone.

        No audio is lost to a slow server or consumer: updates of the voice are left out instead, and further chunks are
        read later.

        Args:
            chunks: pieces of the audio of any length, [n] each, floating point in [-1, 1], int16 or int32.
            rate: sample rate in Hz, 8,000 to 192,000.
            transcribe: whether the server recognises the words of utterances and of the whole stream.
            answer: whether the last event has the answer to the whole stream.
            request_id: start of the ids of all requests; .1, .2, ... follow. None for a random one.
            headers: gRPC metadata to send with each request, names in lower case.

        Yields:
            A VoiceUpdate about every 0.5 s, a SpokenUtterance after each utterance, which ends with a pause of 0.6 s or
            after 15 s, and at the end a StreamAnswer.

        Raises:
            InvalidInput: a chunk or the rate cannot be used, or no audio arrived.
            EmotionError: the final answer failed as `analyze` would, or all updates failed for 10 s.
        """
        prefix, number = request_id or uuid.uuid4().hex, itertools.count(1)

        def analyze(audio: Audio, **options: Any) -> Awaitable[EmotionResult]:
            return self.analyze(audio, request_id=f"{prefix}.{next(number)}", headers=headers, **options)

        return stream_events(analyze, chunks, rate, transcribe, answer)

    async def is_ready(self, *, transcribe: bool = False, deadline: float = 2.0) -> bool:
        """Return whether the server reports that it is ready.

        Args:
            transcribe: whether it must be ready to transcribe speech.
            deadline: seconds to wait for its answer.
        """
        if self._closed:
            return False
        try:
            return await self._triton.is_model_ready(_SPEECH_MODEL if transcribe else _MODEL, client_timeout=deadline)
        except InferenceServerException:
            return False

    async def _infer(self, request: _Request) -> triton.InferResult:
        """Return the first answer, of one attempt or, with a hedge, of two."""
        if self._hedge_after is None:
            return await self._triton.infer(**request.arguments)
        attempts = [asyncio.ensure_future(self._triton.infer(**request.arguments))]
        try:
            await asyncio.wait(attempts, timeout=self._hedge_after)
            if not attempts[0].done() and (hedge := self._hedge(request)):
                attempts.append(asyncio.ensure_future(self._triton.infer(**hedge.arguments)))
            for first in asyncio.as_completed(attempts):
                try:
                    return await first
                except InferenceServerException as error:
                    failure = error
                    if is_final(error):
                        break
            raise failure
        finally:
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)  # wait until they are cancelled

    async def close(self) -> None:
        """Close the channel."""
        self._closed = True
        await self._triton.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


def _checked_utterance(utterance: object) -> Utterance:
    """Return an utterance unchanged.

    Raises:
        InvalidInput: the argument is something else, such as a path.
    """
    if not isinstance(utterance, Utterance):
        raise InvalidInput(
            f"each utterance must be an Utterance, not {type(utterance).__name__}: "
            'give Utterance(audio="clip.flac"), or Utterance(text="...")'
        )
    return utterance


def _checked(seconds: float, name: str = "deadline") -> float:
    if not 0 < seconds <= _MAX_DEADLINE_S:
        raise InvalidInput(f"{name} must be above 0 and at most {_MAX_DEADLINE_S:g} seconds, not {seconds:g}")
    return seconds


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the headers.

    Raises:
        InvalidInput: gRPC does not accept a name or value.
    """
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidInput(f"header names must have lower-case letters, digits and _.- only, not {name!r}")
        if not _HEADER_VALUE.fullmatch(value):
            raise InvalidInput(f"the header {name} must have printable ASCII characters only, not {value!r}")
    return dict(headers)


def _time_limits(seconds: float) -> dict[str, Any]:
    """Return the deadline for gRPC, in seconds, and for Triton, in microseconds, which drops requests after it."""
    return {"client_timeout": seconds, "timeout": math.ceil(seconds * 1e6)}


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"text has a character that is not valid Unicode at position {error.start}") from None


def _tensor(name: str, value: bytes) -> triton.InferInput:
    tensor = triton.InferInput(name, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[value]], dtype=np.object_))
    return tensor


def _transcript(answer: triton.InferResult) -> tuple[str, TranscriptConfidence] | tuple[None, None]:
    """Return the transcript and its confidence, or (None, None) if none was requested."""
    if answer.as_numpy("TRANSCRIPT") is None:
        return None, None
    text, understood, log_probability, no_speech, language, language_probability = (
        answer.as_numpy(name)[0, 0] for name in _SPEECH_OUTPUTS
    )
    confidence = TranscriptConfidence(
        understood=bool(understood),
        log_probability=float(log_probability),
        no_speech_probability=float(no_speech),
        language=language.decode(),
        language_probability=float(language_probability),
    )
    return text.decode(), confidence


def _by_name(probabilities: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, float] | None:
    """Return probabilities, float32 [5], by emotion, or None if all are zero, which means an absent modality."""
    return dict(zip(EMOTIONS, probabilities.tolist(), strict=True)) if probabilities.any() else None
