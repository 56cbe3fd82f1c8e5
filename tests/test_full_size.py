"""The full size, bert-base (110 M parameters) and VGGish (72 M), with the same commands: `make test-full-size`.

The test prints its measurements: the start time, and the resident memory of all processes before and after load.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from emotion_client import EmotionClient, EmotionResult, Utterance

from serving import Triton

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "examples" / "speech"

pytestmark = pytest.mark.full_size


def resident_mib(group: int) -> int:
    """Return the resident memory of a process group in MiB; shared pages count once for each process."""
    kib = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                lines = (process / "status").read_text().splitlines()
                kib += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        except (ProcessLookupError, FileNotFoundError):
            continue  # the process has ended
    return kib // 1024


def test_full_size_starts_and_answers_within_limits(
    tmp_path: Path, transcripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, repository = tmp_path / "checkpoint", tmp_path / "model_repository"
    for command in (
        ("-m", "emotion.checkpoint", "new", checkpoint, "--text-encoder", "random:bert-base"),
        ("-m", "export", checkpoint, "--repository", repository),
    ):
        subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True, timeout=900)

    started = time.monotonic()
    with Triton(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
        seconds = time.monotonic() - started
        at_rest = resident_mib(server.pid)
        utterances = [Utterance(SPEECH / name, sentence) for name, sentence in transcripts.items()] * 20
        with EmotionClient(server.grpc_url) as client:
            short = SPEECH / "austen-0880.flac"
            one_by_one = [client.analyze(short, transcripts[short.name]) for _ in range(30)]
            began = time.monotonic()
            answers = client.analyze_many(utterances, concurrency=32)
            throughput = len(answers) / (time.monotonic() - began)
        after_load = resident_mib(server.pid)

    with capsys.disabled():
        latency = statistics.median(answer.timings.request for answer in one_by_one)
        print(f"\nstart to ready: {seconds:.1f} s")
        print(f"resident memory of all processes: {at_rest} MiB at rest, {after_load} MiB after load")
        print(f"3.0 s of speech and 12 tokens, one at a time: median {latency:.0f} ms of {len(one_by_one)}")
        print(f"4.9 s of speech and 19 tokens (means), 32 at a time: {throughput:.1f} utterances/s")
    assert all(isinstance(answer, EmotionResult) for answer in answers)
    assert seconds < 30
    assert max(at_rest, after_load) < 3 * 1024
