"""What callers are told, by the status that gRPC ends a call in."""

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

from tests.clients.conftest import DEAD, Answering, Hanging, Refusing

# as Triton passes on what a stage raises
STACK_TRACE = (
    "in ensemble 'emotion', Failed to process the request(s) for model instance 'vggish_0_0', message: "
    "ValueError: boom\n\nAt:\n  /models/vggish/1/model.py(12): execute\n"
)


@pytest.mark.parametrize(
    ("status", "sentence", "kind", "told"),
    [
        ("INVALID_ARGUMENT", "in ensemble 'emotion', TEXT is too long", InvalidInput, "TEXT is too long"),
        ("UNAVAILABLE", "in ensemble 'emotion', Exceeds maximum queue size", Unavailable, "Exceeds maximum queue size"),
        ("DEADLINE_EXCEEDED", "", DeadlineExceeded, "no answer from {} within the deadline of 30 s"),
        (
            "RESOURCE_EXHAUSTED",
            "100 calls an hour are used up.",
            Unavailable,
            "{} refuses, as a quota is used up (100 calls an hour are used up): try again later",
        ),
        (
            "UNAUTHENTICATED",
            "token missing",
            EmotionError,
            "{} does not know who calls (token missing): ask its operator what to show",
        ),
        (
            "PERMISSION_DENIED",
            "not from this network",
            EmotionError,
            "{} does not let this caller in (not from this network): ask its operator for access",
        ),
        (
            "NOT_FOUND",
            "Request for unknown model: 'emotion' is not found",
            EmotionError,
            "{} does not serve the model 'emotion' (Request for unknown model: 'emotion' is not found): "
            "give the emotion server's gRPC endpoint",
        ),
        (
            "INTERNAL",
            STACK_TRACE,
            EmotionError,
            "the server at {} failed (Failed to process the request(s) for model instance 'vggish_0_0', message: "
            "ValueError: boom): its log may say more",
        ),
        ("INTERNAL", "", EmotionError, "the server at {} failed (no reason given): its log may say more"),
        ("UNKNOWN", "", EmotionError, "the server at {} failed (no reason given): its log may say more"),
        (
            "CANCELLED",
            "upstream reset",
            EmotionError,
            "the call was cancelled by {} or a proxy before it, or this client was closed (upstream reset)",
        ),
    ],
)
def test_every_status_has_its_sentence(
    serve: Callable[..., str], status: str, sentence: str, kind: type[EmotionError], told: str
) -> None:
    endpoint = serve(Refusing(grpc.StatusCode[status], sentence))
    with EmotionClient(endpoint, retries=False) as client, pytest.raises(EmotionError) as error:
        client.analyze(text="hello")
    assert type(error.value) is kind
    assert str(error.value) == told.format(endpoint)
    assert error.value.__cause__ is None and error.value.__suppress_context__  # no second stack trace before it


def test_a_message_over_the_limit(serve: Callable[..., str]) -> None:
    endpoint = serve(Hanging())  # gRPC's usual limit of 4 MiB
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 3_000_000).astype(np.float32)
    told = (
        rf"^the request is larger than {endpoint} accepts \(.*larger than max.*\): send a shorter recording, or a compr"
    )
    with EmotionClient(endpoint) as client, pytest.raises(InvalidInput, match=told):
        client.analyze(noise, rate=48_000)


def test_a_server_that_is_no_triton(serve: Callable[..., str]) -> None:
    endpoint = serve()
    told = rf"^{endpoint} is no Triton server \(Method not found!\): give the emotion server's gRPC endpoint$"
    with EmotionClient(endpoint) as client, pytest.raises(EmotionError, match=told):
        client.analyze(text="hello")


def test_the_http_port(server: Any) -> None:
    told = rf"^no server could be reached at {server.http_url}: .*; is it the gRPC port, 8001 by default, "
    with EmotionClient(server.http_url, retries=False) as client, pytest.raises(Unreachable, match=told):
        client.analyze(text="hello")


def test_a_model_that_is_not_served(server: Any) -> None:
    with EmotionClient(server.grpc_url, retries=False) as client:
        told = rf"^{server.grpc_url} does not serve the model 'emotion_speech' .*, of one that runs with --speech$"
        with pytest.raises(EmotionError, match=told):
            client.analyze(np.zeros(16_000, np.float32), rate=16_000, transcribe=True)


def test_a_connection_that_breaks_under_way(link: Callable[..., Any]) -> None:
    to_server = link()
    with EmotionClient(to_server.url, retries=False) as client:
        client.analyze(text="hello")
        to_server.stall()
        threading.Timer(0.5, to_server.stop).start()
        with pytest.raises(Unreachable, match=f"^no server could be reached at {to_server.url}: "):
            client.analyze(text="hello")


@pytest.mark.parametrize("hedge_after", [None, 0.1])
def test_a_client_that_is_closed_under_way(serve: Callable[..., str], hedge_after: float | None) -> None:
    client = EmotionClient(serve(Hanging()), hedge_after=hedge_after)
    threading.Timer(0.5, client.close).start()
    with pytest.raises(EmotionError, match=r"^the call was cancelled .* or this client was closed"):
        client.analyze(text="hello")


@pytest.mark.parametrize("hedge_after", [None, 0.1])
async def test_an_asyncio_client_that_is_closed_under_way(serve: Callable[..., str], hedge_after: float | None) -> None:
    client = AsyncEmotionClient(serve(Hanging()), hedge_after=hedge_after)
    call = asyncio.create_task(client.analyze(text="hello"))
    await asyncio.sleep(0.5)
    await client.close()
    with pytest.raises(EmotionError, match=r"^the call was cancelled, since this client was closed"):
        await call


def test_a_client_that_was_closed_before() -> None:
    client = EmotionClient(DEAD)
    client.close()
    with pytest.raises(EmotionError, match=r"^this client was closed: make another one$"):
        client.analyze(text="hello")


async def test_an_asyncio_client_that_was_closed_before() -> None:
    client = AsyncEmotionClient(DEAD)
    await client.close()
    with pytest.raises(EmotionError, match=r"^this client was closed: make another one$"):
        await client.analyze(text="hello")


async def test_paths_in_place_of_utterances() -> None:
    with EmotionClient(DEAD) as client:
        found = client.analyze_many(["a.flac"])  # type: ignore[list-item]
    async with AsyncEmotionClient(DEAD) as async_client:
        found += await async_client.analyze_many(["a.flac"])  # type: ignore[list-item]
    for error in found:
        assert isinstance(error, InvalidInput)
        assert str(error).startswith("utterances must be of the class Utterance, not str: give Utterance(audio=")


@pytest.mark.parametrize("deadline", [0.05, 0.5])
async def test_a_closed_port_and_a_deadline_shorter_than_the_retries(deadline: float) -> None:
    told = rf"^no server could be reached at {DEAD} within the deadline of {deadline} s: Connection refused$"
    with EmotionClient(DEAD, deadline=deadline) as client, pytest.raises(Unreachable, match=told):
        client.analyze(text="hello")
    async with AsyncEmotionClient(DEAD, deadline=deadline) as async_client:
        with pytest.raises(Unreachable, match=told):
            await async_client.analyze(text="hello")


def test_a_proxy_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://user:word@{DEAD}")  # pragma: allowlist secret
    told = rf"through the proxy {DEAD} of the environment variable https_proxy; .* set no_proxy=192\.0\.2\.1\)$"
    with EmotionClient("192.0.2.1:8001", deadline=1) as client, pytest.raises(EmotionError, match=told):
        client.analyze(text="hello")
    monkeypatch.setenv("no_proxy", "example.com,192.0.2.1")
    assert used_proxy(["192.0.2.1:8001"]) is None
    assert used_proxy(["192.0.2.1:8001", "192.0.2.2:8001"]) is not None
    assert used_proxy(["localhost:8001", "[::1]:8001"]) is None


def test_analyze_of_an_answer_of_nan_raises_a_sentence(serve: Callable[..., str]) -> None:
    """The models withhold what a native backend may have computed from another caller's data."""
    answer = pb.ModelInferResponse(model_name="emotion", model_version="1")
    for name in ("PROBABILITIES", "AUDIO_PROBABILITIES", "TEXT_PROBABILITIES"):
        answer.outputs.add(name=name, datatype="FP32", shape=[1, 5])
        answer.raw_output_contents.append(np.full((1, 5), np.nan, np.float32).tobytes())
    checkpoint = b'{"digest": "0", "untrained": []}'
    answer.outputs.add(name="CHECKPOINT", datatype="BYTES", shape=[1, 1])
    answer.raw_output_contents.append(struct.pack("<I", len(checkpoint)) + checkpoint)
    with (
        EmotionClient(serve(Answering(answer.SerializeToString()))) as client,
        pytest.raises(EmotionError, match=r"withheld its answer, .*: send the request again"),
    ):
        client.analyze(text="hello")
