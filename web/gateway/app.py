"""The ASGI application of the gateway: API and page."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, Literal

from emotion_client import EMOTIONS
from fastapi import FastAPI, File, Form, Request, Response, Security, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.responses import StreamingResponse

from emotion.decoding import ACCEPTED
from web.gateway.analysis import Analysis
from web.gateway.errors import KEY_HEADER, ApiError, Problem, error_response, invalid_input
from web.gateway.feedback import FeedbackStore
from web.gateway.guard import FORM_OVERHEAD, Admission, Guard, caller
from web.gateway.headers import Headers
from web.gateway.live import MAX_RECEIVED_BYTES, Live
from web.gateway.messages import Failed
from web.gateway.metrics import Metrics
from web.gateway.page import PageFiles
from web.gateway.request_log import REQUEST_ID, RequestLog
from web.gateway.service import Service
from web.gateway.settings import Settings
from web.gateway.tracing import HEADERS, telemetry, trace_headers
from web.gateway.utterances import Message

ANALYZE, UTTERANCES, FEEDBACK, LIVE = "/api/analyze", "/api/utterances", "/api/feedback", "/api/live"
# uvicorn's: RequestLog takes the place of its log, and its limit of a WebSocket message is 16 MiB
SERVER_OPTIONS: dict[str, Any] = {"access_log": False, "ws_max_size": MAX_RECEIVED_BYTES}
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
    long_seconds: float = Field(description="longest recording that is cut into utterances, in seconds", examples=[600])
    bytes: int = Field(description="largest upload, in bytes", examples=[20971520])
    characters: int = Field(description="longest text, in characters", examples=[2000])


class Health(BaseModel):
    """State of the service."""

    status: Literal["ready"]
    speech: bool = Field(description="whether speech is recognised; if not, a recording is analysed by its voice alone")
    feedback: bool = Field(description="whether corrections of answers are accepted")
    limits: Limits


class Received(BaseModel):
    """A correction that has been stored."""

    id: str = Field(description="names the correction, so that it can be deleted on request")


class JsonLines(StreamingResponse):
    """A response of one JSON object a line, each sent as soon as it is known."""

    media_type = "application/x-ndjson"


async def check_form(request: Request, known: Sequence[str]) -> None:
    """Check that a request is a form with each known field at most once.

    Args:
        request: the request.
        known: names of the fields.

    Raises:
        ApiError: it is not.
    """
    content_type = request.headers.get("content-type", "")
    fields = (await request.form()).multi_items()
    names = ", ".join(known)
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("", "multipart/form-data", "application/x-www-form-urlencoded"):
        raise invalid_input(
            f"The request is {kind}, but must be a form: send multipart/form-data with the fields {names}."
        )
    counts = Counter(name for name, _ in fields)
    for name, count in counts.items():
        if name not in known:
            raise invalid_input(f"The form has the unknown field {name[:50]!r}; its fields are {names}.")
        if count > 1:
            raise invalid_input(f"The form has the field {name} {count} times; send it once.")


def create_app(settings: Settings, metrics: Metrics) -> FastAPI:
    """Return the ASGI application of a gateway with these settings, which counts its analyses in `metrics`."""
    service, admission = Service(settings, metrics), Admission(settings)
    live = Live(service, admission, settings, metrics)
    feedback = (
        FeedbackStore(settings.feedback, settings.feedback_bytes, settings.max_seconds) if settings.feedback else None
    )

    def count(path: str, error: ApiError) -> None:
        if path in (ANALYZE, UTTERANCES):
            metrics.record_error(error)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.connected():
            yield

    app = FastAPI(
        title="emoserve",
        description="Recognise the emotion of speech: neutral, frustration, anger, sadness or excitement.",
        version="1",
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,  # the documentation page would load scripts from another site
        redoc_url=None,
        telemetry=telemetry((ANALYZE, UTTERANCES)),
    )

    @app.head("/api/health", include_in_schema=False)
    @app.get("/api/health", responses={503: ERRORS[503]})
    async def health() -> Health:
        """Return the state of the service and the limits of the input."""
        if not await service.ready():
            raise ApiError(503, "away", "The emotion server is not running or can't be reached.", retry_after=5)
        limits = Limits(
            seconds=settings.max_seconds,
            long_seconds=settings.long_seconds,
            bytes=settings.max_bytes,
            characters=settings.max_characters,
        )
        return Health(status="ready", speech=await service.speech(), feedback=feedback is not None, limits=limits)

    # fields of forms
    audio_file = File(description=f"a {ACCEPTED} file of any sample rate")
    AudioFile = Annotated[UploadFile, audio_file]
    # not `AudioFile | None`: in a union FastAPI ignores that it is a file, and the schema says urlencoded
    OptionalAudioFile = Annotated[UploadFile | None, audio_file]
    Text = Annotated[
        str,
        Form(
            description="what was said; if empty, it is recognised from the recording",
            max_length=settings.max_characters,
        ),
    ]
    key = [Security(APIKeyHeader(name=KEY_HEADER, auto_error=False))] if settings.api_key else []

    @app.post(ANALYZE, responses=ERRORS, dependencies=key)
    async def analyze(
        request: Request,
        audio: OptionalAudioFile = None,
        text: Text = "",
    ) -> Analysis:
        """Return the emotion of a recording, a text or both."""
        await check_form(request, ("audio", "text"))
        recording = None if audio is None else await audio.read()
        who = caller(request.client)
        return await service.analyze(who, recording, text, request.state.request_id, trace_headers(request.headers))

    @app.post(
        UTTERANCES,
        responses={200: {"model": Message, "description": "JSON lines"}, **ERRORS},
        response_class=JsonLines,
        response_model=None,
        dependencies=key,
    )
    async def utterances(request: Request, audio: AudioFile) -> JsonLines:
        """Return the utterances of a long recording, each with its words and its emotion.

        The answer is one JSON object a line: `recording`, then each `utterance` as soon as it is answered, then `end`,
        or `error` if the rest could not be analysed.
        """
        await check_form(request, ("audio",))
        who, state = caller(request.client), request.state
        messages = service.utterances(who, await audio.read(), state.request_id, trace_headers(request.headers))
        first = await anext(messages)  # fails before the response begins

        async def lines() -> AsyncIterator[str]:
            async with aclosing(messages):
                yield first.model_dump_json() + "\n"
                async for message in messages:
                    state.outcome = message.code if isinstance(message, Failed) else "answered"
                    yield message.model_dump_json() + "\n"
            metrics.record_outcome(state.outcome)

        return JsonLines(lines(), headers={"X-Accel-Buffering": "no"})  # nginx would hold the lines back

    if feedback is not None:

        @app.post(FEEDBACK, responses=ERRORS, status_code=201, dependencies=key)
        async def correct(
            request: Request,
            emotion: Annotated[
                str, Form(description="the emotion that is right", json_schema_extra={"enum": list(EMOTIONS)})
            ],
            consent: Annotated[str, Form(description="`yes`: the sender agrees that all of this is stored")] = "",
            audio: OptionalAudioFile = None,
            text: Text = "",
        ) -> Received:
            """Store a recording, a text or both with the emotion that is right, for training."""
            await check_form(request, ("emotion", "consent", "audio", "text"))
            recording = None if audio is None else await audio.read()
            who = caller(request.client)
            return Received(id=await service.correct(who, feedback, emotion, consent, text, recording))

    @app.websocket(LIVE)
    async def stream(socket: WebSocket) -> None:
        await live.serve(socket)

    @app.exception_handler(ApiError)
    async def failed(request: Request, error: ApiError) -> Response:
        count(request.url.path, error)
        request.state.outcome = error.code
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # raised by the parser of the form
            return await failed(request, invalid_input("The form can't be read: send multipart/form-data."))
        request.state.outcome = "not_served"
        message = f"{error.detail}."
        if request.url.path == FEEDBACK and feedback is None:
            message = "This service stores no feedback; who runs it can turn it on with EMOSERVE_FEEDBACK."
        response = error_response(ApiError(error.status_code, "not_served", message))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid_form(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = first["loc"][-1]
        message = f"The form field {field} can't be used: send audio as a file and text as plain text."
        if first["type"] == "missing":
            message = f"The field {field} is missing: send multipart/form-data with it."
        if first["type"] == "string_too_long":
            message = f"The text is too long; at most {settings.max_characters} characters are accepted."
        return await failed(request, invalid_input(message))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        response = await failed(request, ApiError(500, "fault", "The gateway failed; its log says why."))
        if request_id := getattr(request.state, "request_id", None):  # no middleware sees this response
            response.headers[REQUEST_ID] = request_id
        return response

    if settings.page and settings.page.is_dir():
        # not mounted: a mount on / would also answer the other methods of the API's paths
        app.router.default = PageFiles(directory=settings.page, html=True)

    for path in app.openapi()["paths"].values():  # FastAPI keeps this schema from here on
        for operation in path.values():
            operation["responses"].pop("422", None)  # invalid input is answered with 400
            for status, response in operation["responses"].items():
                if status >= "400":  # FastAPI gives errors the type of the answer
                    response["content"] = {"application/json": next(iter(response["content"].values()))}
    # keeps uploads in memory: no recording is written to a disk
    MultiPartParser.spool_max_size = settings.max_bytes + FORM_OVERHEAD
    uploads = (ANALYZE, UTTERANCES, FEEDBACK)
    app.add_middleware(Guard, paths=uploads, admission=admission, settings=settings, on_error=count)
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
