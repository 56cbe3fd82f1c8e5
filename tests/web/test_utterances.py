"""Test the analysis of long recordings over real HTTP, in front of a real Triton."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
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
from numpy.typing import NDArray

from emotion import decoding
from emotion.audio import SAMPLE_RATE
from serving import Triton
from serving.triton import free_ports
from tests.encoding import encode
from web.gateway import utterances
from web.gateway.errors import invalid_input
from web.gateway.messages import Failed, Spoken

ROOT = Path(__file__).parent.parent.parent
Gateway = Callable[..., AbstractContextManager[str]]  # the fixture `gateway`
PAUSE = np.zeros(SAMPLE_RATE, np.float32)


@pytest.fixture(scope="module")
def long(recordings: dict[str, bytes]) -> NDArray[np.float32]:
    """Return 65 s of clips with pauses of 1 s between them."""
    once = np.concatenate([np.concatenate([decoding.decode(data), PAUSE]) for data in recordings.values()])
    return np.resize(once, 65 * SAMPLE_RATE)


def post(address: str, audio: bytes, **options: Any) -> httpx.Response:
    return httpx.post(f"{address}/api/utterances", files={"audio": ("long", audio)}, timeout=120, **options)


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_utterances_have_the_answers_of_their_parts(
    address: str, speech_server: Triton, long: NDArray[np.float32]
) -> None:
    first, *found, end = lines(post(address, encode(long)))
    assert first == {
        "type": "recording",
        "seconds": pytest.approx(len(long) / SAMPLE_RATE),
        "utterances": len(found),
        "speech": True,
    }
    assert first["seconds"] > 60 and len(found) >= 10
    assert [each["type"] for each in found] == ["utterance"] * len(found)
    starts = [each["start"] for each in found]
    assert starts == sorted(starts)
    waveform = decoding.decode(encode(long), 600)
    with EmotionClient(speech_server.grpc_url) as client:
        for each in (found[0], found[-1]):
            start, end_of_part = (round(each[name] * SAMPLE_RATE) for name in ("start", "end"))
            alone = client.analyze(waveform[start:end_of_part], None, SAMPLE_RATE, transcribe=True)
            assert (each["transcript"], each["label"], each["status"]) == (alone.transcript, alone.label, alone.status)
            assert each["probabilities"] == pytest.approx(alone.probabilities, abs=1e-3)
            assert each["error"] is None
        assert end == {"type": "end", "checkpoint": alone.checkpoint, "untrained": list(alone.untrained)}


def test_first_utterances_arrive_before_the_last_is_answered(address: str, long: NDArray[np.float32]) -> None:
    files, arrived = {"audio": ("long", encode(long))}, list[float]()
    with httpx.stream("POST", f"{address}/api/utterances", files=files, timeout=120) as response:
        for _ in response.iter_lines():
            arrived.append(time.monotonic())
    assert arrived[1] - arrived[0] < (arrived[-1] - arrived[0]) / 2


def test_ten_minutes_in_stereo_are_accepted_and_more_are_not(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, long: NDArray[np.float32]
) -> None:
    quiet = np.zeros((600 * 48_000, 2), np.int16)  # one utterance in ten minutes
    clip = (2**15 * long[: 4 * SAMPLE_RATE].repeat(3)).astype(np.int16)
    quiet[48_000 : 48_000 + len(clip)] = clip[:, None]
    with gateway() as address:
        first, _, end = lines(post(address, encode(quiet, "FLAC", rate=48_000)))
        assert (first["seconds"], end["type"]) == (600.0, "end")
    with gateway(long_seconds=65) as address:
        response = post(address, encode(np.tile(long, 2)))
        assert (response.status_code, response.json()["code"]) == (400, "unusable")
        assert response.json()["message"].endswith("at most 65 s are accepted: send it in parts.")


@pytest.mark.parametrize(
    ("audio", "code", "message"),
    [
        (encode(np.zeros(5 * SAMPLE_RATE, np.float32)), "no_speech", "No speech was found in the recording; "),
        (b"not audio", "unusable", "The recording is text, not an audio file; "),
    ],
)
def test_unusable_recordings_are_rejected_before_the_answer_begins(
    address: str, audio: bytes, code: str, message: str
) -> None:
    response = post(address, audio)
    assert (response.status_code, response.json()["code"]) == (400, code)
    assert response.json()["message"].startswith(message)


def test_utterances_need_the_key_and_a_form_with_a_file(gateway: Gateway) -> None:
    with gateway(api_key="secret") as address:
        assert post(address, b"RIFF").status_code == 401
        headers = {"X-API-Key": "secret"}
        other = httpx.post(f"{address}/api/utterances", files={"text": (None, "words")}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (400, "unusable")


def test_caller_who_leaves_frees_its_place(gateway: Gateway, long: NDArray[np.float32]) -> None:
    data = encode(long)
    with gateway(long_recordings=1, in_flight=1) as address:
        files = {"audio": ("long", data)}
        with httpx.stream("POST", f"{address}/api/utterances", files=files, timeout=120) as response:
            arriving = response.iter_lines()
            assert next(arriving)
            rejected = post(address, data)
            assert (rejected.status_code, rejected.headers["Retry-After"]) == (503, "20")
            words = httpx.post(f"{address}/api/analyze", files={"text": (None, "words")}, timeout=60)
            assert words.status_code == 200, "a long recording takes the place of a short one"
        until = time.monotonic() + 1
        while post(address, b"not audio").status_code == 503:
            assert time.monotonic() < until, "the place is still taken after 1 s"


def test_decoding_goes_on_alone_when_its_caller_leaves(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    def find(data: bytes, max_seconds: float) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.3)
        running -= 1
        raise invalid_input("On purpose.")

    monkeypatch.setattr(utterances, "find", find)
    with gateway() as address:
        for _ in range(4):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{address}/api/utterances", files={"audio": ("a", b"RIFF")}, timeout=0.1)
        assert post(address, b"RIFF").json()["message"] == "On purpose."
    assert most == 1


def test_late_utterance_does_not_stop_the_others() -> None:
    async def ask(part: NDArray[np.float32], number: int) -> Any:
        raise DeadlineExceeded("late") if number == 2 else InvalidInput("AUDIO has no sound")

    _, *found, end = asyncio.run(collect(ask))
    assert [isinstance(each, Spoken) and each.error for each in found] == [
        "The recording has no sound.",
        "The answer took too long; please try again, or send a shorter recording.",
        "The recording has no sound.",
    ]
    assert isinstance(end, utterances.End)


def test_request_ids_are_numbered_and_the_log_has_the_outcome(
    gateway: Gateway, long: NDArray[np.float32], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    async def away(self: AsyncEmotionClient, *utterance: Any, request_id: str, **options: Any) -> Any:
        sent.append(request_id)
        raise Unreachable("on purpose")

    monkeypatch.setattr(AsyncEmotionClient, "analyze", away)
    monkeypatch.setattr(AsyncEmotionClient, "is_ready", lambda *_, **__: asyncio.sleep(0, True))
    with gateway(deadline=0.5) as address:
        found = lines(post(address, encode(long), headers={"X-Request-ID": "call-7"}))
    assert [each["type"] for each in found] == ["recording", "error"]
    assert found[1]["code"] == "away" and sent[0] == "call-7.1"
    (entry,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert (entry["status"], entry["outcome"]) == (200, "away")


def test_gateway_that_is_stopped_ends_a_long_recording(speech_server: Triton, long: NDArray[np.float32]) -> None:
    port = free_ports("127.0.0.1", {"gateway": 0})["gateway"]
    command = [sys.executable, "-m", "web.gateway", "--port", str(port), "--metrics-port", "0", "--deadline", "1"]
    command += ["--endpoints", json.dumps([speech_server.grpc_url])]
    files = {"audio": ("long", encode(np.tile(long, 9)))}
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        client = httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=120)  # until it listens
        with client, client.stream("POST", f"http://127.0.0.1:{port}/api/utterances", files=files) as response:
            arriving = response.iter_lines()
            assert next(arriving)
            process.terminate()
            with pytest.raises(httpx.RemoteProtocolError):
                list(arriving)
        assert process.wait(timeout=30) == -signal.SIGTERM  # as uvicorn ends


# --- messages, with an injected server


async def collect(ask: utterances.Ask, patience_s: float = 5.0) -> list[utterances.Message]:
    waveform = np.zeros(3 * SAMPLE_RATE, np.float32)
    found = [(0, SAMPLE_RATE), (SAMPLE_RATE, 2 * SAMPLE_RATE), (2 * SAMPLE_RATE, 3 * SAMPLE_RATE)]
    return [message async for message in utterances.messages(waveform, found, True, ask, patience_s)]


def test_utterance_without_an_answer_does_not_stop_the_others() -> None:
    async def ask(part: NDArray[np.float32], number: int) -> Any:
        raise InvalidInput("AUDIO has no sound")

    _, *found, end = asyncio.run(collect(ask))
    assert [each.error for each in found if isinstance(each, Spoken)] == ["The recording has no sound."] * 3
    assert isinstance(end, utterances.End) and end.checkpoint is None


def test_busy_server_is_asked_again() -> None:
    attempts: list[int] = []

    async def ask(part: NDArray[np.float32], number: int) -> Any:
        attempts.append(number)
        if attempts.count(number) == 1:
            error = Unavailable("busy")
            error.retry_after = 0.01
            raise error
        raise InvalidInput("AUDIO has no sound")

    _, *found, _ = asyncio.run(collect(ask))
    assert len(found) == 3 and sorted(attempts) == [1, 1, 2, 2, 3, 3]


def test_failing_server_ends_the_messages_with_the_reason_and_asks_nothing_more() -> None:
    attempts: list[int] = []

    async def ask(part: NDArray[np.float32], number: int) -> Any:
        attempts.append(number)
        raise EmotionError("broken")

    *_, last = asyncio.run(collect(ask))
    assert isinstance(last, Failed) and last.code == "fault"
    assert 3 not in attempts
