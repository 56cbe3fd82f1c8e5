"""Fixtures: example clips, a link to the server that tests can stop and stall, and stub servers."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

DEAD = "127.0.0.1:1"  # nothing listens on this port
SPEECH = Path(__file__).parents[2] / "examples" / "speech"


@pytest.fixture(scope="session")
def clips() -> dict[Path, str]:
    """Return the transcript of each audio file, in the order of transcripts.tsv."""
    lines = (SPEECH / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
    return {SPEECH / name: text for name, text in (line.split("\t") for line in lines)}


@pytest.fixture(scope="session")
def clip(clips: dict[Path, str]) -> Path:
    return next(iter(clips))


class Link:
    """TCP relay to the server, with which a test can make the server unreachable or silent for a client.

    Attributes:
        url: HOST:PORT to connect to, unchanged by stop() and start().
        received: number of bytes that clients have sent.
    """

    def __init__(self, server_url: str, tls: ssl.SSLContext | None = None) -> None:
        host, _, port = server_url.rpartition(":")
        self._upstream, self._tls, self._port, self.received = (host, int(port)), tls, 0, 0
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.start()
        self.url = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Accept connections and relay them."""

        async def start() -> None:
            self._flowing.set()
            self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port, ssl=self._tls)
            self._port = self._server.sockets[0].getsockname()[1]

        self._run(start)

    def stop(self) -> None:
        """Reject new connections and abort the existing ones."""

        async def stop() -> None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()

        self._run(stop)

    def stall(self) -> None:
        """Keep connections open, but forward nothing."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self) -> None:
        """Forward data again after stall()."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def close(self) -> None:
        """Stop the relay and its thread."""

        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.stop()
        self._run(cancel)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, step: Callable[[], Any]) -> None:
        asyncio.run_coroutine_threadsafe(step(), self._loop).result(10)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        self._writers |= {writer, up_writer}
        await asyncio.gather(self._pump(reader, up_writer, True), self._pump(up_reader, writer, False))
        self._writers -= {writer, up_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self.received += len(data) * count
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
def link(server: Any) -> Iterator[Callable[..., Link]]:
    """Return a function that creates a Link to the server's gRPC port."""
    links: list[Link] = []

    def make(tls: ssl.SSLContext | None = None) -> Link:
        links.append(Link(server.grpc_url, tls))
        return links[-1]

    yield make
    for each in links:
        each.close()


class RejectingHandler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handler that rejects every call with a status, and keeps the requests."""

    def __init__(self, status: grpc.StatusCode, sentence: str) -> None:
        self._status, self._sentence = status, sentence
        self.requests: list[bytes] = []

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return the handler of a call; gRPC calls this."""

        def reject(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.requests.append(request)
            context.abort(self._status, self._sentence)
            return b""

        return grpc.unary_unary_rpc_method_handler(reject)


class FixedAnswerHandler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handler that gives every call the same answer."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return the handler of a call; gRPC calls this."""
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._answer)


class HangingHandler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handler that answers no call, and counts received and abandoned calls."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()
        self._ended = threading.Semaphore(0)

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return the handler of a call; gRPC calls this."""
        abandoned = threading.Event()

        def hang(request: bytes, context: grpc.ServicerContext) -> bytes:
            with self._lock:
                self.calls += 1
            if context.add_callback(abandoned.set):
                abandoned.wait()
            self._ended.release()
            return b""

        return grpc.unary_unary_rpc_method_handler(hang)

    def wait_abandoned(self, count: int) -> bool:
        """Return whether `count` more callers abandon their calls within 10 s."""
        return all(self._ended.acquire(timeout=10) for _ in range(count))


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Return a function that runs a gRPC server with the given handlers and returns its endpoint."""
    with contextlib.ExitStack() as stack:

        def start(*handlers: grpc.GenericRpcHandler) -> str:
            server = grpc.server(stack.enter_context(ThreadPoolExecutor(64)))
            server.add_generic_rpc_handlers(handlers)
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda: server.stop(0).wait())
            return f"127.0.0.1:{port}"

        yield start
