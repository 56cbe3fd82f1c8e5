"""`python -m benchmarks overload`: more load than the server can answer, and what happens to the requests.

An open loop offers 1 to 10 times the capacity, in turns, since the speed of a shared machine changes by the minute.
Then interactive callers at half the capacity run beside a flood, once of their own priority and once of bulk requests.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial

import numpy as np
from emotion_client import Priority
from rich.progress import track

from benchmarks import output
from benchmarks.load import runner
from benchmarks.load.runner import Load, percentile
from benchmarks.load.sampling import ServerUsage, sampled
from benchmarks.load.workload import tokenizer_file
from export.repository import ONNX_MODELS
from serving import Triton

LEVELS = (1.0, 2.0, 3.0, 5.0, 10.0)  # x the capacity
JUDGED_LEVEL = 5.0
MIN_GOODPUT = 0.9  # of the best level, per core that the server uses: the load generator takes its share of the cores
MAX_REJECTION_MS = 50.0  # 99 % of rejections arrive within this
FLOOD = 5.0  # x the capacity
INTERACTIVE = 0.5  # x the capacity
FLOODS: tuple[Priority, ...] = ("interactive", "bulk")
RECOVERED = 2.0  # x the median latency before the flood
ROLLING = 9  # requests of a rolling median, so that single long utterances do not count


@dataclass(frozen=True)
class Level:
    """The requests of one level, without those of its first fifth."""

    factor: float  # arrivals over capacity
    goodput: float  # answers/s
    per_core: float  # answers per CPU second of the server
    p50: float  # ms of answered requests
    p99: float  # ms of answered requests
    rejected: float  # share of requests that were rejected
    rejection: float  # ms within which 99 % of rejections arrived; NaN without any
    late: float  # share of requests that ended at their deadline
    wasted: float  # share of the utterances computed by the first ONNX model whose caller got no answer


@dataclass(frozen=True)
class Flood:
    """Interactive callers before, during and after a flood."""

    priority: Priority  # of the flood
    before: float  # median ms
    during: float  # median ms
    p99: float  # ms during the flood
    failed: float  # share of the interactive requests that failed during the flood
    recovery: float  # s from its end until the latency is what it was


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the figures and the verdict; return 1 if a promise is broken, else 0."""
    tokenizer = tokenizer_file(arguments.repository)
    seconds, deadline, rounds = arguments.seconds, arguments.deadline, arguments.rounds
    with Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0) as triton:
        host = f"grpc://{triton.grpc_url}"
        capacity = runner.capacity(host, tokenizer)
        offer = partial(runner.run, host, tokenizer, seconds=seconds, deadline=deadline)
        measured: dict[float, list[Level]] = {factor: [] for factor in LEVELS}
        turns = [(turn, factor) for turn in range(rounds) for factor in LEVELS[:: -1 if turn % 2 else 1]]
        for turn, factor in track(turns, "levels", console=output.console):
            with sampled(triton) as sampler:
                load = offer(rate=factor * capacity, seed=turn)
            measured[factor].append(judge_level(factor, load, sampler, seconds))
        levels = [median_level(turns) for turns in measured.values()]
        floods = []
        for priority in track(FLOODS, "floods", console=output.console):
            steady = INTERACTIVE * capacity
            with runner.start(host, tokenizer, rate=steady, seconds=3 * seconds, deadline=deadline) as interactive:
                time.sleep(seconds)
                flood = offer(rate=FLOOD * capacity, priority=priority, seed=5)
                floods.append(judge_flood(priority, interactive.result(), flood))
    print(f"capacity {capacity:.1f}/s; callers wait {deadline:g} s and do not retry; medians of {rounds} turns")
    headings = ("offered", "answered/s", "per core/s", "p50 ms", "p99 ms", "rejected", "99 % within", "late", "wasted")
    rows = []
    for level in levels:
        shares = f"{level.rejected:.1%}", f"{level.rejection:.0f} ms", f"{level.late:.1%}", f"{level.wasted:.1%}"
        rates = f"{level.factor:g} x", f"{level.goodput:.1f}", f"{level.per_core:.1f}"
        rows.append([*rates, f"{level.p50:.0f}", f"{level.p99:.0f}", *shares])
    print(output.table(headings, rows))
    for one in floods:
        during = f"{one.during:.0f} ms during (p99 {one.p99:.0f} ms, {one.failed:.1%} failed)"
        print(f"\n{FLOOD:g} x {one.priority} for {seconds:g} s beside {INTERACTIVE:g} x interactive:")
        print(f"p50 {one.before:.0f} ms before, {during}; as before {one.recovery:.1f} s after its end")
    judged = next(level for level in levels if level.factor == JUDGED_LEVEL)
    share = judged.per_core / max(level.per_core for level in levels)
    broken = {
        f"a core's goodput at {JUDGED_LEVEL:g} x is {share:.2f} of the best": share < MIN_GOODPUT,
        f"rejections took {judged.rejection:.0f} ms": judged.rejection > MAX_REJECTION_MS,
        f"p99 of the answered is over {deadline:g} s": judged.p99 > 1e3 * deadline,
    }
    goodput = f"at {JUDGED_LEVEL:g} x, a core's goodput {share:.2f} of the best (at least {MIN_GOODPUT:g})"
    promise = f"{goodput}, p99 within {deadline:g} s, rejections within {MAX_REJECTION_MS:g} ms"
    print()
    return output.verdict([phrase for phrase, is_broken in broken.items() if is_broken], promise)


def judge_level(factor: float, load: Load, server: ServerUsage, seconds: float) -> Level:
    """Return the figures of one turn."""
    began = load.start[0]
    kind = np.array(load.failure)
    steady = load.start > began + seconds / 5
    ended = load.start + load.latency / 1e3
    within = load.answered & (ended > began + seconds / 5) & (ended <= began + seconds)
    answered, rejected = steady & load.answered, steady & (kind == "Unavailable")
    return Level(
        factor=factor,
        goodput=float(within.sum() / (0.8 * seconds)),
        per_core=float(load.answered.sum() / sum(server.cpu_seconds.values())),
        p50=percentile(load.latency[answered], 50),
        p99=percentile(load.latency[answered], 99),
        rejected=float(rejected.sum() / steady.sum()),
        rejection=percentile(load.latency[rejected], 99),
        late=float((steady & (kind == "DeadlineExceeded")).sum() / steady.sum()),
        wasted=float(1 - load.answered.sum() / max(1, server.models[ONNX_MODELS[0]].requests)),
    )


def median_level(turns: Sequence[Level]) -> Level:
    """Return the median of each figure over the turns that have it."""
    columns = np.array([astuple(turn) for turn in turns]).T
    return Level(*(percentile(column[~np.isnan(column)], 50) for column in columns))


def judge_flood(priority: Priority, interactive: Load, flood: Load) -> Flood:
    """Return what happened to interactive requests that were sent before, during and after a flood."""
    moments = interactive.start - flood.start[0]
    over = flood.start[-1] - flood.start[0]
    answered, latency = interactive.answered, interactive.latency
    during = (moments > 0) & (moments < over)
    before = percentile(latency[(moments < 0) & answered], 50)
    padded = np.pad(latency, ROLLING // 2, mode="edge")
    rolling = np.median(np.lib.stride_tricks.sliding_window_view(padded, ROLLING), axis=1)
    calm = moments[(moments > over) & (rolling <= RECOVERED * before) & answered]
    return Flood(
        priority=priority,
        before=before,
        during=percentile(latency[during & answered], 50),
        p99=percentile(latency[during & answered], 99),
        failed=float((during & ~answered).sum() / max(1, during.sum())),
        recovery=float(calm[0] - over) if calm.size else float("inf"),
    )
