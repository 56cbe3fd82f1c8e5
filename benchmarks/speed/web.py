"""`python -m benchmarks web`: how long people wait on the page, and what many of them at once do to it.

Triton with speech recognition and the gateway are started as `make web` does; requests go over HTTP, as from a browser.
Word errors are counted over the example recordings.
"""

import argparse
import asyncio
import csv
import io
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import jiwer
import numpy as np
import psutil
import soundfile
from rich.console import Console

from benchmarks.load.sampling import MIB, resource_usage
from benchmarks.processes import HOST, ROOT, free_port, http_ready, running
from emotion import decoding
from emotion.audio import SAMPLE_RATE
from serving import Triton

SPEECH = ROOT / "examples" / "speech"
SECONDS = 3.0  # of the recording whose latency is measured
REPEATS = 20
TIMEOUT_S = 60.0
PAUSE_S = (0.0, 2.0)  # of a person before the next analysis
TYPED_SHARE = 0.25  # of the analyses
WORDS = jiwer.Compose(
    [
        jiwer.ToLowerCase(),
        jiwer.RemovePunctuation(),
        jiwer.RemoveMultipleSpaces(),
        jiwer.Strip(),
        jiwer.ReduceToListOfListOfWords(),
    ]
)
Part = tuple[str, tuple[str | None, str | bytes]]  # of a form: name, (file name, content)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m benchmarks web`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument("--people", type=int, default=8, metavar="N", help="people at once (default: 8)")
    parser.add_argument("--minutes", type=float, default=2.0, metavar="N", help="duration of their visit (default: 2)")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 if anybody got an error other than "busy", else 0."""
    with (SPEECH / "transcripts.tsv").open(newline="") as file:
        sentences = dict(csv.reader(file, delimiter="\t"))
    recordings = [(SPEECH / name).read_bytes() for name in sentences]
    texts = list(sentences.values())
    console = Console(stderr=True)
    with served_page(arguments.repository) as page, httpx.Client(base_url=page.address, timeout=TIMEOUT_S) as client:
        with console.status("word errors"):
            heard = [_analyze(client, ("audio", ("a", data)))["transcript"] for data in recordings]
        print(f"word error rate: {word_error_rate(texts, heard):.1%} over {len(heard)} recordings")
        flac = io.BytesIO()
        cut = decoding.decode(recordings[0])[: int(SECONDS * SAMPLE_RATE)]
        soundfile.write(flac, cut, SAMPLE_RATE, format="FLAC")
        with console.status("one at a time"):
            spoken = _latencies(client, ("audio", ("a", flac.getvalue())))
            typed = _latencies(client, ("text", (None, texts[0])))
        for what, times in ((f"speech of {SECONDS:g} s", spoken), ("typed text", typed)):
            middle, longest = 1e3 * median(times), 1e3 * max(times)
            print(f"{what} to answer: median {middle:.0f} ms, longest {longest:.0f} ms ({REPEATS})")
        what = f"{arguments.people} people for {arguments.minutes:g} minutes"
        with console.status(what):
            outcomes, waits, memory = asyncio.run(_people(page, recordings, texts, arguments))
    print(f"{what}: {dict(outcomes)}")
    print(
        f"answers after: median {median(waits):.1f} s, p99 {np.percentile(waits, 99):.1f} s, longest {max(waits):.1f} s"
    )
    quarter = max(1, len(memory) // 4)
    for name, mib in zip(("Triton", "gateway"), zip(*memory, strict=True), strict=True):
        early, late = median(mib[quarter : 2 * quarter]), median(mib[-quarter:])
        print(f"memory of {name}: median {early:.0f} MiB in the second quarter, {late:.0f} MiB in the last")
    return int(bool(set(outcomes) - {"answered", "busy"}))


class Page:
    """Triton with speech recognition, and the gateway in front of it."""

    def __init__(self, address: str, triton: int, gateway: int) -> None:
        """Describe them.

        Args:
            address: the gateway's address, http://HOST:PORT.
            triton, gateway: their process IDs.
        """
        self.address, self._triton, self._gateway = address, triton, gateway

    def memory(self) -> tuple[float, float]:
        """Return the MiB of Triton (PSS of its processes) and of the gateway (RSS)."""
        return resource_usage(self._triton).pss_mib, psutil.Process(self._gateway).memory_info().rss / MIB


@contextmanager
def served_page(repository: Path) -> Iterator[Page]:
    """Run Triton and the gateway, as `make web` does, while the block runs."""
    address = f"http://{HOST}:{free_port()}"
    with Triton(repository, http_port=0, grpc_port=0, metrics_port=0, speech=True) as triton:
        command = [sys.executable, "-m", "web.gateway", "--port", address.rpartition(":")[2], "--metrics-port", "0"]
        command += ["--endpoints", f'["{triton.grpc_url}"]', "--no-request-log"]
        with running("the gateway", command, http_ready(f"{address}/api/health"), os.environ) as process:
            yield Page(address, triton.pid, process.pid)


def word_error_rate(sentences: list[str], heard: list[str]) -> float:
    """Return the word error rate over all sentences, without case and punctuation."""
    return float(jiwer.wer(sentences, heard, reference_transform=WORDS, hypothesis_transform=WORDS))


def _analyze(client: httpx.Client, part: Part) -> Mapping[str, str]:
    return dict(client.post("/api/analyze", files=[part]).raise_for_status().json())


def _latencies(client: httpx.Client, part: Part) -> list[float]:
    """Return the s of REPEATS analyses after one that is not counted."""
    found = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        _analyze(client, part)
        found.append(time.perf_counter() - start)
    return found[1:]


async def _people(
    page: Page, recordings: Sequence[bytes], sentences: Sequence[str], arguments: argparse.Namespace
) -> tuple[Counter[str], list[float], list[tuple[float, float]]]:
    """Return outcomes by kind, the s of each answer, and the MiB of Triton and the gateway every 5 s."""
    outcomes: Counter[str] = Counter()
    waits: list[float] = []
    memory: list[tuple[float, float]] = []
    end = time.monotonic() + 60 * arguments.minutes

    async def person(number: int) -> None:
        chance = random.Random(number)
        async with httpx.AsyncClient(base_url=page.address, timeout=TIMEOUT_S) as client:
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

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(page.memory())
            await asyncio.sleep(5)

    await asyncio.gather(watch(), *map(person, range(arguments.people)))
    return outcomes, waits, memory
