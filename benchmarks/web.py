"""`python -m benchmarks web`: what people who open the page wait for, and what many of them at once do to it.

Triton with speech recognition and the gateway are started for it, as `make web` does; requests go over HTTP, as from a
browser. Word errors are counted over the example recordings.
"""

import argparse
import asyncio
import csv
import io
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import jiwer
import numpy as np
import psutil
import soundfile
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.sampling import Sampler
from emotion import decoding
from emotion.audio import SAMPLE_RATE
from serving import Triton
from serving.triton import free_ports

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "examples" / "speech"
SECONDS = 3.0  # of the recording whose latency is taken
REPEATS = 20
TIMEOUT = 60.0  # s
PAUSE = (0.0, 2.0)  # s that a person takes before the next analysis
TYPED = 0.25  # share of analyses
WORDS = jiwer.Compose(
    [
        jiwer.ToLowerCase(),
        jiwer.RemovePunctuation(),
        jiwer.RemoveMultipleSpaces(),
        jiwer.Strip(),
        jiwer.ReduceToListOfListOfWords(),
    ]
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks web`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument("--people", type=int, default=8, metavar="N", help="at once (default: 8)")
    parser.add_argument("--minutes", type=float, default=2.0, metavar="N", help="that they stay (default: 2)")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print.

    Returns:
        0, or 1 where somebody got an error other than "busy".
    """
    with (SPEECH / "transcripts.tsv").open(newline="") as file:
        sentences = dict(csv.reader(file, delimiter="\t"))
    recordings = {name: (SPEECH / name).read_bytes() for name in sentences}
    console = Console(stderr=True)
    with (
        Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0, speech=True) as triton,
        _gateway(triton) as (address, process),
        httpx.Client(base_url=address, timeout=TIMEOUT) as client,
    ):
        with console.status("word errors"):
            heard = [_analyze(client, {"audio": data})["transcript"] for data in recordings.values()]
        errors = word_error_rate(list(sentences.values()), heard)
        print(f"word error rate: {errors:.1%} over {len(heard)} recordings")
        first = decoding.decode(next(iter(recordings.values())))[: int(SECONDS * SAMPLE_RATE)]
        with console.status("one at a time"):
            spoken = _latencies(client, {"audio": _flac(first)})
            typed = _latencies(client, {"text": next(iter(sentences.values()))})
        print(
            f"speech of {SECONDS:g} s to answer: median {median(spoken):.2f} s, longest {max(spoken):.2f} s ({REPEATS})"
        )
        print(
            f"typed text to answer: median {1e3 * median(typed):.0f} ms, longest {1e3 * max(typed):.0f} ms ({REPEATS})"
        )
        with console.status(f"{arguments.people} people for {arguments.minutes:g} minutes"), Sampler(triton) as sampler:
            crowd = _crowd(address, process.pid, list(recordings.values()), list(sentences.values()), arguments)
            outcomes, waits, gateway_memory = asyncio.run(crowd)
    timeline = [row["rss_mib"] for row in sampler.result.timeline]
    print(f"{arguments.people} people for {arguments.minutes:g} minutes: {dict(outcomes)}")
    print(
        f"answers after: median {median(waits):.1f} s, p99 {np.percentile(waits, 99):.1f} s, longest {max(waits):.1f} s"
    )
    for name, memory in (("Triton", timeline), ("gateway", gateway_memory)):
        quarter = max(1, len(memory) // 4)
        early, late = median(memory[quarter : 2 * quarter]), median(memory[-quarter:])
        print(f"memory of {name}: median {early:.0f} MiB in the second quarter, {late:.0f} MiB in the last")
    return int(bool(set(outcomes) - {"answered", "busy"}))


def word_error_rate(sentences: list[str], heard: list[str]) -> float:
    """Of all sentences together, without case and punctuation."""
    return float(jiwer.wer(sentences, heard, reference_transform=WORDS, hypothesis_transform=WORDS))


@contextmanager
def _gateway(triton: Triton) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_ports("127.0.0.1", {"gateway": 0})["gateway"]
    command = [sys.executable, "-m", "web.gateway", "--port", str(port), "--endpoints", f'["{triton.grpc_url}"]']
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if httpx.get(f"{address}/api/health").is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield address, process
    finally:
        process.terminate()
        process.wait()


def _analyze(client: httpx.Client, fields: dict[str, str | bytes]) -> dict[str, str]:
    files = {name: (None if isinstance(value, str) else "recording", value) for name, value in fields.items()}
    return dict(client.post("/api/analyze", files=files).raise_for_status().json())


def _latencies(client: httpx.Client, fields: dict[str, str | bytes]) -> list[float]:
    found = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        _analyze(client, fields)
        found.append(time.perf_counter() - start)
    return found[1:]


async def _crowd(
    address: str, gateway: int, recordings: list[bytes], sentences: list[str], arguments: argparse.Namespace
) -> tuple[Counter[str], list[float], list[float]]:
    """How many answers and failures of each kind; what answers took, in s; the gateway's resident memory, in MiB."""
    outcomes: Counter[str] = Counter()
    waits: list[float] = []
    memory: list[float] = []
    end = time.monotonic() + 60 * arguments.minutes

    async def person(number: int) -> None:
        chance = random.Random(number)
        async with httpx.AsyncClient(base_url=address, timeout=TIMEOUT) as client:
            while time.monotonic() < end:
                typed = chance.random() < TYPED
                part = (
                    ("text", (None, chance.choice(sentences))) if typed else ("audio", ("a", chance.choice(recordings)))
                )
                start = time.perf_counter()
                answer = await client.post("/api/analyze", files=[part])
                outcomes["answered" if answer.is_success else answer.json()["code"]] += 1
                if answer.is_success:
                    waits.append(time.perf_counter() - start)
                await asyncio.sleep(chance.uniform(*PAUSE))

    async def watch() -> None:
        process = psutil.Process(gateway)
        while time.monotonic() < end:
            memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *map(person, range(arguments.people)))
    return outcomes, waits, memory


def _flac(waveform: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, SAMPLE_RATE, format="FLAC")
    return buffer.getvalue()
