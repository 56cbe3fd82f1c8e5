"""A separate Triton under floods of invalid requests, cancellations and overload.

With parallel branches in the ensemble, Triton 24.10 crashes or hangs in each of these tests (model_repository/emotion).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from serving import Triton
from tests.conftest import copy_repository

INVALID, DEADLINE, UNAVAILABLE = (
    f"StatusCode.{name}" for name in ("INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "UNAVAILABLE")
)


@pytest.fixture
def own_server(repository: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Triton]:
    """Yield a server with queues of the given size (default 320), and check that it stops in time after the test."""
    queue = getattr(request, "param", 320)
    copied = copy_repository(repository, tmp_path / "model_repository")
    for config in copied.glob("*/config.pbtxt"):
        text = config.read_text()
        config.unlink()
        config.write_text(text.replace('string_value: "320"', f'string_value: "{queue}"'))
    server = Triton(copied, http_port=0, grpc_port=0, metrics_port=0)
    server.start()
    yield server
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 15, "requests are stuck inside Triton, which waited for them when it stopped"


def utterance(audio: bytes, text: bytes) -> list[grpc.InferInput]:
    """Return the inputs of a request."""
    tensors = []
    for name, value in (("AUDIO", audio), ("TEXT", text)):
        tensor = grpc.InferInput(name, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value]], object))
        tensors.append(tensor)
    return tensors


def ask(server: Triton, audio: bytes, text: bytes, deadline: float) -> Callable[[grpc.InferenceServerClient], str]:
    """Return a function that sends a request with a deadline in seconds, and returns its status."""

    def call(client: grpc.InferenceServerClient) -> str:
        try:
            client.infer("emotion", utterance(audio, text), client_timeout=deadline)
        except InferenceServerException as error:
            return str(error.status())
        return "OK"

    return call


def flood(server: Triton, calls: list[Callable[[grpc.InferenceServerClient], str]], callers: int) -> Counter[str]:
    """Make all calls with `callers` in parallel, and return the number of each status."""
    with grpc.InferenceServerClient(server.grpc_url) as client, ThreadPoolExecutor(callers) as pool:
        return Counter(pool.map(lambda call: call(client), calls))


def is_healthy(server: Triton, audio: bytes) -> bool:
    """Return whether the server answers within 60 s, after its queues are empty."""
    end = time.monotonic() + 60
    with grpc.InferenceServerClient(server.grpc_url) as client:
        while time.monotonic() < end:
            if (status := ask(server, audio, b"hello", 10)(client)) == "OK":
                return True
            assert status in (UNAVAILABLE, DEADLINE)
            time.sleep(0.5)
    return False


def test_flood_of_invalid_requests_leaves_the_server_healthy(own_server: Triton, recordings: dict[str, bytes]) -> None:
    speech = recordings["austen-0880.flac"]
    bad = [(b"x", b"hello"), (speech, b"\xff"), (b"", b""), (b"", b" "), (speech[:9_000], b"hi"), (b"x", b"\xff")]
    calls = [ask(own_server, *bad[number % len(bad)], 30) for number in range(1500)]
    assert flood(own_server, calls, callers=8) == {INVALID: 1500}
    assert is_healthy(own_server, speech)


def test_canceled_requests_leave_the_server_healthy(own_server: Triton, recordings: dict[str, bytes]) -> None:
    speech = recordings["austen-0880.flac"]
    calls = [ask(own_server, speech, b"hello there", 0.02 + number % 10 * 0.03) for number in range(300)]
    counts = flood(own_server, calls, callers=12)
    assert counts[DEADLINE] > 100
    assert set(counts) <= {"OK", DEADLINE}
    assert is_healthy(own_server, speech)


@pytest.mark.parametrize("own_server", [8], indirect=True)  # small queues, so that they overflow
def test_overload_rejects_requests_and_leaves_the_server_healthy(
    own_server: Triton, recordings: dict[str, bytes]
) -> None:
    speech = recordings["austen-0880.flac"]
    calls = [ask(own_server, speech, b"hello there", 60) for _ in range(400)]
    counts = flood(own_server, calls, callers=96)
    assert set(counts) == {"OK", UNAVAILABLE}
    assert is_healthy(own_server, speech)


def test_interactive_requests_are_answered_before_waiting_bulk_requests(
    own_server: Triton, recordings: dict[str, bytes]
) -> None:
    """Interactive requests that arrive last are answered before most bulk requests."""
    speech = recordings["austen-0880.flac"]
    order: list[str] = []

    def send(client: grpc.InferenceServerClient, name: str, **options: Any) -> None:
        def answered(result: object, error: InferenceServerException | None) -> None:
            assert error is None, error
            order.append(name)

        client.async_infer("emotion", utterance(speech, b"hello there"), answered, **options)

    with grpc.InferenceServerClient(own_server.grpc_url) as client:
        for _ in range(120):
            send(client, "bulk", parameters={"bulk": True})
        time.sleep(0.2)  # until all requests are in queues
        for _ in range(8):
            send(client, "interactive")
        end = time.monotonic() + 60
        while len(order) < 128:
            assert time.monotonic() < end
            time.sleep(0.05)
    last = max(place for place, name in enumerate(order) if name == "interactive")
    before = order[:last].count("bulk")
    assert before < 90, f"{before} of 120 bulk answers came before the last interactive one"
