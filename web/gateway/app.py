"""The ASGI application of the gateway: API and page."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from emotion_client import TLS, AsyncEmotionClient, InvalidInput
from fastapi import FastAPI, File, Form, Request, Response, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser

from web.gateway import analysis
from web.gateway.analysis import Analysis
from web.gateway.certificates import contents, load
from web.gateway.errors import ApiError, Problem, busy, error_response, invalid_input
from web.gateway.guard import FORM_OVERHEAD, KEY_HEADER, Guard
from web.gateway.headers import Headers
from web.gateway.metrics import Metrics
from web.gateway.page import PageFiles
from web.gateway.request_log import REQUEST_ID, RequestLog
from web.gateway.settings import Settings
from web.gateway.tracing import HEADERS, telemetry, trace_headers

ANALYZE = "/api/analyze"
READY_MAX_AGE_S = 0.5  # after which the server is asked again whether it is ready
SPEECH_MAX_AGE_S = 10.0  # after which the server is asked again whether it recognises speech
CERTIFICATE_POLL_S = 5.0  # between two checks of the client certificate for renewal
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The recording, the text or the form can't be used"},
    401: {"model": Problem, "description": "The API key is missing or wrong"},
    408: {"model": Problem, "description": "The upload did not arrive in time"},
    413: {"model": Problem, "description": "The upload is too large"},
    429: {"model": Problem, "description": "Too many requests from one address (try again after Retry-After)"},
    500: {"model": Problem, "description": "Unexpected error of the gateway or the emotion server"},
    503: {
        "model": Problem,
        "description": "Busy, or the emotion server can't be reached (try again after Retry-After)",
    },
    504: {"model": Problem, "description": "The answer took longer than the deadline"},
}


class Limits(BaseModel):
    """Limits of the input."""

    seconds: float = Field(description="longest recording, in seconds", examples=[60])
    bytes: int = Field(description="largest upload, in bytes", examples=[20971520])
    characters: int = Field(description="longest text, in characters", examples=[2000])


class Health(BaseModel):
    """State of the service."""

    status: Literal["ready"]
    speech: bool = Field(description="whether speech is recognised; if not, a recording is analysed by its voice alone")
    limits: Limits


class Gateway:
    """State of the application: the client of the emotion server, metrics, and the number of running analyses.

    Attributes:
        client: client of the emotion server, shared by all requests.
        metrics: Prometheus metrics of the gateway.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.client: AsyncEmotionClient
        self._in_flight = 0
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
        self, recording: bytes | None, text: str, request_id: str, trace_context: dict[str, str]
    ) -> Analysis:
        """Run one analysis, unless `in_flight` analyses are running.

        Args:
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
        if self._in_flight >= self.settings.in_flight:
            raise busy()
        self._in_flight += 1
        self.metrics.in_flight.set(self._in_flight)
        try:
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
        finally:
            self._in_flight -= 1
            self.metrics.in_flight.set(self._in_flight)
        self.metrics.record_success(transcribe, found.timings.total_ms / 1e3)
        return found


def create_app(settings: Settings, metrics: Metrics) -> FastAPI:
    """Return the ASGI application of a gateway with these settings, which counts its analyses in `metrics`."""
    gateway = Gateway(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway.connected():
            yield

    app = FastAPI(
        title="emoserve",
        description="Recognise the emotion of speech: neutral, frustration, anger, sadness or excitement.",
        version="1",
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,  # the documentation page would load scripts from another site
        redoc_url=None,
        telemetry=telemetry(ANALYZE),
    )

    @app.get("/api/health", responses={503: ERRORS[503]})
    async def health() -> Health:
        """Return the state of the service and the limits of the input."""
        if not await gateway.ready():
            raise ApiError(503, "away", "The emotion server is not running or can't be reached.", retry_after=5)
        limits = Limits(seconds=settings.max_seconds, bytes=settings.max_bytes, characters=settings.max_characters)
        return Health(status="ready", speech=await gateway.speech(), limits=limits)

    key = [Security(APIKeyHeader(name=KEY_HEADER, auto_error=False))] if settings.api_key else []

    @app.post(ANALYZE, responses=ERRORS, dependencies=key)
    async def analyze(
        request: Request,
        audio: Annotated[
            UploadFile | None, File(description="recording: a WAV, FLAC, MP3, Ogg, M4A or WebM file of any sample rate")
        ] = None,
        text: Annotated[
            str,
            Form(
                description="what was said; if empty, the server recognises it from the recording",
                max_length=settings.max_characters,
            ),
        ] = "",
    ) -> Analysis:
        """Return the emotion of a recording, a text or both."""
        recording = None if audio is None else await audio.read()
        return await gateway.analyze(recording, text, request.state.request_id, trace_headers(request.headers))

    @app.exception_handler(ApiError)
    async def failed(request: Request, error: ApiError) -> Response:
        gateway.metrics.record_error(error)
        request.state.outcome = error.code
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # raised by the parser of the form
            return await failed(request, invalid_input("The form can't be read: send multipart/form-data."))
        request.state.outcome = "not_served"
        response = error_response(ApiError(error.status_code, "not_served", f"{error.detail}."))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid_form(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        message = f"The form field {first['loc'][-1]} can't be used: send audio as a file and text as plain text."
        if first["type"] == "string_too_long":
            message = f"The text is too long; at most {settings.max_characters} characters are accepted."
        return await failed(request, invalid_input(message))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        response = await failed(request, ApiError(500, "fault", "The gateway failed; its log says why."))
        if request_id := getattr(request.state, "request_id", None):  # no middleware sees this response
            response.headers[REQUEST_ID] = request_id
        return response

    if settings.page.is_dir():
        # not mounted: a mount on / would also answer the other methods of the API's paths
        app.router.default = PageFiles(directory=settings.page, html=True)

    for path in app.openapi()["paths"].values():  # FastAPI keeps this schema from here on
        for operation in path.values():
            operation["responses"].pop("422", None)  # invalid input is answered with 400
    # keeps uploads in memory: no recording is written to a disk
    MultiPartParser.spool_max_size = settings.max_bytes + FORM_OVERHEAD
    app.add_middleware(Guard, path=ANALYZE, settings=settings, on_error=gateway.metrics.record_error)
    app.add_middleware(Headers)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=[KEY_HEADER, REQUEST_ID, *HEADERS],
            expose_headers=[REQUEST_ID, "Retry-After"],
        )
    app.add_middleware(RequestLog, enabled=settings.request_log)  # the last one added is the outermost
    return app
