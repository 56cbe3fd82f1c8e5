"""`python -m benchmarks web`: how long people wait on the page, and what many of them at once do to it.

Triton with speech recognition and the gateway are started as `make web` does; requests go over HTTP, as from a browser.
Word errors are counted over the example recordings.
"""

import argparse
import asyncio
import os
import random
import sys
import time
import timeit
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import jiwer
import numpy as np

from benchmarks import output
from benchmarks.load.workload import encode
from benchmarks.processes import HOST, free_port, http_ready, running
from emotion import decoding
from emotion.audio import SAMPLE_RATE
from export import speech
from serving import Triton

SECONDS = 3.0  # of the recording whose latency is measured
REPEATS = 20
TIMEOUT_S = 60.0
PAUSE_S = (0.0, 2.0)  # of a person before the next analysis
TYPED_SHARE = 0.25  # of the analyses
WORDS = jiwer.Compose([jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.wer_default])
Part = tuple[str, tuple[str | None, str | bytes]]  # of a form: name, (file name, content)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 if anybody got an error other than "busy", else 0."""
    sentences = speech.transcripts()
    recordings, texts = [(speech.SPEECH / name).read_bytes() for name in sentences], list(sentences.values())
    with served_page(arguments.repository) as address, httpx.Client(base_url=address, timeout=TIMEOUT_S) as client:
        with output.console.status("word errors"):
            heard = [analyze(client, ("audio", ("a", data)))["transcript"] for data in recordings]
        print(f"word error rate: {word_error_rate(texts, heard):.1%} over {len(heard)} recordings")
        flac = encode(decoding.decode(recordings[0])[: int(SECONDS * SAMPLE_RATE)], file="FLAC")
        parts: dict[str, Part] = {f"speech of {SECONDS:g} s": ("audio", ("a", flac))}
        for what, part in (parts | {"typed text": ("text", (None, texts[0]))}).items():
            with output.console.status(f"{what}, one at a time"):
                times = timeit.repeat(partial(analyze, client, part), number=1, repeat=REPEATS + 1)[1:]
            middle, longest = 1e3 * median(times), 1e3 * max(times)
            print(f"{what} to answer: median {middle:.0f} ms, longest {longest:.0f} ms ({REPEATS})")
        what = f"{arguments.people} people for {arguments.minutes:g} minutes"
        with output.console.status(what):
            outcomes, waits = asyncio.run(_people(address, recordings, texts, arguments))
    print(f"{what}: {dict(outcomes)}")
    tail = f"p99 {np.percentile(waits, 99):.1f} s, longest {max(waits):.1f} s"
    print(f"answers after: median {median(waits):.1f} s, {tail}")
    return int(bool(set(outcomes) - {"answered", "busy"}))


@contextmanager
def served_page(repository: Path) -> Iterator[str]:
    """Run Triton and the gateway, as `make web` does, while the block runs; yield http://HOST:PORT of the gateway."""
    address = f"http://{HOST}:{free_port()}"
    with Triton(repository, http_port=0, grpc_port=0, metrics_port=0, speech=True) as triton:
        command = [sys.executable, "-m", "web.gateway", "--port", address.rpartition(":")[2], "--metrics-port", "0"]
        command += ["--endpoints", f'["{triton.grpc_url}"]', "--no-request-log"]
        with running("the gateway", command, http_ready(f"{address}/api/health"), os.environ):
            yield address


def word_error_rate(sentences: list[str], heard: list[str]) -> float:
    """Return the word error rate over all sentences, without case and punctuation."""
    return float(jiwer.wer(sentences, heard, reference_transform=WORDS, hypothesis_transform=WORDS))


def analyze(client: httpx.Client, part: Part) -> dict[str, Any]:
    """Return the page's answer to an upload."""
    return dict(client.post("/api/analyze", files=[part]).raise_for_status().json())


async def _people(
    address: str, recordings: Sequence[bytes], sentences: Sequence[str], arguments: argparse.Namespace
) -> tuple[Counter[str], list[float]]:
    """Return outcomes by kind, and the s of each answer."""
    outcomes: Counter[str] = Counter()
    waits: list[float] = []
    end = time.monotonic() + 60 * arguments.minutes

    async def person(number: int) -> None:
        chance = random.Random(number)
        async with httpx.AsyncClient(base_url=address, timeout=TIMEOUT_S) as client:
            while time.monotonic() < end:
                part: Part = ("audio", ("a", chance.choice(recordings)))
                if chance.random() < TYPED_SHARE:
                    part = ("text", (None, chance.choice(sentences)))
                start = time.perf_counter()
                answer = await client.post("/api/analyze", files=[part])
                outcomes["answered" if answer.is_success else answer.json()["code"]] += 1
                if answer.is_success:
                    waits.append(time.perf_counter() - start)
                await asyncio.sleep(chance.uniform(*PAUSE_S))

    await asyncio.gather(*map(person, range(arguments.people)))
    return outcomes, waits
