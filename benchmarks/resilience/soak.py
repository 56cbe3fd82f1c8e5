"""`python -m benchmarks soak`: a constant load, and whether anything that the server holds grows.

A batch of the longest utterances comes first, since stages keep the memory of their largest batch; an open loop of
mixed utterances follows. After a settling time, the medians of the last third are compared with those of the first.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.load import runner
from benchmarks.load.runner import Load, percentile
from benchmarks.load.sampling import ResourceUsage, resource_usage
from benchmarks.load.workload import DURATIONS, MAX_TOKENS, tokenizer_file
from serving import Triton

LARGE_BATCH_USERS = 64
LONGEST = (max(DURATIONS.values()), MAX_TOKENS)  # s and tokens of the first utterances
SHARE = 0.8  # of the capacity
MIN_MINUTES = 4.0  # over less, noise decides
SETTLING_SHARE = 0.2  # of the time
INTERVAL_S = 2.0  # from one reading to the next
MAX_MEMORY_GROWTH = 1.01  # of the last third's memory over the first third's
MAX_LATENCY_GROWTH = 1.5  # likewise; other work on the machine makes queues at this load
MAX_MORE_DESCRIPTORS = 2  # connections are renewed every 20 s
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrendCheck:
    """A figure in the first and the last third, and the bound of the last; infinite if it is only shown."""

    name: str
    first: float
    last: float
    bound: float = inf

    @property
    def violated(self) -> bool:
        """Whether the last value is above its bound, or unknown."""
        return not self.last <= self.bound

    def __str__(self) -> str:
        bound = f"  at most {self.bound:.1f}" if isfinite(self.bound) else ""
        return f"{self.name:<24}{self.first:10.1f}{self.last:10.1f}{self.last / self.first - 1:+9.1%}{bound}"


def run(arguments: argparse.Namespace) -> int:
    """Load with Poisson arrivals and print the verdict, also if the load is interrupted after MIN_MINUTES.

    Returns 0, 1 if a request failed or something grew, or 130 if it was interrupted.
    """
    minutes: float = arguments.minutes
    if minutes < MIN_MINUTES:
        raise BenchmarkError(f"--minutes is {minutes:g}, over which noise decides: give {MIN_MINUTES:g} or more")
    tokenizer = tokenizer_file(arguments.repository)
    usage: list[ResourceUsage] = []
    interrupted = False
    with Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0, config=arguments.config) as triton:
        host = f"grpc://{triton.grpc_url}"
        with output.console.status("a large batch"):
            runner.run(host, tokenizer, users=LARGE_BATCH_USERS, requests=LARGE_BATCH_USERS, uniform=LONGEST)
        capacity = runner.capacity(host, tokenizer)
        rate = SHARE * capacity
        what = f"{rate:.1f} utterances/s ({SHARE:.0%} of {capacity:.1f}/s) for {minutes:g} minutes"
        print(what, flush=True)
        with output.console.status(what), runner.start(host, tokenizer, seconds=60 * minutes, rate=rate) as running:
            began = time.monotonic()
            try:
                while running.is_running():
                    usage.append(resource_usage(triton.pid))
                    time.sleep(INTERVAL_S)
            except KeyboardInterrupt:
                interrupted = True
                if (passed := (time.monotonic() - began) / 60) < MIN_MINUTES:
                    print(f"interrupted after {passed:.1f} minutes; {MIN_MINUTES:g} are needed for a verdict")
                    return 130
            load = running.stop()
    begin, end = load.start[0], load.start[-1]
    settled = begin + SETTLING_SHARE * (end - begin)
    checks = check_usage(usage, settled, end) + check_latency(load, settled, end)
    print(f"first and last third of minutes {(settled - begin) / 60:.1f} to {(end - begin) / 60:.1f}, medians:")
    print(*checks, sep="\n")
    promise = f"all of {len(load.failure)} requests were answered, and nothing grew beyond its bound"
    status = output.verdict(violations(checks, load), promise)
    return 130 if interrupted else status


def check_usage(usage: Sequence[ResourceUsage], begin: float, end: float) -> list[TrendCheck]:
    """Compare what the server held in the first third of the time from `begin` to `end` with the last third."""
    times = np.array([one.time for one in usage])

    def medians(name: str) -> tuple[float, float]:
        first, last = _thirds(np.array([getattr(one, name) for one in usage]), times, begin, end)
        return percentile(first, 50), percentile(last, 50)

    memory, descriptors, threads, regions = map(medians, ("uss_mib", "descriptors", "threads", "region_mib"))
    return [
        TrendCheck("memory (USS), MiB", *memory, MAX_MEMORY_GROWTH * memory[0]),
        TrendCheck("memory (PSS), MiB", *medians("pss_mib")),
        TrendCheck("descriptors", *descriptors, descriptors[0] + MAX_MORE_DESCRIPTORS),
        TrendCheck("threads", *threads, threads[0]),
        TrendCheck("shared memory, MiB", *regions, regions[0]),
    ]


def check_latency(load: Load, begin: float, end: float) -> list[TrendCheck]:
    """Compare the latency of requests that were due in the first third of the time with that in the last."""
    first, last = _thirds(load.latency[load.answered], load.start[load.answered], begin, end)
    median = percentile(first, 50)
    return [
        TrendCheck("latency, median, ms", median, percentile(last, 50), MAX_LATENCY_GROWTH * median),
        TrendCheck("latency, p99, ms", percentile(first, 99), percentile(last, 99)),
    ]


def _thirds(values: Floats, times: Floats, begin: float, end: float) -> tuple[Floats, Floats]:
    """Return the values of the first and of the last third of the time."""
    third = (end - begin) / 3
    return values[(begin <= times) & (times < begin + third)], values[(end - third < times) & (times <= end)]


def violations(checks: Sequence[TrendCheck], load: Load | None = None) -> list[str]:
    """Return one phrase for failed requests, if there are any, and one for each violated bound."""
    found = []
    if load and load.failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in load.failures.items())
        found.append(f"{load.failures.total()} of {len(load.failure)} requests failed ({kinds})")
    return found + [
        f"{one.name}: {one.last:.1f} after {one.first:.1f} (at most {one.bound:.1f})" for one in checks if one.violated
    ]
