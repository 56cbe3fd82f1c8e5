"""Test the example programs by running them unchanged."""

import base64
import json
import re
import signal
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from emotion_client import EMOTIONS, EmotionClient

from emotion import decoding
from tests.clients.conftest import DEAD

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "clients" / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable if name.endswith(".py") else "bash", EXAMPLES / name, *arguments]
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True, timeout=60).stdout


def test_grpc_and_http_examples_agree_with_the_client(server: Any, clips: dict[Path, str]) -> None:
    clip, text = next(iter(clips.items()))
    with EmotionClient(server.grpc_url) as client:
        expected = client.analyze(clip, text)
    shown = {name: f"{value:.1%}" for name, value in expected.probabilities.items()}
    grpc = run("grpc_sync.py", clip, "--text", text, "--endpoint", server.grpc_url)
    http = run("http_sync.py", clip, "--text", text, "--endpoint", server.http_url)
    confidence = f"{expected.confidence:.1%}"
    assert dict(line.split() for line in grpc.splitlines()) == {**shown, "confidence": confidence}
    assert grpc.split()[0] == expected.label
    assert dict(line.split() for line in http.splitlines()[:5]) == shown
    assert http.splitlines()[5].split() == ["confidence", confidence]
    assert expected.checkpoint in http.splitlines()[6]


def test_models_alone_example_agrees_with_the_ensemble(server: Any, clips: dict[Path, str]) -> None:
    clip, text = next(iter(clips.items()))
    with EmotionClient(server.grpc_url) as client:
        expected = client.analyze(clip, text)
    vggish, bert, *rows = run("models_alone.py", clip, "--text", text, "--endpoint", server.grpc_url).splitlines()
    assert re.fullmatch(r"vggish: [1-9]\d* patches used, 128 numbers", vggish)
    assert re.fullmatch(r"bert: [1-9]\d* tokens used, 256 numbers", bert)
    assert dict(row.split() for row in rows) == {name: f"{value:.1%}" for name, value in expected.probabilities.items()}


def test_models_alone_example_accepts_an_absent_modality(server: Any, clips: dict[Path, str]) -> None:
    vggish, *_ = run("models_alone.py", "--text", "We won!", "--endpoint", server.grpc_url).splitlines()
    assert vggish == "vggish: 0 patches used, 128 numbers"
    _, bert, *_ = run("models_alone.py", next(iter(clips)), "--endpoint", server.grpc_url).splitlines()
    assert bert == "bert: 0 tokens used, 256 numbers"


def test_perf_analyzer_input_has_length_prefixes(clips: dict[Path, str]) -> None:
    clip, text = next(iter(clips.items()))
    (row,) = json.loads(run("perf_analyzer_input.py", clip, "--text", text))["data"]
    for name, expected in (("AUDIO", clip.read_bytes()), ("TEXT", text.encode())):
        data = base64.b64decode(row[name]["b64"])
        assert struct.unpack("<I", data[:4]) == (len(expected),) and data[4:] == expected
        assert row[name]["shape"] == [1]


def test_snippets_of_the_architecture_page_print_the_documented_output(server: Any) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    documented = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    program = "".join(snippets).replace("localhost:8001", server.grpc_url)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "".join(documented)


def test_async_example_answers_every_file(server: Any, clips: dict[Path, str]) -> None:
    lines = run("grpc_async.py", *clips, "--endpoint", server.grpc_url).splitlines()
    assert [line.split(": ")[0] for line in lines] == [clip.name for clip in clips]
    assert all(line.split()[1] in EMOTIONS for line in lines)


def test_batch_example_answers_every_line(server: Any) -> None:
    lines = run("batch.py", "--endpoint", server.grpc_url).splitlines()
    assert len(lines) == 8
    assert all(line.split()[0] in EMOTIONS for line in lines)


def test_health_example_reports_the_state(server: Any) -> None:
    output = run("health.sh", server.http_url)
    for part in ("live: yes", "ready: yes", "model ready: yes", "AUDIO_PROBABILITIES"):
        assert part in output
    dead = subprocess.run(["bash", str(EXAMPLES / "health.sh"), "127.0.0.1:1"], capture_output=True, text=True)
    assert dead.returncode == 1
    assert dead.stderr.startswith("live: no")


def test_microphone_example_prints_voice_utterance_and_answer(server: Any, clips: dict[Path, str]) -> None:
    waveform = decoding.decode(next(iter(clips)).read_bytes())
    command = [sys.executable, str(EXAMPLES / "microphone.py"), "--endpoint", server.grpc_url]
    samples = (waveform * 32767).astype("<i2").tobytes()
    done = subprocess.run(command, input=samples, capture_output=True, timeout=60, check=True)
    *events, end = done.stdout.decode().splitlines()  # an update may follow the utterance
    assert any(re.match(r" +\d\.\d to \d\.\d s  \w+ \d+\.\d%", event) for event in events)
    with EmotionClient(server.grpc_url) as client:
        expected = client.analyze(np.frombuffer(samples, "<i2"), rate=16_000)
    label = expected.label
    assert end == f"all {len(waveform) / 16_000:.1f} s  {label} {expected.probabilities[label]:.1%}"


def test_microphone_example_without_a_server_ends_with_one_sentence() -> None:
    command = [sys.executable, str(EXAMPLES / "microphone.py"), "--endpoint", DEAD]
    done = subprocess.run(command, input=bytes(3_200), capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: no server could be reached at {DEAD}: [^\n]+\n", done.stderr.decode())


def test_microphone_example_ends_at_ctrl_c_while_the_microphone_is_silent(server: Any) -> None:
    command = [sys.executable, "-u", str(EXAMPLES / "microphone.py"), "--endpoint", server.grpc_url]
    pipe = subprocess.PIPE
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # ignored if the tests run in the background
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=heed) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(bytes(32_000))
        process.stdin.flush()
        assert process.stdout.readline().endswith(b"no sound\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
