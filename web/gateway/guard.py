"""Check each upload before the application reads it, and cancel the request when its caller disconnects.

The checks are: rate limit, API key, size and number of concurrent uploads.
"""

import asyncio
import contextlib
import ipaddress
import secrets
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.gateway.errors import KEY_HEADER, ApiError, busy, error_response, rate_limited, too_large, wrong_key
from web.gateway.rate_limit import RateLimit
from web.gateway.settings import Settings

IPV6_PREFIX_BITS = 64  # network that one IPv6 caller usually owns
UPLOAD_TIMEOUT_S = 60.0
FORM_OVERHEAD = 64 << 10  # bytes that a form may have in addition to its file


def caller(client: tuple[str, int] | None) -> str:
    """Return the caller behind an address and port: the address itself, or its /64 network for IPv6; "" if unknown."""
    address = client[0] if client else ""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network((found, IPV6_PREFIX_BITS), strict=False))


class Admission:
    """Decides which callers are served, by their API key and the rate of their requests."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api_key
        self._rate_limit = RateLimit(settings.rate_limit) if settings.rate_limit else None

    def check(self, key: str, client: tuple[str, int] | None) -> None:
        """Count a request.

        Args:
            key: the API key that the caller sent; empty for none.
            client: the caller's IP address and port; None if they are not known.

        Raises:
            ApiError: the caller is over the rate limit, or the key is wrong.
        """
        if self._rate_limit and (seconds := self._rate_limit.try_acquire(caller(client))):
            raise rate_limited(seconds)
        if self._key and not secrets.compare_digest(key.encode(), self._key.get_secret_value().encode()):
            raise wrong_key(key)


class Guard:
    """ASGI middleware that receives each upload whole, in memory, before the application sees it."""

    def __init__(
        self,
        app: ASGIApp,
        paths: Collection[str],
        admission: Admission,
        settings: Settings,
        on_error: Callable[[str, ApiError], None],
    ) -> None:
        self._app, self._paths, self._admission = app, paths, admission
        self._settings, self._on_error = settings, on_error
        self._limit = settings.max_bytes + FORM_OVERHEAD
        self._receiving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass accepted requests on, and answer the others with an error."""
        if scope["type"] != "http" or scope["path"] not in self._paths or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._admit(Headers(scope=scope), scope.get("client"), receive)
        except ApiError as error:
            self._on_error(scope["path"], error)
            scope.setdefault("state", {})["outcome"] = error.code
            await error_response(error)(scope, receive, send)
            return
        if body is None:  # the caller disconnected
            return

        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        leaving = asyncio.ensure_future(receive())  # the body is complete, so the next message is the disconnection

        async def replay() -> Message:
            return messages.pop() if messages else await asyncio.shield(leaving)

        answered = False

        async def note(message: Message) -> None:
            nonlocal answered
            await send(message)
            answered = message["type"] == "http.response.body" and not message.get("more_body")

        running = asyncio.ensure_future(self._app(scope, replay, note))
        try:
            await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
            # the server reports a complete response as a disconnection, too
            if answered or running.done() or not running.cancel():
                await running
                return
            with contextlib.suppress(asyncio.CancelledError):
                await running
            self._on_error(scope["path"], ApiError(499, "canceled", "The caller disconnected."))
            scope.setdefault("state", {})["outcome"] = "canceled"
        finally:
            leaving.cancel()
            running.cancel()

    async def _admit(self, headers: Headers, client: tuple[str, int] | None, receive: Receive) -> bytes | None:
        self._admission.check(headers.get(KEY_HEADER, ""), client)
        if int(headers.get("content-length", 0)) > self._limit:
            raise too_large(self._settings.max_bytes)
        if self._receiving >= self._settings.uploads:
            raise busy()
        self._receiving += 1
        try:
            async with asyncio.timeout(UPLOAD_TIMEOUT_S):
                return await self._receive(receive)
        except TimeoutError:
            raise ApiError(
                408, "slow_upload", f"The upload did not arrive within {UPLOAD_TIMEOUT_S:g} s; please try again."
            ) from None
        finally:
            self._receiving -= 1

    async def _receive(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._limit:
                raise too_large(self._settings.max_bytes)
            if not message.get("more_body"):
                return bytes(body)
