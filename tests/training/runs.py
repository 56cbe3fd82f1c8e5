"""Helpers for tests of training runs: small corpora, and functions that run `python -m training`."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from emotion.audio import SAMPLE_RATE
from emotion.labels import EMOTIONS

ROOT = Path(__file__).parents[2]
TIMEOUT = 400  # s
THREADS = 2  # torch threads: the same in every run, so that results are equal bit for bit
COLUMNS = "200"  # terminal width in characters
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.narrow", "training.__main__"])
SENTENCES = {
    "neutral": "Please put the form on the {} desk.",
    "frustration": "Why do I still have to wait for the {} bus?",
    "anger": "Get out and take your {} lies with you!",
    "sadness": "I cried for her all through the {} night.",
    "excitement": "Wow, we won the {} prize, I can't wait!",
}
WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def tone(hertz: float, seconds: float, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a sine with a little noise, float32 [n] at 16 kHz."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).standard_normal(time.size)
    return (0.3 * np.sin(2 * np.pi * hertz * time) + 0.01 * noise).astype(np.float32)


def write_manifest(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write a JSONL manifest and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def text_rows(per_class: int = 10) -> list[dict[str, str]]:
    """Return rows whose text determines the emotion."""
    return [
        {"id": f"{emotion}-{word}", "text": SENTENCES[emotion].format(word), "emotion": emotion}
        for emotion in EMOTIONS
        for word in WORDS[:per_class]
    ]


def add_tones(rows: list[dict[str, str]], directory: Path, seconds: float = 1.0) -> list[dict[str, str]]:
    """Add a recording to each row, with one pitch for each emotion, and return the rows."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        name = f"{row['id']}.wav"
        waveform = tone(200 * 1.6 ** EMOTIONS.index(row["emotion"]) + number, seconds, number)
        soundfile.write(directory / name, waveform, SAMPLE_RATE, subtype="PCM_16")
        row["audio"] = name
    return rows


def start(*arguments: str | Path, program: Sequence[str] = ("-m", "training")) -> "subprocess.Popen[str]":
    """Start `python -m training ...` as a user does.

    Args:
        program: Python's first arguments; narrow_program("training") for a checkpoint with a narrow VGGish.
    """
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(THREADS), "COLUMNS": COLUMNS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run `python -m training ...` to its end, and return its exit status and output."""
    process = start(*arguments)
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def forked(
    *arguments: str | Path, code: str | None = None, largest_file: int | None = None, narrow: bool = True
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m training ...` in a forked process that has everything imported, and return its exit status.

    Importing takes most of a small run's time.

    Args:
        code: run before the command in its process, to cause a fault at a chosen moment.
        largest_file: bytes; a longer file fails as if the disk were full, with "File too large".
        narrow: whether VGGish is narrow, as in `small_checkpoint`.
    """
    with tempfile.TemporaryDirectory(prefix="emoserve-") as directory:
        output, errors = Path(directory, "output"), Path(directory, "errors")
        process = FORKS.Process(
            target=_run, args=(list(map(str, arguments)), code, largest_file, narrow, output, errors)
        )
        process.start()
        try:
            process.join(TIMEOUT)
            assert process.exitcode is not None, f"still running after {TIMEOUT} s"
        finally:
            process.kill()
            process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode, output.read_text(), errors.read_text())


def _run(
    arguments: list[str], code: str | None, largest_file: int | None, narrow: bool, output: Path, errors: Path
) -> None:
    """Run the command in the forked process."""
    import torch  # not at the top: the forked process has it imported already

    from tests.narrow import narrow_vggish
    from training.__main__ import main

    for descriptor, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(ROOT)
    os.environ["COLUMNS"] = COLUMNS
    torch.set_num_threads(THREADS)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    exec(code or "", {})
    with narrow_vggish() if narrow else nullcontext():
        sys.exit(main(arguments))


def error_of(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the message of a failed command, after checking that it prints one error line and no traceback."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("error: ")
