"""Test live streams over a real WebSocket, in front of a real Triton."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import httpx
import numpy as np
import pytest
from emotion_client import EMOTIONS
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from emotion import decoding
from tests.clients.conftest import DEAD
from web.gateway import live
from web.gateway.metrics import Metrics

Gateway = Callable[..., AbstractContextManager[str]]  # the fixture `gateway`
RATE = 16_000
START = {"type": "start", "rate": RATE}


@contextmanager
def stream(address: str, start: Any = START, **options: Any) -> Iterator[ClientConnection]:
    with connect(f"{address.replace('http', 'ws', 1)}/api/live", **options) as socket:
        if start is not None:
            socket.send(json.dumps(start))
        yield socket


def speak(socket: ClientConnection, samples: NDArray[np.int16], speed: float = 1.0) -> None:
    """Send samples in chunks of 0.1 s, at the pace of speech or `speed` times as fast."""
    for start in range(0, len(samples), RATE // 10):
        socket.send(samples[start : start + RATE // 10].astype("<i2").tobytes())
        time.sleep(0.1 / speed)


def messages(socket: ClientConnection) -> list[dict[str, Any]]:
    """Return all messages until the server closes the connection."""
    found = []
    with suppress(ConnectionClosed):
        while True:
            found.append(json.loads(socket.recv(timeout=30)))
    return found


def failure(socket: ClientConnection, code: str, closed: int) -> str:
    """Check how a stream fails, and return the message."""
    *_, last = messages(socket)
    assert (last["type"], last["code"]) == ("error", code)
    assert socket.close_code == closed
    message: str = last["message"]
    assert message.endswith(".") and "\n" not in message
    return message


@pytest.fixture(scope="module")
def samples(recordings: dict[str, bytes]) -> NDArray[np.int16]:
    """Return two recordings with a pause of a second after each, int16 [n] at RATE."""
    pause = np.zeros(RATE, np.float32)
    names = ("austen-0880.flac", "austen-0930.flac")
    parts = [part for name in names for part in (decoding.decode(recordings[name]), pause)]
    return (np.concatenate(parts) * 32767).astype(np.int16)


def test_stream_sends_voice_utterances_and_the_answer_of_an_upload(address: str, samples: NDArray[np.int16]) -> None:
    with stream(address) as socket:
        speak(socket, samples, speed=2)
        socket.send('{"type": "end"}')
        found = messages(socket)
        assert socket.close_code == 1000
    assert found[0] == {"type": "ready", "speech": True}
    voices = [message for message in found if message["type"] == "voice"]
    utterances = [message for message in found if message["type"] == "utterance"]
    assert voices and all(set(voice) == {"type", "end", "probabilities"} for voice in voices)
    assert any(voice["probabilities"] and set(voice["probabilities"]) == set(EMOTIONS) for voice in voices)
    assert [utterance["start"] for utterance in utterances] == pytest.approx([0.0, 4.0], abs=0.5)
    for utterance in utterances:
        assert utterance["transcript"] and utterance["label"] in EMOTIONS and utterance["error"] is None
    end = found[-1]
    assert (end["type"], end["seconds"]) == ("answer", pytest.approx(len(samples) / RATE))
    upload = {"audio": ("recording", live.to_wav(samples.tobytes(), RATE))}
    expected = httpx.post(f"{address}/api/analyze", files=upload, timeout=60).json()
    for answer in (end["analysis"], expected):
        del answer["timings"]
    assert end["analysis"]["transcript"] == expected["transcript"]
    assert end["analysis"]["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)
    assert set(end["analysis"]) == set(expected)


def test_stream_longer_than_a_recording_has_no_analysis(gateway: Gateway, samples: NDArray[np.int16]) -> None:
    with gateway(max_seconds=3, stream_seconds=9) as address:
        with stream(address) as socket:
            speak(socket, samples, speed=20)
            socket.send('{"type": "end"}')
            assert messages(socket)[-1] == {"type": "answer", "seconds": len(samples) / RATE, "analysis": None}
        with stream(address) as socket:
            with suppress(ConnectionClosed):
                speak(socket, np.tile(samples, 2), speed=50)
            assert failure(socket, "too_large", 1009) == "The stream is too long; at most 9 s are accepted."


@pytest.mark.parametrize(
    ("start", "then", "code", "closed", "message"),
    [
        ({"type": "start"}, None, "unusable", 1008, "The first message must be "),
        ({"type": "start", "rate": 4_000}, None, "unusable", 1008, "The first message must be "),
        ([], None, "unusable", 1008, "The first message must be "),
        (START, '{"type": "stop"}', "unusable", 1008, "Text messages after the first must be "),
        (START, "[" * 5_000, "unusable", 1008, "Text messages after the first must be "),
        (START | {"rate": "16000"}, None, "unusable", 1008, "The first message must be "),
        (START, "{", "unusable", 1008, "Text messages after the first must be "),
        (START, b"123", "unusable", 1008, "The audio must be whole samples of 16 bits."),
        (START, bytes(live.MAX_MESSAGE_BYTES + 2), "too_large", 1009, "A message may have 1 MiB."),
        (START, '{"type": "end"}', "unusable", 1008, "No audio arrived: send at least one chunk with samples."),
    ],
)
def test_unusable_messages_end_the_stream_with_a_reason(
    address: str, start: Any, then: str | bytes | None, code: str, closed: int, message: str
) -> None:
    with stream(address, start) as socket:
        if then is not None:
            socket.send(then)
        assert failure(socket, code, closed).startswith(message)


def test_stream_in_messages_of_one_sample_is_ended(address: str) -> None:
    """Each message costs the gateway work, which would slow other callers down."""
    with stream(address) as socket:
        with suppress(ConnectionClosed):
            for _ in range(2 * live.EARLY_MESSAGES):
                socket.send(bytes(2))
        assert failure(socket, "unusable", 1008).startswith("The messages are too short: ")


def test_utterance_in_one_long_message_is_answered(address: str, samples: NDArray[np.int16]) -> None:
    message = np.concatenate([np.zeros(8 * RATE, np.int16), samples, np.zeros(15 * RATE, np.int16)])
    with stream(address) as socket:
        socket.send(message.tobytes())
        socket.send('{"type": "end"}')
        found = messages(socket)
    assert len(message) * 2 <= live.MAX_MESSAGE_BYTES
    assert [utterance["error"] for utterance in found if utterance["type"] == "utterance"] == [None, None]


def test_fault_of_the_gateway_is_reported(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "to_message", lambda _: 1 / 0)
    with gateway() as address, stream(address) as socket:
        with suppress(ConnectionClosed):
            speak(socket, np.zeros(2 * RATE, np.int16))
        assert failure(socket, "fault", 1011) == "The gateway failed; its log says why."


def test_message_of_many_megabytes_closes_the_connection(address: str) -> None:
    with stream(address) as socket:
        with suppress(ConnectionClosed):
            socket.send(bytes(8 << 20))
        messages(socket)
        assert socket.close_code == 1009


def test_silent_stream_ends_as_an_upload_would(address: str) -> None:
    with stream(address) as socket:
        speak(socket, np.zeros(2 * RATE, np.int16), speed=20)
        socket.send('{"type": "end"}')
        assert failure(socket, "no_speech", 1008).startswith("The recording has no sound")


def test_stream_needs_the_key(gateway: Gateway) -> None:
    with gateway(api_key="secret") as address:
        with stream(address, START) as socket:
            assert failure(socket, "key", 1008) == "This service needs an access key, sent as X-API-Key."
        for key in ("wrong", "schlüssel"):
            with stream(address, START | {"key": key}) as socket:
                assert failure(socket, "key", 1008).startswith("The access key in X-API-Key is wrong; ")
        with stream(address, START | {"key": "secret"}) as socket:
            assert json.loads(socket.recv())["type"] == "ready"


def test_streams_are_limited_in_number_and_rate(gateway: Gateway) -> None:
    metrics = Metrics()
    with gateway(metrics, streams=1) as address, stream(address) as first:
        assert json.loads(first.recv())["type"] == "ready"
        with stream(address) as second:
            failure(second, "busy", 1013)
        assert metrics.registry.get_sample_value("emoserve_gateway_live_streams") == 1
        first.close()
        deadline = time.monotonic() + 10
        while metrics.registry.get_sample_value("emoserve_gateway_live_streams") and time.monotonic() < deadline:
            time.sleep(0.05)
        with stream(address) as third:
            assert json.loads(third.recv())["type"] == "ready"
    ended = "emoserve_gateway_ended_streams_total"
    assert metrics.registry.get_sample_value(ended, {"outcome": "busy"}) == 1
    assert metrics.registry.get_sample_value(ended, {"outcome": "canceled"}) == 2
    with gateway(rate_limit=6) as address:
        with stream(address) as socket:
            assert json.loads(socket.recv())["type"] == "ready"
        with stream(address) as socket:
            failure(socket, "too_often", 1013)
        assert httpx.post(f"{address}/api/analyze", files={"text": (None, "Hello")}).status_code == 429


def test_caller_who_leaves_before_the_answer_frees_its_place(gateway: Gateway, samples: NDArray[np.int16]) -> None:
    metrics = Metrics()

    def analyses() -> float | None:
        return metrics.registry.get_sample_value("emoserve_gateway_in_flight")

    def wait_for(number: int) -> None:
        deadline = time.monotonic() + 30
        while analyses() != number:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    with gateway(metrics) as address, stream(address) as socket:
        speak(socket, np.tile(samples, 6), speed=1_000)
        socket.send('{"type": "end"}')
        wait_for(1)
        socket.close()
        wait_for(0)
    value = metrics.registry.get_sample_value
    assert value("emoserve_gateway_ended_streams_total", {"outcome": "canceled"}) == 1
    assert value("emoserve_gateway_analyses_total", {"outcome": "answered"}) is None  # it was cancelled


def test_pages_of_other_origins_need_permission(gateway: Gateway) -> None:
    with gateway(cors_origins=["https://friend.example"]) as address:
        for origin in (address, "https://friend.example", None):
            with stream(address, origin=origin) as socket:
                assert json.loads(socket.recv())["type"] == "ready"
        with pytest.raises(InvalidStatus) as error, stream(address, origin="https://stranger.example"):
            pass
        assert error.value.response.status_code == 403


@pytest.mark.parametrize("path", ["/", "/api/analyze", "/nothing"])
def test_connections_to_other_paths_are_refused(address: str, path: str) -> None:
    with pytest.raises(InvalidStatus) as error, connect(address.replace("http", "ws", 1) + path):
        pass
    assert error.value.response.status_code == 403


def test_caller_who_sends_nothing_is_told(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "START_TIMEOUT_S", 0.2)
    monkeypatch.setattr(live, "IDLE_TIMEOUT_S", 0.3)
    with gateway() as address:
        for start, seconds in ((None, "0.2"), (START, "0.3")):
            with stream(address, start) as socket:
                assert failure(socket, "slow_upload", 1008) == f"No message arrived within {seconds} s."


def test_stream_without_a_server_ends_with_the_reason(
    gateway: Gateway, samples: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emotion_client.stream._OUTAGE_S", 0.5)
    with gateway(endpoints=[DEAD]) as address, stream(address) as socket:
        assert json.loads(socket.recv()) == {"type": "ready", "speech": False}
        with suppress(ConnectionClosed):
            speak(socket, np.tile(samples, 5))
        assert failure(socket, "away", 1013) == "The emotion server is not running or can't be reached."


def test_stream_of_a_gateway_that_stops_is_closed(gateway: Gateway) -> None:
    with gateway() as address:
        socket = connect(f"{address.replace('http', 'ws', 1)}/api/live")
        socket.send(json.dumps(START))
        assert json.loads(socket.recv())["type"] == "ready"
    with socket, pytest.raises(ConnectionClosed):
        socket.recv(timeout=10)
    assert socket.close_code == 1012


def test_stream_is_logged_without_what_was_said(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    with gateway() as address, stream(address, additional_headers={"X-Request-ID": "mine"}) as socket:
        socket.send(b"123")
        failure(socket, "unusable", 1008)
    (entry,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (entry["request_id"], entry["path"], entry["outcome"]) == ("mine", "/api/live", "unusable")
    assert (entry["status"], entry["received_bytes"]) == (1008, 3)
    assert set(entry) == {"time", "request_id", "method", "path", "status", "outcome", "received_bytes", "ms"}
