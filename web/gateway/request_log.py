"""Give each API call a request id, and log each call as one line of JSON on standard output.

The log contains neither addresses of callers nor what was said.
"""

import json
import re
import time
import uuid
from datetime import UTC, datetime

from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "X-Request-ID"
_ACCEPTED = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_API = "/api/"


class RequestLog:
    """ASGI middleware that puts a request id into `scope["state"]["request_id"]` and into the response's header.

    A caller's own X-Request-ID is kept if it has at most 128 letters, digits and `_.:-`; otherwise an id is generated.
    """

    def __init__(self, app: ASGIApp, enabled: bool) -> None:
        """Set up the middleware.

        Args:
            app: the application to wrap.
            enabled: whether calls are logged; they get ids in any case.
        """
        self._app, self._enabled = app, enabled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request or the WebSocket connection on, and log its outcome."""
        if scope["type"] not in ("http", "websocket") or not scope["path"].startswith(_API):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _ACCEPTED.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status: int | None = None
        received, started = 0, time.monotonic()

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body") or message.get("bytes") or "")
            return message

        async def name(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            elif message["type"] == "websocket.close":
                status = message.get("code", 1000)
            await send(message)

        try:
            await self._app(scope, count, name)
        except Exception:  # Starlette answers unexpected errors outside of all middleware
            status, state["outcome"] = 500, "fault"
            raise
        finally:
            if self._enabled:
                entry = {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "request_id": request_id,
                    "method": scope.get("method", "WEBSOCKET"),
                    "path": scope["path"],
                    "status": status,  # of HTTP, or why a WebSocket was closed; null: the caller disconnected
                    "outcome": state.get("outcome", "answered" if status in (200, 201) else None),
                    "received_bytes": received,
                    "ms": round(1e3 * (time.monotonic() - started), 1),
                }
                span = trace.get_current_span().get_span_context()
                if span.is_valid:
                    entry["trace_id"] = trace.format_trace_id(span.trace_id)
                print(json.dumps(entry), flush=True)
