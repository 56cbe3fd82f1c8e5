"""What the tests of runs share: small corpora of one's own, and the command as a user gives it."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from emotion.audio import SAMPLE_RATE
from emotion.labels import EMOTIONS

ROOT = Path(__file__).parents[2]
SENTENCES = {
    "neutral": "Please put the form on the {} desk.",
    "frustration": "Why do I still have to wait for the {} bus?",
    "anger": "Get out and take your {} lies with you!",
    "sadness": "I cried for her all through the {} night.",
    "excitement": "Wow, we won the {} prize, I can't wait!",
}
WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def tone(hertz: float, seconds: float, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A hum with a little noise, float32 [n] at 16 kHz."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).standard_normal(time.size)
    return (0.3 * np.sin(2 * np.pi * hertz * time) + 0.01 * noise).astype(np.float32)


def write_manifest(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """A JSONL manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def text_rows(per_class: int = 10) -> list[dict[str, str]]:
    """Rows whose emotion can be read."""
    return [
        {"id": f"{emotion}-{word}", "text": SENTENCES[emotion].format(word), "emotion": emotion}
        for emotion in EMOTIONS
        for word in WORDS[:per_class]
    ]


def add_tones(rows: list[dict[str, str]], directory: Path, seconds: float = 1.0) -> list[dict[str, str]]:
    """The same rows with audio: a pitch for each emotion."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        name = f"{row['id']}.wav"
        waveform = tone(200 * 1.6 ** EMOTIONS.index(row["emotion"]) + number, seconds, number)
        soundfile.write(directory / name, waveform, SAMPLE_RATE, subtype="PCM_16")
        row["audio"] = name
    return rows


def start(*arguments: str | Path, code: str | None = None, largest_file: int | None = None) -> "subprocess.Popen[str]":
    """`python -m training ...` in a process of its own.

    Args:
        code: run before the command in its process, to bring a fault about at a chosen moment.
        largest_file: bytes; a longer file fails as if the disk were full, with "File too large".
    """

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests in the background inherit that it is ignored
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    if code is None:
        command = [sys.executable, "-m", "training"]
    else:
        command = [sys.executable, "-c", f"{code}\nimport sys\nfrom training.__main__ import main\nsys.exit(main())"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "2", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def train(
    *arguments: str | Path, code: str | None = None, largest_file: int | None = None
) -> "subprocess.CompletedProcess[str]":
    """The same, to its end."""
    process = start(*arguments, code=code, largest_file=largest_file)
    try:
        output, errors = process.communicate(timeout=400)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def error_of(done: "subprocess.CompletedProcess[str]") -> str:
    """The one sentence of a command that failed, which is all that a user should see of it."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("error: ")
