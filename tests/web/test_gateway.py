"""Test the gateway's API over real HTTP, in front of a real Triton."""

import asyncio
import gzip
import io
import json
import re
import select
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from emotion_client import EMOTIONS, AsyncEmotionClient, EmotionClient
from numpy.typing import NDArray
from pydantic_settings import CliApp

from emotion import audio, decoding
from serving import Triton
from tests.encoding import encode
from web.gateway.analysis import timeline_windows
from web.gateway.metrics import Metrics
from web.gateway.settings import Settings

Gateway = Callable[..., AbstractContextManager[str]]  # the fixture `gateway`
VIEWS = ("probabilities", "audio_probabilities", "text_probabilities")


def analyze(address: str, audio: bytes | None = None, text: str | None = None, **options: Any) -> httpx.Response:
    fields: dict[str, Any] = {}
    if audio is not None:
        fields["audio"] = ("recording", audio)
    if text is not None:
        fields["text"] = (None, text)
    return httpx.post(f"{address}/api/analyze", files=fields, timeout=60, **options)


def problem(response: httpx.Response, status: int, code: str) -> str:
    """Check the status and code of an error response, and return its message."""
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    message: str = response.json()["message"]
    assert message.endswith(".") and "\n" not in message
    return message


@pytest.fixture(scope="module")
def clip(recordings: dict[str, bytes]) -> bytes:
    return recordings["austen-0890.flac"]


def test_analyze_returns_the_answers_of_emotion(
    address: str, speech_server: Triton, recordings: dict[str, bytes], transcripts: dict[str, str]
) -> None:
    """Compare answers for audio, text, both, and recognised text."""
    with EmotionClient(speech_server.grpc_url) as client:
        for name, data in recordings.items():
            sentence = transcripts[name]
            spoken = analyze(address, data).json()
            assert spoken["transcript"] == spoken["text"] != ""
            for answer, expected in (
                (analyze(address, data, sentence).json(), client.analyze(data, sentence)),
                (analyze(address, text=sentence).json(), client.analyze(text=sentence)),
                (spoken, client.analyze(data, spoken["transcript"])),
            ):
                assert (answer["label"], answer["status"]) == (expected.label, expected.status)
                assert answer["confidence"] == pytest.approx(expected.confidence, abs=1e-3)
                assert (answer["checkpoint"], answer["untrained"]) == (expected.checkpoint, list(expected.untrained))
                for view in VIEWS:
                    assert answer[view] == pytest.approx(getattr(expected, view), abs=1e-4), view


def test_analyze_timeline_covers_the_recording(address: str, recordings: dict[str, bytes]) -> None:
    for data in recordings.values():
        answer = analyze(address, data, "words").json()
        assert answer["seconds"] == pytest.approx(len(decoding.decode(data)) / audio.SAMPLE_RATE)
        windows = answer["timeline"]
        if answer["seconds"] <= 3:
            assert not windows
            continue
        assert windows[0]["start"] == 0 and windows[-1]["end"] == pytest.approx(answer["seconds"])
        for before, after in pairwise(windows):
            assert before["start"] < after["start"] <= before["end"]
        assert all(sum(window["probabilities"].values()) == pytest.approx(1, abs=1e-5) for window in windows)


def test_analyze_of_silence_reports_no_speech_and_gaps_in_the_timeline(address: str, clip: bytes) -> None:
    speech = decoding.decode(clip)[: 3 * audio.SAMPLE_RATE]

    def wav(waveform: NDArray[np.float32]) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, waveform, audio.SAMPLE_RATE, format="WAV", subtype="PCM_16")
        return buffer.getvalue()

    silence = np.zeros(4 * audio.SAMPLE_RATE, np.float32)
    assert "microphone" in problem(analyze(address, wav(silence)), 400, "no_speech")
    answer = analyze(address, wav(silence), "so it is").json()
    assert (answer["status"], answer["audio_probabilities"]) == ("no_speech", None)
    answer = analyze(address, wav(np.concatenate([speech, silence])), "so it is").json()
    assert answer["status"] in ("ok", "unsure") and answer["audio_probabilities"] is not None
    heard = [window["probabilities"] is not None for window in answer["timeline"]]
    assert heard[0] and not heard[-1]


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 0), (3.0, 0), (3.1, 2), (4.5, 2), (4.6, 3), (60, 39)])
def test_timeline_windows_have_equal_lengths(seconds: float, count: int) -> None:
    found = timeline_windows(int(seconds * audio.SAMPLE_RATE))
    assert len(found) == count
    assert all(end - start == 3 * audio.SAMPLE_RATE for start, end in found)


def test_health_returns_the_limits_of_the_input(address: str) -> None:
    health = httpx.get(f"{address}/api/health").json()
    limits = {"seconds": 60.0, "long_seconds": 600.0, "bytes": 20 << 20, "characters": 2000}
    assert health == {"status": "ready", "speech": True, "feedback": False, "limits": limits}


def test_analyze_without_recognition_uses_the_voice_alone(gateway: Gateway, server: Triton, clip: bytes) -> None:
    with gateway(endpoints=[server.grpc_url]) as address:
        assert httpx.get(f"{address}/api/health").json()["speech"] is False
        answer = analyze(address, clip).json()
        assert (answer["transcript"], answer["text"], answer["text_probabilities"]) == (None, "", None)
        assert set(answer["probabilities"]) == set(EMOTIONS)


def test_analyze_with_unreachable_server_returns_503(gateway: Gateway, clip: bytes) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nothing listens on that port
        with gateway(endpoints=[f"127.0.0.1:{taken.getsockname()[1]}"]) as address:
            problem(httpx.get(f"{address}/api/health", timeout=30), 503, "away")
            response = analyze(address, clip)
            assert "not running" in problem(response, 503, "away")
            assert int(response.headers["Retry-After"]) > 0


def test_analyze_past_the_deadline_returns_504(gateway: Gateway, clip: bytes) -> None:
    with gateway(deadline=0.05) as address:
        start = time.monotonic()
        assert "too long" in problem(analyze(address, clip), 504, "late")
        assert time.monotonic() - start < 5


# --- invalid input


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "neither a recording nor a text"),
        ({"text": ""}, "neither a recording nor a text"),
        ({"text": " \n"}, "neither a recording nor a text"),
        ({"text": "..."}, "no letter or digit"),
        ({"text": "x" * 2001}, "text is too long; at most 2000 characters"),
        ({"text": "a\0b"}, "NUL"),
        ({"audio": b""}, "recording is empty"),
        ({"audio": b"not audio"}, "not an audio file"),
        ({"audio": b"\x1a\x45\xdf\xa3 not a film"}, "truncated WebM file"),
    ],
)
def test_analyze_of_invalid_input_returns_one_sentence(address: str, fields: dict[str, Any], words: str) -> None:
    message = problem(analyze(address, **fields), 400, "unusable")
    assert words in message
    assert "AUDIO" not in message and "TEXT" not in message


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"text": "words"}'),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\nnot a part"),
        ("text/plain", b"words"),
    ],
)
def test_analyze_of_a_malformed_form_returns_one_sentence(address: str, content_type: str, body: bytes) -> None:
    response = httpx.post(f"{address}/api/analyze", content=body, headers={"Content-Type": content_type}, timeout=30)
    problem(response, 400, "unusable")


@pytest.mark.parametrize("announced", [True, False])
def test_upload_of_200_mb_is_rejected_early(address: str, announced: bool) -> None:
    """Check that the answer comes before the upload has arrived, with and without a Content-Length."""
    start = time.monotonic()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        length = f"Content-Length: {200 << 20}" if announced else "Transfer-Encoding: chunked"
        content = "Content-Type: multipart/form-data; boundary=x"
        connection.sendall(f"POST /api/analyze HTTP/1.1\r\nHost: x\r\n{content}\r\n{length}\r\n\r\n".encode())
        sent = 0
        chunk = b"" if announced else b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        while chunk and sent < 200 and not select.select([connection], [], [], 0)[0]:
            connection.sendall(chunk)
            sent += 1
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "at most 20 MiB" in answer
    assert sent < 100
    assert time.monotonic() - start < 10
    assert httpx.get(f"{address}/api/health").status_code == 200


def test_upload_is_never_written_to_disk(address: str, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    rolled = []
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda file: rolled.append(file), raising=True)
    before = set(Path(tempfile.gettempdir()).iterdir())
    silence = b"RIFF" + bytes(15 << 20)
    problem(analyze(address, silence), 400, "unusable")
    assert analyze(address, clip, "words").status_code == 200
    assert not rolled
    made = set(Path(tempfile.gettempdir()).iterdir()) - before  # servers of other tests may create some, too
    assert not [path for path in made if not path.name.startswith(("python_env_", "emoserve-"))]


# --- concurrent requests


def test_analyze_over_in_flight_returns_503_with_retry_after(gateway: Gateway, clip: bytes) -> None:
    async def send_all(address: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            one = [client.post(f"{address}/api/analyze", files={"audio": ("clip", clip)}) for _ in range(12)]
            return await asyncio.gather(*one)

    with gateway(in_flight=2) as address:
        answers = asyncio.run(send_all(address))
        rejected = [answer for answer in answers if answer.status_code != 200]
        assert 2 <= len(answers) - len(rejected) < 12
        for answer in rejected:
            assert "try again" in problem(answer, 503, "busy")
            assert int(answer.headers["Retry-After"]) > 0
        assert analyze(address, clip, "words").status_code == 200  # finished analyses no longer count


def test_analyses_of_callers_who_disconnect_are_canceled(gateway: Gateway) -> None:
    metrics = Metrics()
    long = encode(np.random.default_rng(1).normal(0, 0.1, 60 * audio.SAMPLE_RATE).astype(np.float32), "FLAC")
    with gateway(metrics, in_flight=8) as address:
        with ThreadPoolExecutor(8) as callers:

            def leave() -> None:
                with pytest.raises(httpx.ReadTimeout):
                    httpx.post(f"{address}/api/analyze", files={"audio": long, "text": (None, "words")}, timeout=0.8)

            for left in [callers.submit(leave) for _ in range(8)]:
                left.result()
        end = time.monotonic() + 5  # 1 s without other load
        while metrics.registry.get_sample_value("emoserve_gateway_in_flight"):
            assert time.monotonic() < end
            time.sleep(0.01)
        canceled = metrics.registry.get_sample_value("emoserve_gateway_analyses_total", {"outcome": "canceled"})
        assert canceled == 8
        assert analyze(address, text="words").status_code == 200


def test_slow_uploads_do_not_count_as_analyses(gateway: Gateway, clip: bytes) -> None:
    with gateway(in_flight=1, uploads=3) as address:
        host, port = address.removeprefix("http://").split(":")
        slow = [socket.create_connection((host, int(port))) for _ in range(2)]
        for connection in slow:
            connection.sendall(b"POST /api/analyze HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert analyze(address, clip, "words").status_code == 200
        for connection in slow:
            connection.close()


def test_metrics_count_answers_and_errors(gateway: Gateway, clip: bytes) -> None:
    metrics = Metrics()
    with gateway(metrics) as address, metrics.served("", 0) as port:
        analyze(address, clip, "words")
        analyze(address, b"not audio")
        for host in ("127.0.0.1", "[::1]"):
            lines = httpx.get(f"http://{host}:{port}/metrics").text.splitlines()
        assert 'emoserve_gateway_analyses_total{outcome="answered"} 1.0' in lines
        assert 'emoserve_gateway_analyses_total{outcome="unusable"} 1.0' in lines
        assert "emoserve_gateway_in_flight 0.0" in lines
        assert any(line.startswith("emoserve_gateway_analysis_seconds_count") for line in lines)


def test_page_files_are_compressed_for_callers_that_accept_it(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>page</p>")
    (tmp_path / "page.js").write_text("plain")
    (tmp_path / "page.js.br").write_bytes(b"smallest")
    (tmp_path / "page.js.gz").write_bytes(gzip.compress(b"compressed"))
    with gateway(page=tmp_path) as address:

        def get(accepted: str) -> httpx.Response:
            return httpx.get(f"{address}/page.js", headers={"Accept-Encoding": accepted})

        with httpx.stream("GET", f"{address}/page.js", headers={"Accept-Encoding": "gzip, deflate, br;q=1"}) as stream:
            assert stream.headers["Content-Encoding"] == "br" and b"".join(stream.iter_raw()) == b"smallest"
        response = get("gzip")
        assert (response.text, response.headers["Content-Encoding"]) == ("compressed", "gzip")
        assert response.headers["Content-Type"].startswith("text/javascript")
        plain = get("identity")
        assert plain.text == "plain" and "Content-Encoding" not in plain.headers
        assert response.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
        again = httpx.get(
            f"{address}/page.js", headers={"Accept-Encoding": "gzip", "If-None-Match": response.headers["ETag"]}
        )
        assert again.status_code == 304


def test_caller_who_takes_all_places_leaves_some_to_others(gateway: Gateway, clip: bytes) -> None:
    """Addresses are those that a proxy on this machine reports."""

    async def send(client: httpx.AsyncClient, address: str, caller: str) -> int:
        headers = {"X-Forwarded-For": caller}
        upload = {"audio": ("clip", clip)}
        return (await client.post(f"{address}/api/analyze", files=upload, headers=headers)).status_code

    async def compete(address: str) -> list[int]:
        async with httpx.AsyncClient(timeout=60) as client:
            await send(client, address, "192.0.2.2")
            flood = [asyncio.ensure_future(send(client, address, "192.0.2.1")) for _ in range(12)]
            await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)  # the others hold their places
            found = [await send(client, address, "192.0.2.2") for _ in range(3)]
            await asyncio.gather(*flood)
            return found

    with gateway(in_flight=4) as address:
        assert asyncio.run(compete(address)) == [200, 200, 200]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"json": {"text": "words"}}, "The request is application/json, but must be a form: send multipart/form-data "),
        (
            {"content": b"RIFF", "headers": {"Content-Type": "audio/wav"}},
            "The request is audio/wav, but must be a form",
        ),
        ({"files": {"audo": ("a", b"RIFF")}}, "The form has the unknown field 'audo'; its fields are audio, text."),
        (
            {"files": [("text", (None, "a")), ("text", (None, "b"))]},
            "The form has the field text 2 times; send it once.",
        ),
        ({"files": {"audio": (None, "words")}}, "The form field audio can't be used: send audio as a file and text as"),
        ({}, "There is neither a recording nor a text: send one of them, or both."),
    ],
)
def test_analyze_of_other_requests_says_what_is_accepted(address: str, request_: dict[str, Any], message: str) -> None:
    answer = httpx.post(f"{address}/api/analyze", **request_)
    assert problem(answer, 400, "unusable").startswith(message)


def test_health_answers_head(address: str) -> None:
    answer = httpx.head(f"{address}/api/health")
    assert (answer.status_code, answer.content) == (200, b"")


# --- access


def test_analyze_without_the_api_key_returns_401(gateway: Gateway, clip: bytes) -> None:
    with gateway(api_key="secret") as address:
        assert "needs an access key" in problem(analyze(address, text="words"), 401, "key")
        for key in ("guess", "sécret".encode()):
            answer = analyze(address, text="words", headers={"X-API-Key": key})
            assert problem(answer, 401, "key").startswith("The access key in X-API-Key is wrong; ")
        assert analyze(address, text="words", headers={"X-API-Key": "secret"}).status_code == 200
        assert httpx.get(f"{address}/api/health").status_code == 200


def test_analyze_over_the_rate_limit_returns_429_with_retry_after(gateway: Gateway) -> None:
    with gateway(rate_limit=12) as address:  # a bucket of two requests
        assert [analyze(address, text="words").status_code for _ in range(2)] == [200, 200]
        response = analyze(address, text="words")
        assert re.fullmatch(
            r"There are too many requests from your address; please try again in [1-5] s\.",
            problem(response, 429, "too_often"),
        )
        assert 1 <= int(response.headers["Retry-After"]) <= 5
        assert httpx.get(f"{address}/api/health").status_code == 200


def test_empty_api_key_requires_no_key(gateway: Gateway) -> None:
    """Compose passes a variable that is not set on as an empty string."""
    with gateway(api_key="") as address:
        assert analyze(address, text="words").status_code == 200


def test_cors_allows_only_configured_origins(gateway: Gateway, address: str) -> None:
    origin = {"Origin": "https://example.org"}
    assert "access-control-allow-origin" not in httpx.get(f"{address}/api/health", headers=origin).headers
    with gateway(cors_origins=["https://example.org"]) as other:
        headers = httpx.get(f"{other}/api/health", headers=origin).headers
        assert headers["access-control-allow-origin"] == "https://example.org"
        elsewhere = httpx.get(f"{other}/api/health", headers={"Origin": "https://example.com"}).headers
        assert "access-control-allow-origin" not in elsewhere


def test_every_response_has_security_headers(address: str) -> None:
    for response in (
        httpx.get(f"{address}/api/health"),
        analyze(address, b"not audio"),
        httpx.get(f"{address}/nowhere"),
        analyze(address, bytes(21 << 20)),
    ):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert (
            "script-src" in response.headers["Content-Security-Policy"]
            or "default-src 'self'" in response.headers["Content-Security-Policy"]
        )


def test_request_log_contains_no_text(gateway: Gateway, clip: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with gateway() as address:
        assert analyze(address, clip, "a secret of mine").status_code == 200
        problem(analyze(address, clip, "a secret of mine\0"), 400, "unusable")
    out, err = capfd.readouterr()
    assert "secret" not in out + err


def test_request_id_of_the_caller_is_used_everywhere(
    gateway: Gateway, clip: bytes, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check the id in the response, in the log, and in the requests to the server."""
    sent: list[str | None] = []
    infer = AsyncEmotionClient.analyze

    async def recorded(self: AsyncEmotionClient, *utterance: Any, request_id: str | None = None, **options: Any) -> Any:
        sent.append(request_id)
        return await infer(self, *utterance, request_id=request_id, **options)

    monkeypatch.setattr(AsyncEmotionClient, "analyze", recorded)
    with gateway() as address:
        response = analyze(address, clip, "words", headers={"X-Request-ID": "order-66"})
        rejected = analyze(address, b"not audio", headers={"X-Request-ID": "order-67"})
    assert response.headers["X-Request-ID"] == "order-66"
    assert rejected.headers["X-Request-ID"] == "order-67"
    windows = [f"order-66.{number}" for number in range(1, len(response.json()["timeline"]) + 1)]
    assert sorted(map(str, sent)) == ["order-66", *windows]
    first, second = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert (first["request_id"], first["status"], first["outcome"]) == ("order-66", 200, "answered")
    assert (second["request_id"], second["status"], second["outcome"]) == ("order-67", 400, "unusable")
    assert first["received_bytes"] > len(clip) and first["ms"] > 0
    assert first["method"] == "POST" and first["path"] == "/api/analyze"
    assert "127.0.0.1" not in str(first)


def test_unexpected_error_has_the_request_id_in_response_and_log(
    gateway: Gateway, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr("web.gateway.analysis.analyze", broken)
    with gateway() as address:
        response = analyze(address, text="words", headers={"X-Request-ID": "order-68"})
        assert httpx.get(f"{address}/api/nowhere").status_code == 404
    problem(response, 500, "fault")
    assert response.headers["X-Request-ID"] == "order-68"
    entries = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(entry["status"], entry["outcome"]) for entry in entries] == [(500, "fault"), (404, "not_served")]
    assert entries[0]["request_id"] == "order-68"


def test_request_log_can_be_disabled_on_the_command_line() -> None:
    assert CliApp.run(Settings, cli_args=[]).request_log
    assert not CliApp.run(Settings, cli_args=["--no-request-log"]).request_log


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", 'quote"', "ümlaut".encode()])
def test_invalid_request_id_is_replaced(address: str, given: str | bytes) -> None:
    headers = {b"X-Request-ID": given if isinstance(given, bytes) else given.encode()}
    found = [httpx.get(f"{address}/api/health", headers=headers).headers["X-Request-ID"] for _ in range(2)]
    assert len(set(found)) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in found)


def test_request_log_includes_rejected_requests_and_can_be_disabled(
    gateway: Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    with gateway(api_key="secret") as address:
        analyze(address, text="words")
    (entry,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert (entry["status"], entry["outcome"]) == (401, "key")
    with gateway(request_log=False) as address:
        assert "X-Request-ID" in analyze(address, text="words").headers
    assert capfd.readouterr().out == ""


def test_shutdown_waits_for_a_running_analysis(gateway: Gateway, clip: bytes) -> None:
    found: list[httpx.Response] = []
    with gateway() as address:
        thread = threading.Thread(target=lambda: found.append(analyze(address, clip)))
        thread.start()
        time.sleep(0.2)
    thread.join()
    assert found[0].status_code == 200
