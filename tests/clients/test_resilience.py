"""Test calls to servers that break, and the retry budget in outages."""

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
from tests.clients.conftest import RejectingHandler
from tests.conftest import launched, running_triton, stage

CALLERS = 16


@pytest.fixture(scope="module")
def healthy_server(repository: Path) -> Iterator[tuple[psutil.Popen, str]]:
    """Run a server that no test breaks, and yield its process and endpoint."""
    with launched(repository) as (process, ready):
        yield process, endpoint_of(ready)


@pytest.fixture
def servers(repository: Path, healthy_server: tuple[psutil.Popen, str]) -> Iterator[list[tuple[psutil.Popen, str]]]:
    """Yield process and endpoint of two servers; tests may break the first one."""
    with launched(repository) as (process, ready):
        yield [(process, endpoint_of(ready)), healthy_server]


def endpoint_of(ready: str) -> str:
    """Return HOST:PORT of gRPC from the line that says that a server is ready."""
    return ready.split()[2].rstrip(",")


@contextmanager
def callers(endpoints: list[str], clip: Path) -> Iterator[tuple[list[int], list[EmotionError]]]:
    """Run CALLERS threads that call in a loop; yield the number of answers of each thread, and all errors."""
    answered, failures, stop = [0] * CALLERS, list[EmotionError](), threading.Event()

    def call(caller: int) -> None:
        while not stop.is_set():
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
            stop.set()
        for ended in calls:
            ended.result()


def until(reached: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until `reached` returns true."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("victim", "fault"),
    [("vggish", signal.SIGKILL), ("bert", signal.SIGSTOP), ("tritonserver", signal.SIGKILL)],
)
def test_calls_are_answered_when_one_of_two_servers_breaks(
    servers: list[tuple[psutil.Popen, str]], clip: Path, victim: str, fault: signal.Signals
) -> None:
    launcher = servers[0][0]
    with callers([endpoint for _, endpoint in servers], clip) as (_, failures):
        process = launcher.children()[0] if victim == "tritonserver" else stage(launcher, victim)
        assert victim in " ".join(process.cmdline())
        process.send_signal(fault)  # its model has no other process
        assert launcher.wait(30) == 1
    assert not failures, failures[0]


def test_calls_are_answered_when_the_only_server_restarts(repository: Path, clip: Path) -> None:
    """Kill the server with SIGKILL, and restart it on the same ports as a supervisor does."""
    found = free_ports("127.0.0.1", {"http": 0, "grpc": 0, "metrics": 0})
    ports = [word for name, port in found.items() for word in (f"--{name}-port", str(port))]
    with ExitStack() as servers:
        launcher, ready = servers.enter_context(launched(repository, "serving", *ports))
        with callers([endpoint_of(ready)], clip) as (_, failures):
            processes = [launcher, *launcher.children(recursive=True)]
            shared = {region.path for region in processes[1].memory_maps() if region.path.startswith("/dev/shm/triton")}
            killed = time.monotonic()
            for process in processes:
                process.kill()
            launcher.wait()
            for region in shared:  # the killed processes cannot remove them
                Path(region).unlink(missing_ok=True)
            time.sleep(3.5)  # a full-size model takes longer to load than this one
            servers.enter_context(launched(repository, "serving", *ports))
            outage = time.monotonic() - killed
    print(f"outage {outage:.1f} s, {len(failures)} calls lost")
    assert outage > 6 or not failures, failures[0]
    assert all(type(failure) is Unreachable for failure in failures)


async def test_asyncio_calls_are_answered_when_one_of_two_servers_breaks(
    servers: list[tuple[psutil.Popen, str]], clip: Path
) -> None:
    async with AsyncEmotionClient([endpoint for _, endpoint in servers]) as client:
        await client.analyze(clip, "hello there")
        stage(servers[0][0], "vggish").kill()
        answers = await asyncio.gather(*(client.analyze(clip, "hello there") for _ in range(CALLERS)))
    assert len(answers) == CALLERS


def test_analyze_on_a_server_that_stays_broken_raises(repository: Path) -> None:
    """Break a server without a launcher, so that it does not restart; errors come at once, or after one retry."""
    broken = r"^the server at \S+ is broken \(Stub process 'vggish_0_0' is not healthy"
    with running_triton(repository) as server:
        stage(psutil.Process(server.pid), "vggish").kill()  # its only process, so that every call fails
        with EmotionClient(server.grpc_url, retries=False) as client, pytest.raises(EmotionError, match=broken):
            client.analyze(text="hello there")
        started = time.monotonic()
        with EmotionClient(server.grpc_url) as client, pytest.raises(EmotionError, match=broken):
            client.analyze(text="hello there")
        assert time.monotonic() - started > 2  # 1 s until Triton notices, and the pause before the retry
        with EmotionClient(server.grpc_url) as client, pytest.raises(EmotionError, match=broken):
            client.analyze(text="hello there", deadline=1.8)  # Triton notices after 1 s, so no time is left for a retry
        psutil.Process(server.pid).kill()  # with SIGTERM it would wait 20 s for its stage


@pytest.fixture
def rejecting_server(serve: Callable[..., str]) -> tuple[RejectingHandler, str]:
    """Run a server that rejects all calls as too busy, and return its handler and endpoint."""
    handler = RejectingHandler(grpc.StatusCode.UNAVAILABLE, "the queue is full")
    return handler, serve(handler)


def test_retries_stop_when_their_budget_is_used_up(rejecting_server: tuple[RejectingHandler, str]) -> None:
    server, endpoint = rejecting_server

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


def test_analyze_on_a_server_without_shared_memory_is_retried_once(serve: Callable[..., str]) -> None:
    message = "Failed to increase the shared memory pool size for key 'triton_' to 1048576 bytes."  # Triton's message
    server = RejectingHandler(grpc.StatusCode.INTERNAL, message)
    with EmotionClient(serve(server)) as client, pytest.raises(EmotionError, match="Failed to increase"):
        client.analyze(text="hello")
    assert len(server.requests) == 2


@pytest.mark.parametrize("priority", ["interactive", "bulk"])
def test_analyze_sends_the_priority(rejecting_server: tuple[RejectingHandler, str], priority: Priority) -> None:
    server, endpoint = rejecting_server
    with EmotionClient(endpoint, retries=False, priority=priority) as client, pytest.raises(Unavailable):
        client.analyze(text="hello")
    request = service_pb2.ModelInferRequest.FromString(server.requests[0])
    assert request.parameters["bulk"].bool_param == (priority == "bulk")


def test_client_with_an_unknown_priority_raises() -> None:
    with pytest.raises(InvalidInput, match="priority must be one of interactive, bulk, not 'high'"):
        EmotionClient(priority="high")  # type: ignore[arg-type]
