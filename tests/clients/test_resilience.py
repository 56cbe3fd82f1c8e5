"""Servers that break while calls are under way, and outages in which retries must not multiply the load."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from emotion_client import AsyncEmotionClient, EmotionClient, EmotionError, InvalidInput, Unavailable, Unreachable
from emotion_client.types import Priority
from tritonclient.grpc import service_pb2

from serving.triton import free_ports
from tests.clients.conftest import Refusing
from tests.conftest import launched, running_triton, stage

CALLERS = 16


@pytest.fixture(scope="module")
def unharmed(repository: Path) -> Iterator[tuple[psutil.Popen, str]]:
    """A server that no test breaks: process and endpoint."""
    with launched(repository) as (process, ready):
        yield process, endpoint_of(ready)


@pytest.fixture
def servers(repository: Path, unharmed: tuple[psutil.Popen, str]) -> Iterator[list[tuple[psutil.Popen, str]]]:
    """Two servers, process and endpoint of each; the first may be broken."""
    with launched(repository) as (process, ready):
        yield [(process, endpoint_of(ready)), unharmed]


def endpoint_of(ready: str) -> str:
    """Return HOST:PORT of gRPC from the line that says that a server is ready."""
    return ready.split()[2].rstrip(",")


@contextmanager
def callers(endpoints: list[str], clip: Path) -> Iterator[tuple[list[int], list[EmotionError]]]:
    """CALLERS that call one after the other meanwhile; how many calls of each were answered, and what failed."""
    answered, failures, over = [0] * CALLERS, list[EmotionError](), threading.Event()

    def call(caller: int) -> None:
        while not over.is_set():
            try:
                client.analyze(clip, "hello there")
                answered[caller] += 1
            except EmotionError as error:
                failures.append(error)

    with EmotionClient(endpoints) as client, ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call, caller) for caller in range(CALLERS)]
        try:
            until(lambda: all(answered))
            yield answered, failures
            before = sum(answered)
            until(lambda: sum(answered) > before + 2 * CALLERS)
        finally:
            over.set()
        for ended in calls:
            ended.result()


def until(reached: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("victim", "fault"),
    [("vggish", signal.SIGKILL), ("bert", signal.SIGSTOP), ("tritonserver", signal.SIGKILL)],
)
def test_no_call_is_lost_when_one_of_two_breaks(
    servers: list[tuple[psutil.Popen, str]], clip: Path, victim: str, fault: signal.Signals
) -> None:
    launcher = servers[0][0]
    with callers([endpoint for _, endpoint in servers], clip) as (_, failures):
        process = launcher.children()[0] if victim == "tritonserver" else stage(launcher, victim)
        assert victim in " ".join(process.cmdline())
        process.send_signal(fault)  # the only process of its model
        assert launcher.wait(30) == 1
    assert not failures, failures[0]


def test_no_call_is_lost_when_the_only_server_is_started_anew(repository: Path, clip: Path) -> None:
    """Killed without a word, and started again on the same ports by its supervisor."""
    found = free_ports("127.0.0.1", {"http": 0, "grpc": 0, "metrics": 0})
    ports = [word for name, port in found.items() for word in (f"--{name}-port", str(port))]
    with ExitStack() as servers:
        launcher, ready = servers.enter_context(launched(repository, "serving", *ports))
        with callers([endpoint_of(ready)], clip) as (_, failures):
            family = [launcher, *launcher.children(recursive=True)]
            shared = {region.path for region in family[1].memory_maps() if region.path.startswith("/dev/shm/triton")}
            killed = time.monotonic()
            for process in family:
                process.kill()
            launcher.wait()
            for region in shared:  # which nobody is left to remove
                Path(region).unlink(missing_ok=True)
            time.sleep(3.5)  # a full-size model takes longer to load than this one
            servers.enter_context(launched(repository, "serving", *ports))
            outage = time.monotonic() - killed
    print(f"outage {outage:.1f} s, {len(failures)} calls lost")
    assert outage > 6 or not failures, failures[0]
    assert all(type(failure) is Unreachable for failure in failures)


async def test_asyncio_calls_are_not_lost_either(servers: list[tuple[psutil.Popen, str]], clip: Path) -> None:
    async with AsyncEmotionClient([endpoint for _, endpoint in servers]) as client:
        await client.analyze(clip, "hello there")
        stage(servers[0][0], "vggish").kill()
        answers = await asyncio.gather(*(client.analyze(clip, "hello there") for _ in range(CALLERS)))
    assert len(answers) == CALLERS


def test_a_server_that_stays_broken_is_reported(repository: Path) -> None:
    """As this one does, since nobody watches it. Without retries at once, else after one more attempt."""
    broken = r"^a part of the server at \S+ is broken \(Stub process 'vggish_0_0' is not healthy"
    with running_triton(repository) as server:
        stage(psutil.Process(server.pid), "vggish").kill()  # its only process: no call gets by
        with EmotionClient(server.grpc_url, retries=False) as client, pytest.raises(EmotionError, match=broken):
            client.analyze(text="hello there")
        started = time.monotonic()
        with EmotionClient(server.grpc_url) as client, pytest.raises(EmotionError, match=broken):
            client.analyze(text="hello there")
        assert time.monotonic() - started > 2  # Triton's second to notice, and the pause
        with EmotionClient(server.grpc_url) as client, pytest.raises(EmotionError, match=broken):
            client.analyze(text="hello there", deadline=1.8)  # Triton takes 1 s to notice, so there is no time
        psutil.Process(server.pid).kill()  # told to stop, it would wait 20 s for its stage


@pytest.fixture
def refusing(serve: Callable[..., str]) -> tuple[Refusing, str]:
    """A server that is too busy, and its endpoint."""
    handler = Refusing(grpc.StatusCode.UNAVAILABLE, "the queue is full")
    return handler, serve(handler)


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


def test_a_server_without_shared_memory_is_not_the_last_word(serve: Callable[..., str]) -> None:
    said = "Failed to increase the shared memory pool size for key 'triton_' to 1048576 bytes."  # as Triton does
    server = Refusing(grpc.StatusCode.INTERNAL, said)
    with EmotionClient(serve(server)) as client, pytest.raises(EmotionError, match="Failed to increase"):
        client.analyze(text="hello")
    assert len(server.requests) == 2


@pytest.mark.parametrize("priority", ["interactive", "bulk"])
def test_priority_is_sent(refusing: tuple[Refusing, str], priority: Priority) -> None:
    server, endpoint = refusing
    with EmotionClient(endpoint, retries=False, priority=priority) as client, pytest.raises(Unavailable):
        client.analyze(text="hello")
    request = service_pb2.ModelInferRequest.FromString(server.requests[0])
    assert request.parameters["bulk"].bool_param == (priority == "bulk")


def test_priority_that_is_none() -> None:
    with pytest.raises(InvalidInput, match="priority must be one of interactive, bulk, not 'high'"):
        EmotionClient(priority="high")  # type: ignore[arg-type]
