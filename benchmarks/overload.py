"""`python -m benchmarks overload`: more than the server can answer, and what becomes of it.

An open loop of 1 to 10 times what it can answer, a level at a time and all in turns, as the speed of a shared machine
changes by the minute; then interactive callers at half of what it can answer while a flood comes and goes, once of
their own priority and once of bulk work.
"""

import argparse
import threading
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from emotion_client import Priority
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks import load, plots
from benchmarks.sampling import Sampler, ServerSide
from benchmarks.soak import CAPACITY_REQUESTS, USERS
from benchmarks.workload import tokenizer_file
from export.repository import ONNX_MODELS
from serving import Triton

LEVELS = (1.0, 2.0, 3.0, 5.0, 10.0)  # of what it can answer
JUDGED = 5.0  # the level that the promises are about
GOODPUT = 0.9  # of the best level, promised for each core that the server has: what sends the load takes its share
REFUSAL_MS = 50.0  # promised: within this, 99 of 100 refused callers know
FLOOD = 5.0  # of what it can answer
INTERACTIVE = 0.5  # of what it can answer
FLOODS: tuple[Priority, ...] = ("interactive", "bulk")
RECOVERED = 2.0  # times the median latency before the flood


@dataclass(frozen=True)
class Level:
    """What became of the requests of one level, those of its first fifth left out.

    Attributes:
        factor: arrivals over what the server can answer.
        goodput: answers per second.
        per_core: answers per second of a core that the server's processes used.
        p50, p99: ms, of what was answered.
        refused: share of the requests.
        refusal: ms within which 99 % of the refused were told; NaN where none was.
        late: share of the requests that were given up at their deadline.
        wasted: share of the utterances computed by the first ONNX model whose caller did not get the answer.
    """

    factor: float
    goodput: float
    per_core: float
    p50: float
    p99: float
    refused: float
    refusal: float
    late: float
    wasted: float


@dataclass(frozen=True)
class Flood:
    """Interactive callers before, during and after a flood.

    Attributes:
        priority: of the flood.
        moments: s since the flood began, when each was due; latency: ms.
        before, during: median ms; p99: ms during it.
        failed: share of the interactive requests that failed during it.
        recovery: s after its end until the latency is what it was.
    """

    priority: Priority
    moments: NDArray[np.float64]
    latency: NDArray[np.float64]
    before: float
    during: float
    p99: float
    failed: float
    recovery: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks overload`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="N", help="of each level (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of all levels, in turns (default: 3)")
    parser.add_argument("--deadline", type=float, default=5.0, metavar="S", help="that callers wait (default: 5)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save a picture, as PNG or SVG")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print.

    Returns:
        0, or 1 where a promise is broken.
    """
    tokenizer = tokenizer_file(arguments.repository)
    console = Console(stderr=True)
    with Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0) as triton:
        host = f"grpc://{triton.grpc_url}"
        with console.status("what it can answer"):
            load.run(host, tokenizer, users=USERS, requests=USERS)
            capacity = load.run(host, tokenizer, users=USERS, requests=2 * CAPACITY_REQUESTS).throughput
        measured: dict[float, list[Level]] = {factor: [] for factor in LEVELS}
        turns = [(turn, factor) for turn in range(arguments.rounds) for factor in LEVELS[:: -1 if turn % 2 else 1]]
        for turn, factor in track(turns, "levels", console=console):
            with Sampler(triton) as sampler:
                found = load.run(
                    host,
                    tokenizer,
                    seconds=arguments.seconds,
                    rate=factor * capacity,
                    deadline=arguments.deadline,
                    seed=turn,
                )
            measured[factor].append(_level(factor, found, sampler.result, arguments.seconds))
        levels = [_median(turns) for turns in measured.values()]
        floods = [
            _flood(host, tokenizer, capacity, priority, arguments)
            for priority in track(FLOODS, "floods", console=console)
        ]
    print(
        f"it can answer {capacity:.1f}/s; callers wait {arguments.deadline:g} s and do not try again; "
        f"medians of {arguments.rounds} turns\n"
    )
    print("offered   answered  per core    p50      p99  refused  within      late  wasted")
    for level in levels:
        print(
            f"{level.factor:5g} x  {level.goodput:7.1f}/s {level.per_core:7.1f}/s {level.p50:5.0f} ms "
            f"{level.p99:5.0f} ms  {level.refused:6.1%} {level.refusal:6.0f} ms  {level.late:6.1%}  {level.wasted:6.1%}"
        )
    for flood in floods:
        print(
            f"\n{FLOOD:g} x {flood.priority} for {arguments.seconds:g} s beside {INTERACTIVE:g} x interactive: p50 "
            f"{flood.before:.0f} ms before, {flood.during:.0f} ms during (p99 {flood.p99:.0f} ms, {flood.failed:.1%} "
            f"failed); as before {flood.recovery:.1f} s after its end"
        )
    if arguments.plot:
        plots.save(plots.overload(levels, floods, arguments.seconds), arguments.plot)
    judged = next(level for level in levels if level.factor == JUDGED)
    share = judged.per_core / max(level.per_core for level in levels)
    broken = [
        *([f"a core's goodput at {JUDGED:g} x is {share:.2f} of the best"] if share < GOODPUT else []),
        *([f"refusals took {judged.refusal:.0f} ms"] if judged.refusal > REFUSAL_MS else []),
        *([f"p99 of the answered is over {arguments.deadline:g} s"] if judged.p99 > 1e3 * arguments.deadline else []),
    ]
    promise = (
        f"at {JUDGED:g} x, a core's goodput {share:.2f} of the best (at least {GOODPUT:g}), "
        f"p99 within {arguments.deadline:g} s, refusals within {REFUSAL_MS:g} ms"
    )
    print(f"\nFAIL: {'; '.join(broken)}" if broken else f"\nPASS: {promise}")
    return int(bool(broken))


def _level(factor: float, found: load.Load, server: ServerSide, seconds: float) -> Level:
    """Judge one level."""
    began = found.start[0]
    kind = np.array(found.failure)
    steady = found.start > began + seconds / 5
    ended = found.start + found.latency / 1e3
    within = found.answered & (ended > began + seconds / 5) & (ended <= began + seconds)
    answered, refused = steady & found.answered, steady & (kind == "Unavailable")
    return Level(
        factor=factor,
        goodput=float(within.sum() / (0.8 * seconds)),
        per_core=float(found.answered.sum() / sum(server.cpu_seconds.values())),
        p50=_percentile(found.latency[answered], 50),
        p99=_percentile(found.latency[answered], 99),
        refused=float(refused.sum() / steady.sum()),
        refusal=_percentile(found.latency[refused], 99),
        late=float((steady & (kind == "DeadlineExceeded")).sum() / steady.sum()),
        wasted=float(1 - found.answered.sum() / max(1, server.models[ONNX_MODELS[0]].requests)),
    )


def _median(turns: Sequence[Level]) -> Level:
    """Of each figure, over the turns in which there was one."""
    figures = np.array([astuple(turn) for turn in turns])
    known = [column[~np.isnan(column)] for column in figures.T]
    return Level(*(float(np.median(column)) if column.size else float("nan") for column in known))


def _flood(host: str, tokenizer: Path, capacity: float, priority: Priority, arguments: argparse.Namespace) -> Flood:
    """Interactive callers three times as long as the flood, which comes in the middle."""
    seconds: float = arguments.seconds
    flood: list[load.Load] = []

    def pour() -> None:
        flood.append(
            load.run(
                host,
                tokenizer,
                seconds=seconds,
                rate=FLOOD * capacity,
                deadline=arguments.deadline,
                priority=priority,
                seed=5,
            )
        )

    timer = threading.Timer(seconds, pour)
    timer.start()
    found = load.run(host, tokenizer, seconds=3 * seconds, rate=INTERACTIVE * capacity, deadline=arguments.deadline)
    timer.join()
    moments = found.start - flood[0].start[0]
    over = flood[0].start[-1] - flood[0].start[0]
    during = (moments > 0) & (moments < over)
    before = float(np.median(found.latency[(moments < 0) & found.answered]))
    calm = moments[(moments > over) & (_rolling(found.latency) <= RECOVERED * before) & found.answered]
    return Flood(
        priority=priority,
        moments=moments,
        latency=np.where(found.answered, found.latency, np.nan),
        before=before,
        during=_percentile(found.latency[during & found.answered], 50),
        p99=_percentile(found.latency[during & found.answered], 99),
        failed=float((during & ~found.answered).sum() / max(1, during.sum())),
        recovery=float(calm[0] - over) if calm.size else float("inf"),
    )


def _rolling(latency: NDArray[np.float64], count: int = 9) -> NDArray[np.float64]:
    """The median of each request and its neighbours: single long utterances do not count."""
    padded = np.pad(latency, count // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, count), axis=1)


def _percentile(latency: NDArray[np.float64], percent: float) -> float:
    return float(np.percentile(latency, percent)) if latency.size else float("nan")
