"""`python -m benchmarks soak`: a constant load for a while, and whether the server's memory grows."""

import argparse
from pathlib import Path
from statistics import median

from rich.console import Console

from benchmarks import load
from benchmarks.errors import BenchmarkError
from benchmarks.sampling import Sampler
from serving import Triton

USERS = 32
CAPACITY_REQUESTS = 160  # that tell what the server can answer
SETTLING = 120.0  # s after which memory should stay what it is
WINDOW = 60.0  # s over which memory is compared: it goes up and down with every batch
ALLOWED_GROWTH = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks soak`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="default: 10")
    parser.add_argument("--share", type=float, default=0.8, metavar="X", help="of what it can answer (default: 0.8)")
    parser.add_argument("--config", metavar="NAME", help="configuration to serve (int8)")


def run(arguments: argparse.Namespace) -> int:
    """Load with Poisson arrivals; print what memory did.

    Returns:
        0, or 1 where memory grew by more than 2 % after the first two minutes, or a request failed.
    """
    seconds = 60 * arguments.minutes
    if seconds < SETTLING + 2 * WINDOW:
        raise BenchmarkError(f"--minutes is {arguments.minutes:g}; memory is judged after 2 minutes, so give 4 or more")
    tokenizer = arguments.repository / "preprocess_text" / "1" / "tokenizer.json"
    console = Console(stderr=True)
    with Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0, config=arguments.config) as triton:
        host = f"grpc://{triton.grpc_url}"
        capacity = load.run(host, tokenizer, users=USERS, requests=CAPACITY_REQUESTS).throughput
        rate = arguments.share * capacity
        with console.status(f"{rate:.1f} utterances/s for {arguments.minutes:g} minutes"), Sampler(triton) as sampler:
            found = load.run(host, tokenizer, seconds=seconds, rate=rate)
    timeline = sampler.result.timeline
    end = timeline[-1]["seconds"]
    early = [row["rss_mib"] for row in timeline if SETTLING < row["seconds"] <= SETTLING + WINDOW]
    late = [row["rss_mib"] for row in timeline if row["seconds"] > end - WINDOW]
    peak = max(row["rss_mib"] for row in timeline)
    growth = median(late) / median(early) - 1
    failed = sum(found.failures.values())
    print(f"{len(found.failure)} requests at {rate:.1f}/s ({arguments.share:.0%} of {capacity:.1f}/s), {failed} failed")
    print(f"latency: p50 {found.percentile(50):.0f} ms, p99 {found.percentile(99):.0f} ms")
    print(
        f"memory: median {median(early):.0f} MiB in minute 3, {median(late):.0f} MiB in the last ({growth:+.1%}), "
        f"peak {peak:.0f} MiB"
    )
    return int(failed > 0 or growth > ALLOWED_GROWTH)
