"""Test the exception and message for each gRPC status."""

import asyncio
import struct
import threading
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from emotion_client import (
    AsyncEmotionClient,
    DeadlineExceeded,
    EmotionClient,
    EmotionError,
    InvalidInput,
    Unavailable,
    Unreachable,
)
from emotion_client.network import used_proxy
from tritonclient.grpc import service_pb2 as pb

from tests.clients.conftest import DEAD, FixedAnswerHandler, HangingHandler, RejectingHandler

# as Triton forwards an exception of a stage
STACK_TRACE = (
    "in ensemble 'emotion', Failed to process the request(s) for model instance 'vggish_0_0', message: "
    "ValueError: boom\n\nAt:\n  /models/vggish/1/model.py(12): execute\n"
)


@pytest.mark.parametrize(
    ("status", "sentence", "kind", "message"),
    [
        ("INVALID_ARGUMENT", "in ensemble 'emotion', TEXT is too long", InvalidInput, "TEXT is too long"),
        ("UNAVAILABLE", "in ensemble 'emotion', Exceeds maximum queue size", Unavailable, "Exceeds maximum queue size"),
        ("DEADLINE_EXCEEDED", "", DeadlineExceeded, "no answer from {} within the deadline of 30 s"),
        (
            "RESOURCE_EXHAUSTED",
            "100 calls an hour are used up.",
            Unavailable,
            "{} rejected the request, as a quota is used up (100 calls an hour are used up): try again later",
        ),
        (
            "UNAUTHENTICATED",
            "token missing",
            EmotionError,
            "{} requires credentials (token missing): ask its operator which ones to send",
        ),
        (
            "PERMISSION_DENIED",
            "not from this network",
            EmotionError,
            "{} denies access to this caller (not from this network): ask its operator for access",
        ),
        (
            "NOT_FOUND",
            "Request for unknown model: 'emotion' is not found",
            EmotionError,
            "{} does not serve the model 'emotion' (Request for unknown model: 'emotion' is not found): "
            "give the gRPC endpoint of an emotion server",
        ),
        (
            "INTERNAL",
            STACK_TRACE,
            EmotionError,
            "the server at {} failed (Failed to process the request(s) for model instance 'vggish_0_0', message: "
            "ValueError: boom): see its log",
        ),
        ("INTERNAL", "", EmotionError, "the server at {} failed (no reason given): see its log"),
        ("UNKNOWN", "", EmotionError, "the server at {} failed (no reason given): see its log"),
        (
            "CANCELLED",
            "upstream reset",
            EmotionError,
            "the call was cancelled by {}, by a proxy, or because this client was closed (upstream reset)",
        ),
    ],
)
def test_analyze_rejected_with_a_status_raises_its_message(
    serve: Callable[..., str], status: str, sentence: str, kind: type[EmotionError], message: str
) -> None:
    endpoint = serve(RejectingHandler(grpc.StatusCode[status], sentence))
    with EmotionClient(endpoint, retries=False) as client, pytest.raises(EmotionError) as error:
        client.analyze(text="hello")
    assert type(error.value) is kind
    assert str(error.value) == message.format(endpoint)
    assert error.value.__cause__ is None and error.value.__suppress_context__  # no chained stack trace


def test_analyze_over_the_message_limit_raises_invalid_input(serve: Callable[..., str]) -> None:
    endpoint = serve(HangingHandler())  # a server with gRPC's default limit of 4 MiB
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 3_000_000).astype(np.float32)
    message = (
        rf"^the request is larger than {endpoint} accepts \(.*larger than max.*\): send a shorter recording, or a compr"
    )
    with EmotionClient(endpoint) as client, pytest.raises(InvalidInput, match=message):
        client.analyze(noise, rate=48_000)


def test_analyze_on_another_grpc_server_raises(serve: Callable[..., str]) -> None:
    endpoint = serve()
    message = rf"^{endpoint} is not a Triton server \(Method not found!\): give the gRPC endpoint of an emotion server$"
    with EmotionClient(endpoint) as client, pytest.raises(EmotionError, match=message):
        client.analyze(text="hello")


def test_analyze_on_the_http_port_raises_unreachable(server: Any) -> None:
    message = rf"^no server could be reached at {server.http_url}: .*; check that this is the gRPC port, 8001 by "
    with EmotionClient(server.http_url, retries=False) as client, pytest.raises(Unreachable, match=message):
        client.analyze(text="hello")


def test_analyze_with_a_missing_model_raises(server: Any) -> None:
    with EmotionClient(server.grpc_url, retries=False) as client:
        message = (
            rf"^{server.grpc_url} does not serve the model 'emotion_speech' .* "
            "give the gRPC endpoint of an emotion server that runs with --speech$"
        )
        with pytest.raises(EmotionError, match=message):
            client.analyze(np.zeros(16_000, np.float32), rate=16_000, transcribe=True)


def test_analyze_on_a_broken_connection_raises_unreachable(link: Callable[..., Any]) -> None:
    to_server = link()
    with EmotionClient(to_server.url, retries=False) as client:
        client.analyze(text="hello")
        to_server.stall()
        threading.Timer(0.5, to_server.stop).start()
        with pytest.raises(Unreachable, match=f"^no server could be reached at {to_server.url}: "):
            client.analyze(text="hello")


@pytest.mark.parametrize("hedge_after", [None, 0.1])
def test_analyze_on_a_client_closed_during_the_call_raises(
    serve: Callable[..., str], hedge_after: float | None
) -> None:
    client = EmotionClient(serve(HangingHandler()), hedge_after=hedge_after)
    threading.Timer(0.5, client.close).start()
    with pytest.raises(EmotionError, match=r"^the call was cancelled by .* or because this client was closed"):
        client.analyze(text="hello")


@pytest.mark.parametrize("hedge_after", [None, 0.1])
async def test_async_analyze_on_a_client_closed_during_the_call_raises(
    serve: Callable[..., str], hedge_after: float | None
) -> None:
    client = AsyncEmotionClient(serve(HangingHandler()), hedge_after=hedge_after)
    call = asyncio.create_task(client.analyze(text="hello"))
    await asyncio.sleep(0.5)
    await client.close()
    with pytest.raises(EmotionError, match=r"^the call was cancelled because this client was closed"):
        await call


def test_analyze_on_a_closed_client_raises() -> None:
    client = EmotionClient(DEAD)
    client.close()
    with pytest.raises(EmotionError, match=r"^this client is closed: create a new one$"):
        client.analyze(text="hello")


async def test_async_analyze_on_a_closed_client_raises() -> None:
    client = AsyncEmotionClient(DEAD)
    await client.close()
    with pytest.raises(EmotionError, match=r"^this client is closed: create a new one$"):
        await client.analyze(text="hello")


async def test_analyze_many_of_paths_returns_invalid_input() -> None:
    with EmotionClient(DEAD) as client:
        found = client.analyze_many(["a.flac"])  # type: ignore[list-item]
    async with AsyncEmotionClient(DEAD) as async_client:
        found += await async_client.analyze_many(["a.flac"])  # type: ignore[list-item]
    for error in found:
        assert isinstance(error, InvalidInput)
        assert str(error).startswith("each utterance must be an Utterance, not str: give Utterance(audio=")


@pytest.mark.parametrize("deadline", [0.05, 0.5])
async def test_analyze_on_a_closed_port_past_its_deadline_raises_unreachable(deadline: float) -> None:
    message = rf"^no server could be reached at {DEAD} within the deadline of {deadline} s: Connection refused$"
    with EmotionClient(DEAD, deadline=deadline) as client, pytest.raises(Unreachable, match=message):
        client.analyze(text="hello")
    async with AsyncEmotionClient(DEAD, deadline=deadline) as async_client:
        with pytest.raises(Unreachable, match=message):
            await async_client.analyze(text="hello")


def test_analyze_through_a_proxy_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://user:word@{DEAD}")  # pragma: allowlist secret
    message = rf"through the proxy {DEAD} of the environment variable https_proxy; .* set no_proxy=192\.0\.2\.1\)$"
    with EmotionClient("192.0.2.1:8001", deadline=1) as client, pytest.raises(EmotionError, match=message):
        client.analyze(text="hello")
    monkeypatch.setenv("no_proxy", "example.com,192.0.2.1")
    assert used_proxy(["192.0.2.1:8001"]) is None
    assert used_proxy(["192.0.2.1:8001", "192.0.2.2:8001"]) is not None
    assert used_proxy(["localhost:8001", "[::1]:8001"]) is None


def test_analyze_with_an_answer_of_nan_raises(serve: Callable[..., str]) -> None:
    """Check that NaN is an error: models use it to withhold what may stem from another caller's data."""
    answer = pb.ModelInferResponse(model_name="emotion", model_version="1")
    for name in ("PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES"):
        answer.outputs.add(name=name, datatype="FP32", shape=[1, 5])
        answer.raw_output_contents.append(np.full((1, 5), np.nan, np.float32).tobytes())
    checkpoint = b'{"digest": "0", "untrained": []}'
    answer.outputs.add(name="CHECKPOINT", datatype="BYTES", shape=[1, 1])
    answer.raw_output_contents.append(struct.pack("<I", len(checkpoint)) + checkpoint)
    with (
        EmotionClient(serve(FixedAnswerHandler(answer.SerializeToString()))) as client,
        pytest.raises(EmotionError, match=r"withheld its answer because .*: send the request again"),
    ):
        client.analyze(text="hello")
