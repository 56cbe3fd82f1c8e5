"""The five example clips, and a link to the server that a test can cut, stall and mend."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SPEECH = Path(__file__).parents[2] / "examples" / "speech"


@pytest.fixture(scope="session")
def clips() -> dict[Path, str]:
    """Audio file -> transcript, in the order of transcripts.tsv."""
    lines = (SPEECH / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
    return {SPEECH / name: text for name, text in (line.split("\t") for line in lines)}


@pytest.fixture(scope="session")
def clip(clips: dict[Path, str]) -> Path:
    return next(iter(clips))


class Link:
    """Relays TCP from a port of its own to the server's, so that to a client the server dies and comes back.

    Attributes:
        url: HOST:PORT to connect to; it stays the same over stop() and start().
        received: bytes that clients have sent.
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
        """Accept connections and relay."""

        async def start() -> None:
            self._flowing.set()
            self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port, ssl=self._tls)
            self._port = self._server.sockets[0].getsockname()[1]

        self._run(start)

    def stop(self) -> None:
        """Refuse connections and drop those that are there."""

        async def stop() -> None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()

        self._run(stop)

    def stall(self) -> None:
        """Keep connections, but let nothing through."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self) -> None:
        """End a stall."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def close(self) -> None:
        """Stop, and end the thread."""

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
    """Makes Links to the server's gRPC port."""
    links: list[Link] = []

    def make(tls: ssl.SSLContext | None = None) -> Link:
        links.append(Link(server.grpc_url, tls))
        return links[-1]

    yield make
    for each in links:
        each.close()
