"""The application: API, metrics and page."""

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
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser

from web.gateway import analysis
from web.gateway.analysis import Analysis
from web.gateway.certificates import contents, load
from web.gateway.errors import Failure, Problem, answer, busy, unusable
from web.gateway.guard import FORM_OVERHEAD, KEY_HEADER, Guard
from web.gateway.headers import Headers
from web.gateway.metrics import Metrics
from web.gateway.request_log import REQUEST_ID, RequestLog
from web.gateway.settings import Settings
from web.gateway.tracing import HEADERS, telemetry, trace_headers

ANALYZE = "/api/analyze"
SPEECH_KNOWN_FOR = 10.0  # s
LOOK = 5.0  # s from one look at the certificates for the emotion server to the next
FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The recording, the text or the form can't be used"},
    401: {"model": Problem, "description": "No key, or a wrong one"},
    408: {"model": Problem, "description": "The upload did not arrive in time"},
    413: {"model": Problem, "description": "The upload is too large"},
    429: {"model": Problem, "description": "Too many from one address (try again after Retry-After)"},
    500: {"model": Problem, "description": "A fault of the server"},
    503: {"model": Problem, "description": "Busy (try again after Retry-After), or the emotion server is away"},
    504: {"model": Problem, "description": "The answer took too long"},
}


class Limits(BaseModel):
    """What is accepted."""

    seconds: float = Field(description="of a recording", examples=[60])
    bytes: int = Field(description="of an upload", examples=[20971520])
    characters: int = Field(description="of a text", examples=[2000])


class Health(BaseModel):
    """The service answers."""

    status: Literal["ready"]
    speech: bool = Field(description="whether speech is recognised; without, a recording is judged by its voice alone")
    limits: Limits


class Gateway:
    """What lives as long as the application.

    Attributes:
        client: of the emotion server, shared by all requests.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.client: AsyncEmotionClient
        self._in_flight = 0
        self._speech, self._speech_asked = False, -SPEECH_KNOWN_FOR

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """While the block runs there is a client, which connects anew where its certificates were renewed."""
        self.client = self._connect()
        following = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            following.cancel()
            await self.client.close()

    def _connect(self) -> AsyncEmotionClient:
        settings = self.settings
        tls = TLS(settings.ca, settings.private_key, settings.certificate) if settings.ca else None
        return AsyncEmotionClient(settings.endpoints, deadline=settings.deadline, tls=tls)

    async def _follow(self) -> None:
        files = (self.settings.certificate, self.settings.private_key, self.settings.ca)
        used = contents(*files)
        while True:
            await asyncio.sleep(LOOK)
            now = contents(*files)
            if now is None or now == used:
                continue
            try:
                load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), *files)
                new = self._connect()
            except (OSError, InvalidInput):  # half exchanged
                continue
            used, old, self.client = now, self.client, new
            await asyncio.sleep(self.settings.deadline)  # until those who began with it are answered
            await old.close()

    async def speech(self) -> bool:
        """Whether the server recognises speech, as it said a short while ago."""
        if time.monotonic() - self._speech_asked >= SPEECH_KNOWN_FOR:
            self._speech = await self.client.is_ready(transcribe=True)
            self._speech_asked = time.monotonic()
        return self._speech

    async def analyze(
        self, recording: bytes | None, text: str, request_id: str, trace_context: dict[str, str]
    ) -> Analysis:
        """One analysis, if there is a place for it.

        Args:
            request_id: names the request in the server's log and traces.
            trace_context: `traceparent` and `tracestate` to pass on; empty where the request is not traced.

        Raises:
            Failure: no answer, and why.
        """
        text = text.strip()
        if recording is None and not text:
            raise unusable("There is neither a recording nor a text: send one of them, or both.")
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
        self.metrics.answered(transcribe, found.timings.total_ms / 1e3)
        return found


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application."""
    gateway = Gateway(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway.connected():
            yield

    app = FastAPI(
        title="emoserve",
        description="What a voice and its words express: neutral, frustration, anger, sadness, excitement.",
        version="1",
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        telemetry=telemetry(ANALYZE),
    )

    @app.get("/api/health", responses={503: FAILURES[503]})
    async def health() -> Health:
        """Whether the service answers, and what it accepts."""
        if not await gateway.client.is_ready():
            raise Failure(503, "away", "The emotion server is not running or can't be reached.", retry_after=5)
        limits = Limits(seconds=settings.max_seconds, bytes=settings.max_bytes, characters=settings.max_characters)
        return Health(status="ready", speech=await gateway.speech(), limits=limits)

    key = [Security(APIKeyHeader(name=KEY_HEADER, auto_error=False))] if settings.api_key else []

    @app.post(ANALYZE, responses=FAILURES, dependencies=key)
    async def analyze(
        request: Request,
        audio: Annotated[
            UploadFile | None, File(description="a recording: WAV, FLAC, MP3, Ogg, M4A or WebM, of any rate")
        ] = None,
        text: Annotated[
            str, Form(description="what was said; without it, it is recognised", max_length=settings.max_characters)
        ] = "",
    ) -> Analysis:
        """What a recording, a text or both express."""
        recording = None if audio is None else await audio.read()
        return await gateway.analyze(recording, text, request.state.request_id, trace_headers(request.headers))

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Failure)
    async def failed(request: Request, failure: Failure) -> Response:
        gateway.metrics.refused(failure)
        request.state.outcome = failure.code
        return answer(failure)

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # of the form's parser
            return await failed(request, unusable("The form can't be read: send multipart/form-data."))
        request.state.outcome = "not_served"
        response = answer(Failure(error.status_code, "not_served", f"{error.detail}."))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def not_understood(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return await failed(request, unusable(f"The field {first['loc'][-1]} can't be used: {first['msg']}."))

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        response = await failed(request, Failure(500, "fault", "The gateway failed; its log says why."))
        if request_id := getattr(request.state, "request_id", None):  # this answer passes no middleware
            response.headers[REQUEST_ID] = request_id
        return response

    if settings.page.is_dir():
        # not mounted, for a mount on / would take the API's other methods, too
        app.router.default = StaticFiles(directory=settings.page, html=True)

    for path in app.openapi()["paths"].values():  # kept by FastAPI from here on
        for operation in path.values():
            operation["responses"].pop("422", None)  # ours is 400
    MultiPartParser.spool_max_size = settings.max_bytes + FORM_OVERHEAD  # nothing that is uploaded goes to a disk
    app.add_middleware(Guard, path=ANALYZE, settings=settings, count=gateway.metrics.refused)
    app.add_middleware(Headers)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=[KEY_HEADER, REQUEST_ID, *HEADERS],
            expose_headers=[REQUEST_ID],
        )
    app.add_middleware(RequestLog, enabled=settings.request_log)  # the last one added is the outermost
    return app
