"""What is checked before an upload is read: how often one caller asks, the key, the size, how many come at a time."""

import asyncio
import ipaddress
import secrets
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.gateway.errors import Failure, answer, busy, too_large, too_often
from web.gateway.rate_limit import RateLimit
from web.gateway.settings import Settings

KEY_HEADER = "X-API-Key"
IPV6_NETWORK = 64  # bits: what one IPv6 caller has all addresses of
TIMEOUT = 60.0  # s for an upload to arrive
FORM_OVERHEAD = 64 << 10  # bytes of a form beside its file


def caller(address: str) -> str:
    """Return whom an address stands for: itself, or its /64 network for IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network((found, IPV6_NETWORK), strict=False))


class Guard:
    """ASGI middleware that receives each upload to one path whole, in memory, before the application sees it."""

    def __init__(self, app: ASGIApp, path: str, settings: Settings, count: Callable[[Failure], None]) -> None:
        self._app, self._path, self._settings, self._count = app, path, settings, count
        self._limit = settings.max_bytes + FORM_OVERHEAD
        self._receiving = 0
        self._rate_limit = RateLimit(settings.rate_limit) if settings.rate_limit else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may be analysed, answer the rest."""
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._admit(Headers(scope=scope), scope.get("client"), receive)
        except Failure as failure:
            self._count(failure)
            scope.setdefault("state", {})["outcome"] = failure.code
            await answer(failure)(scope, receive, send)
            return
        if body is None:  # the caller left
            return

        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, send)

    async def _admit(self, headers: Headers, client: tuple[str, int] | None, receive: Receive) -> bytes | None:
        if self._rate_limit and (seconds := self._rate_limit.try_acquire(caller(client[0] if client else ""))):
            raise too_often(seconds)
        key = self._settings.api_key
        if key and not secrets.compare_digest(headers.get(KEY_HEADER, "").encode(), key.get_secret_value().encode()):
            raise Failure(401, "key", f"This service needs an access key, sent as {KEY_HEADER}.")
        if int(headers.get("content-length", 0)) > self._limit:
            raise too_large(self._settings.max_bytes)
        if self._receiving >= self._settings.uploads:
            raise busy()
        self._receiving += 1
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._receive(receive)
        except TimeoutError:
            raise Failure(
                408, "slow_upload", f"The upload did not arrive within {TIMEOUT:g} s; please try again."
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
