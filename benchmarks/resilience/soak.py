"""`python -m benchmarks soak`: a constant load, and whether anything that the server holds grows.

A batch of the longest utterances comes first, since stages keep the memory of their largest batch; an open loop of
mixed utterances follows. After a settling time, the medians of the last third are compared with those of the first.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf, isfinite
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import output, plotting
from benchmarks.errors import BenchmarkError
from benchmarks.load import runner
from benchmarks.load.runner import Load, percentile
from benchmarks.load.sampling import ResourceUsage, resource_usage
from benchmarks.load.workload import DURATIONS, MAX_TOKENS, tokenizer_file
from benchmarks.plotting import Panel
from serving import Triton

LARGE_BATCH_USERS = 64
LONGEST = (max(DURATIONS.values()), MAX_TOKENS)  # s and tokens of the first utterances
MIN_MINUTES = 4.0  # over less, noise decides
SETTLING_SHARE = 0.2  # of the time
INTERVAL_S = 2.0  # from one reading to the next
MAX_MEMORY_GROWTH = 1.01  # of the last third's memory over the first third's
MAX_LATENCY_GROWTH = 1.5  # likewise; other work on the machine makes queues at this load
MAX_MORE_DESCRIPTORS = 2  # connections are renewed every 20 s


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m benchmarks soak`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument("--minutes", type=float, default=30.0, metavar="N", help="duration, 4 or more (default: 30)")
    parser.add_argument("--share", type=float, default=0.8, metavar="X", help="of the capacity (default: 0.8)")
    parser.add_argument("--config", metavar="NAME", help="configuration to serve, such as int8")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save a picture, as PNG or SVG")


def run(arguments: argparse.Namespace) -> int:
    """Load with Poisson arrivals and print the verdict.

    Returns:
        0; 1 if a request failed or something grew; 130 if interrupted.
    """
    minutes: float = arguments.minutes
    if minutes < MIN_MINUTES:
        raise BenchmarkError(
            f"--minutes is {minutes:g}; noise would decide over so little: give {MIN_MINUTES:g} or more"
        )
    tokenizer = tokenizer_file(arguments.repository)
    console = Console(stderr=True)
    usage: list[ResourceUsage] = []
    load: Load | None = None
    try:
        with Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0, config=arguments.config) as triton:
            host = f"grpc://{triton.grpc_url}"
            with console.status("a large batch, then the capacity"):
                runner.run(host, tokenizer, users=LARGE_BATCH_USERS, requests=LARGE_BATCH_USERS, uniform=LONGEST)
                capacity = runner.capacity(host, tokenizer)
            rate = arguments.share * capacity
            print(
                f"{rate:.1f} utterances/s ({arguments.share:.0%} of {capacity:.1f}/s) for {minutes:g} minutes",
                flush=True,
            )
            with (
                runner.start(host, tokenizer, seconds=60 * minutes, rate=rate) as running,
                output.progress(console) as progress,
            ):
                task = progress.add_task("load, s", total=60 * minutes)
                began = time.monotonic()
                while running.is_running():
                    usage.append(resource_usage(triton.pid))
                    progress.update(task, completed=int(time.monotonic() - began))
                    time.sleep(INTERVAL_S)
                load = running.result()
    except KeyboardInterrupt:
        if len(usage) * INTERVAL_S < 60 * MIN_MINUTES:
            print("interrupted, too early to judge anything")
            return 130
    begin, end = (load.start[0], load.start[-1]) if load else (usage[0].time, usage[-1].time)
    settled = begin + SETTLING_SHARE * (end - begin)
    checks = compare(usage, load, settled, end)
    failed = violations(checks, load)
    print(f"first and last third of minutes {(settled - begin) / 60:.1f} to {(end - begin) / 60:.1f}, medians:")
    print(*checks, sep="\n")
    if arguments.plot:
        plotting.save(plot(usage, load, begin, settled), arguments.plot)
        print(f"plot: {arguments.plot}")
    if not load:
        print(f"interrupted, so that requests are not judged; {'; '.join(failed) or 'until then nothing grew'}")
        return 130
    if failed:
        print(f"FAIL: {'; '.join(failed)}")
        return 1
    print(f"PASS: all of {len(load.failure)} requests were answered, and nothing grew beyond its bound")
    return 0


def compare(usage: Sequence[ResourceUsage], load: Load | None, begin: float, end: float) -> list[TrendCheck]:
    """Compare the first third of the time from `begin` to `end` with the last."""
    third = (end - begin) / 3

    def thirds(moments: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        return (begin <= moments) & (moments < begin + third), (end - third < moments) & (moments <= end)

    def medians(name: str) -> tuple[float, float]:
        values = np.array([getattr(one, name) for one in usage])
        first, last = thirds(np.array([one.time for one in usage]))
        return percentile(values[first], 50), percentile(values[last], 50)

    memory, descriptors, threads, regions = map(medians, ("uss_mib", "descriptors", "threads", "region_mib"))
    checks = [
        TrendCheck("memory (USS), MiB", *memory, MAX_MEMORY_GROWTH * memory[0]),
        TrendCheck("memory (PSS), MiB", *medians("pss_mib")),
        TrendCheck("descriptors", *descriptors, descriptors[0] + MAX_MORE_DESCRIPTORS),
        TrendCheck("threads", *threads, threads[0]),
        TrendCheck("shared memory, MiB", *regions, regions[0]),
    ]
    if load:
        first, last = (load.latency[some & load.answered] for some in thirds(load.start))
        median = percentile(first, 50)
        checks += [
            TrendCheck("latency, median, ms", median, percentile(last, 50), MAX_LATENCY_GROWTH * median),
            TrendCheck("latency, p99, ms", percentile(first, 99), percentile(last, 99)),
        ]
    return checks


def violations(checks: Sequence[TrendCheck], load: Load | None) -> list[str]:
    """Return one phrase for each violated bound, and one for failed requests."""
    found = [
        f"{one.name}: {one.last:.1f} after {one.first:.1f} (at most {one.bound:.1f})" for one in checks if one.violated
    ]
    if load and load.failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in load.failures.items())
        found.insert(0, f"{load.failures.total()} of {len(load.failure)} requests failed ({kinds})")
    return found


def plot(usage: Sequence[ResourceUsage], load: Load | None, begin: float, settled: float) -> Figure:
    """Draw what the server held and its latency over the minutes since `begin`; shaded until `settled`."""
    minutes = [(one.time - begin) / 60 for one in usage]

    def panel(ylabel: str, **names: str) -> Panel:
        return Panel({name: (minutes, [getattr(one, key) for one in usage]) for key, name in names.items()}, ylabel)

    memory = panel("MiB", uss_mib="memory (USS)", pss_mib="memory (PSS)")
    counts = panel("number", descriptors="descriptors", threads="threads")
    panels = [replace(memory, options={"ylim": (None, None)}), panel("MiB", region_mib="shared memory"), counts]
    if load:
        moments, answers = (load.start[load.answered] - begin) / 60, load.latency[load.answered]
        edges = np.linspace(0, moments.max(initial=1e-3), 31)
        spans = [answers[(start <= moments) & (moments <= end)] for start, end in pairwise(edges)]
        at = ((edges[1:] + edges[:-1]) / 2).tolist()
        curves = {f"p{percent}": (at, [percentile(span, percent) for span in spans]) for percent in (50, 99)}
        panels.append(Panel(curves, "latency, ms"))
    return plotting.stack(panels, "minutes", (0, (settled - begin) / 60))
