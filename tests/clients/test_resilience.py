"""Servers that break while calls are under way, and outages in which retries must not multiply the load."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import grpc
import psutil
import pytest
from emotion_client import AsyncEmotionClient, EmotionClient, EmotionError, InvalidInput, Unavailable
from emotion_client.types import Priority
from tritonclient.grpc import service_pb2

from serving import Triton
from tests.conftest import launched, stage

CALLERS = 16


@pytest.fixture
def servers(repository: Path) -> Iterator[list[tuple[psutil.Popen, str]]]:
    """Two: process and endpoint of each."""
    with launched(repository) as (one, ready), launched(repository) as (other, also_ready):
        yield [(process, line.split()[2].rstrip(",")) for process, line in ((one, ready), (other, also_ready))]


def test_no_call_is_lost_when_a_stage_dies(servers: list[tuple[psutil.Popen, str]], clip: Path) -> None:
    failures: list[EmotionError] = []
    answered = [0] * CALLERS
    over = threading.Event()

    def call(caller: int) -> None:
        while not over.is_set():
            try:
                client.analyze(clip, "hello there")
                answered[caller] += 1
            except EmotionError as error:
                failures.append(error)

    with EmotionClient([endpoint for _, endpoint in servers]) as client, ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(call, caller) for caller in range(CALLERS)]
        time.sleep(1)
        stage(servers[0][0], "classifier").kill()  # its only process
        assert servers[0][0].wait(15) == 1
        before = sum(answered)
        time.sleep(2)
        over.set()
        wait(callers)
    assert not failures, failures[0]
    assert sum(answered) > before  # by the other one


async def test_asyncio_calls_are_not_lost_either(servers: list[tuple[psutil.Popen, str]], clip: Path) -> None:
    async with AsyncEmotionClient([endpoint for _, endpoint in servers]) as client:
        await client.analyze(clip, "hello there")
        stage(servers[0][0], "classifier").kill()
        answers = await asyncio.gather(*(client.analyze(clip, "hello there") for _ in range(CALLERS)))
    assert len(answers) == CALLERS


def test_a_server_that_stays_broken_is_reported(repository: Path) -> None:
    """As this one does, since nobody watches it. Without retries at once, else after one more attempt."""
    broken = r"^Stub process 'classifier_0_0' is not healthy"
    with Triton(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
        stage(psutil.Process(server.pid), "classifier").kill()  # its only process: no call gets by
        with EmotionClient(server.grpc_url, retries=False) as client, pytest.raises(EmotionError, match=broken):
            client.analyze(text="hello there")
        started = time.monotonic()
        with EmotionClient(server.grpc_url) as client, pytest.raises(EmotionError, match=broken):
            client.analyze(text="hello there")
        assert time.monotonic() - started > 2  # Triton's second to notice, and the pause
        with EmotionClient(server.grpc_url) as client, pytest.raises(EmotionError, match=broken):
            client.analyze(text="hello there", deadline=1.8)  # Triton takes 1 s to notice, so there is no time
        psutil.Process(server.pid).kill()  # told to stop, it would wait 20 s for its stage


class Refusing(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Refuses every call, and keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """gRPC's interface."""

        def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.requests.append(request)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the queue is full")
            return b""

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def refusing() -> Iterator[tuple[Refusing, str]]:
    """One, and its endpoint."""
    handler = Refusing()
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers([handler])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield handler, f"127.0.0.1:{port}"
        server.stop(0).wait()


def test_retries_end_when_their_budget_is_spent(refusing: tuple[Refusing, str]) -> None:
    server, endpoint = refusing

    def call(number: int) -> None:
        with pytest.raises(Unavailable, match="the queue is full"):
            client.analyze(text="hello")

    with EmotionClient(endpoint, deadline=60) as client, ThreadPoolExecutor(150) as callers:
        list(callers.map(call, range(150)))
        assert 450 < len(server.requests) < 700  # five attempts each would be 750
        server.requests.clear()
        started = time.monotonic()
        list(callers.map(call, range(150)))
        assert len(server.requests) == 150
        assert time.monotonic() - started < 5  # 7 s without the budget


@pytest.mark.parametrize(("priority", "level"), [("interactive", 1), ("bulk", 2)])
def test_priority_is_sent(refusing: tuple[Refusing, str], priority: Priority, level: int) -> None:
    server, endpoint = refusing
    with EmotionClient(endpoint, retries=False, priority=priority) as client, pytest.raises(Unavailable):
        client.analyze(text="hello")
    request = service_pb2.ModelInferRequest.FromString(server.requests[0])
    assert request.parameters["priority"].uint64_param == level


def test_priority_that_is_none() -> None:
    with pytest.raises(InvalidInput, match="priority must be one of interactive, bulk, not 'high'"):
        EmotionClient(priority="high")  # type: ignore[arg-type]
