"""`python -m benchmarks soak`: a constant load for a while, and whether anything that the server holds grows.

First comes a batch of the longest utterances, since stages keep the memory of their largest batch; then an open loop
with mixed ones. What is measured after a settling time is judged: medians of its last third against its first.
"""

import argparse
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite, nan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import load, plots
from benchmarks.errors import BenchmarkError
from benchmarks.load import Load
from benchmarks.sampling import Holdings, holdings
from benchmarks.workload import DURATIONS, MOST_TOKENS, tokenizer_file
from serving import Triton

USERS = 32
CAPACITY_REQUESTS = 160  # that tell what the server can answer
LONGEST = (max(DURATIONS.values()), MOST_TOKENS)  # s and tokens of the utterances that come first
SHORTEST = 4.0  # minutes: over less, noise would decide
SETTLING = 0.2  # of the time; after it everything should stay what it is
INTERVAL = 2.0  # s from one look to the next
MEMORY = 1.01  # that the last third may have, times the first
LATENCY = 1.5  # the same: machines have other things to do, which at this load makes queues
DESCRIPTORS = 2  # more than in the first third: connections are renewed every 20 s


@dataclass(frozen=True)
class Figure:
    """A figure in the first and the last third, and the most that the last may be; infinite where it is not judged."""

    name: str
    first: float
    last: float
    most: float = inf

    @property
    def broken(self) -> bool:
        """Whether it is more than it may be, or unknown."""
        return not self.last <= self.most

    def __str__(self) -> str:
        bound = f"  at most {self.most:.1f}" if isfinite(self.most) else ""
        return f"{self.name:<24}{self.first:10.1f}{self.last:10.1f}{self.last / self.first - 1:+9.1%}{bound}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks soak`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument("--minutes", type=float, default=30.0, metavar="N", help="default: 30")
    parser.add_argument("--share", type=float, default=0.8, metavar="X", help="of what it can answer (default: 0.8)")
    parser.add_argument("--config", metavar="NAME", help="configuration to serve (int8)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save a picture, as PNG or SVG")


def run(arguments: argparse.Namespace) -> int:
    """Load with Poisson arrivals; print what became of everything, and the verdict.

    Returns:
        0; 1 where a request failed or something grew; 130 where it was interrupted.
    """
    minutes: float = arguments.minutes
    if minutes < SHORTEST:
        raise BenchmarkError(f"--minutes is {minutes:g}; noise would decide over so little: give {SHORTEST:g} or more")
    tokenizer = tokenizer_file(arguments.repository)
    console = Console(stderr=True)
    held: list[Holdings] = []
    found: Load | None = None
    try:
        with Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0, config=arguments.config) as triton:
            host = f"grpc://{triton.grpc_url}"
            with console.status("a large batch, and what it can answer"):
                load.run(host, tokenizer, users=2 * USERS, requests=2 * USERS, uniform=LONGEST)
                capacity = load.run(host, tokenizer, users=USERS, requests=CAPACITY_REQUESTS).throughput
            rate = arguments.share * capacity
            print(
                f"{rate:.1f} utterances/s ({arguments.share:.0%} of {capacity:.1f}/s) for {minutes:g} minutes",
                flush=True,
            )
            with _watching(triton.pid, 60 * minutes, held, console):
                found = load.run(host, tokenizer, seconds=60 * minutes, rate=rate)
    except KeyboardInterrupt:
        if len(held) * INTERVAL < 60 * SHORTEST:
            print("interrupted, too early to judge anything")
            return 130
    begin, end = (found.start[0], found.start[-1]) if found else (held[0].time, held[-1].time)
    judged = begin + SETTLING * (end - begin)
    figures = compare(held, found, judged, end)
    broken = complaints(figures, found)
    print(f"first and last third of minutes {(judged - begin) / 60:.1f} to {(end - begin) / 60:.1f}, medians:")
    print(*figures, sep="\n")
    if arguments.plot:
        plots.save(plots.soak(held, found, begin, judged), arguments.plot)
        print(f"plot: {arguments.plot}")
    if not found:
        print(f"interrupted, so that requests are not judged; {'; '.join(broken) or 'until then nothing grew'}")
        return 130
    if broken:
        print(f"FAIL: {'; '.join(broken)}")
        return 1
    print(f"PASS: all of {len(found.failure)} requests were answered, and nothing grew beyond its bound")
    return 0


def compare(held: Sequence[Holdings], found: Load | None, begin: float, end: float) -> list[Figure]:
    """The first third of the time from `begin` to `end` against the last."""
    third = (end - begin) / 3

    def within(moments: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        return (begin <= moments) & (moments < begin + third), (end - third < moments) & (moments <= end)

    def medians(name: str) -> tuple[float, float]:
        values = np.array([getattr(one, name) for one in held])
        first, last = within(np.array([one.time for one in held]))
        return _percentile(values[first], 50), _percentile(values[last], 50)

    memory, descriptors, threads, regions = map(medians, ("uss_mib", "descriptors", "threads", "region_mib"))
    figures = [
        Figure("memory (USS), MiB", *memory, MEMORY * memory[0]),
        Figure("memory (PSS), MiB", *medians("pss_mib")),
        Figure("descriptors", *descriptors, descriptors[0] + DESCRIPTORS),
        Figure("threads", *threads, threads[0]),
        Figure("shared memory, MiB", *regions, regions[0]),
    ]
    if found:
        first, last = (found.latency[some & found.answered] for some in within(found.start))
        median = _percentile(first, 50)
        figures += [
            Figure("latency, median, ms", median, _percentile(last, 50), LATENCY * median),
            Figure("latency, p99, ms", _percentile(first, 99), _percentile(last, 99)),
        ]
    return figures


def complaints(figures: Sequence[Figure], found: Load | None) -> list[str]:
    """What broke, a phrase each."""
    said = [
        f"{one.name}: {one.last:.1f} after {one.first:.1f} (at most {one.most:.1f})" for one in figures if one.broken
    ]
    if found and found.failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.failures.items())
        said.insert(0, f"{found.failures.total()} of {len(found.failure)} requests failed ({kinds})")
    return said


@contextmanager
def _watching(leader: int, seconds: float, held: list[Holdings], console: Console) -> Iterator[None]:
    """Look at a server every two seconds while the block runs, and show how long that still is."""
    ended = threading.Event()
    columns = (TextColumn("load"), BarColumn(), TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())

    def watch() -> None:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("load", total=seconds)
            while not ended.wait(INTERVAL):
                try:
                    held.append(holdings(leader))
                except BenchmarkError:  # its requests tell
                    return
                progress.update(task, completed=held[-1].time - held[0].time)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _percentile(values: NDArray[np.float64], percent: float) -> float:
    return float(np.percentile(values, percent)) if values.size else nan
