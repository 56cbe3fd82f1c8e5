"""`python -m benchmarks run`, `roofline` and `peers`: the speed of the server, measured beside other systems.

Systems take turns, round after round, with the same utterances, so that what slows the machine slows all of them.
Peers that poll are stopped by a signal between their turns, so that they take no CPU time from the others.
"""

import argparse
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.load import runner, workload
from benchmarks.load.runner import Load, percentile
from benchmarks.load.sampling import ENSEMBLE, PREPROCESS, QUEUE, Sampler, cpu_seconds
from benchmarks.processes import ROOT
from benchmarks.speed import frontend, machine, peers, report, results, roofline
from benchmarks.speed.configurations import parse
from benchmarks.speed.flops import Flops
from benchmarks.speed.results import Growth, Results, Stage, SweepPoint, System
from benchmarks.speed.roofline import Cost
from emotion.text import WordPiece
from export.repository import ENCODERS, ONNX_MODELS, model_file
from serving import Triton
from serving.repository import check_repository

Part = TypeVar("Part")

RESULTS = ROOT / "benchmarks" / "results"
USERS = 32
SINGLE_REQUEST = (3.0, 15)  # seconds and tokens of the utterance whose latency is measured alone
TITLES = {
    "served": "emoserve, fp32",
    "served_int8": "emoserve, int8",
    "baseline": "baseline, fp32",
    "baseline_int8": "baseline, int8",
    "roofline": "best in one process, fp32",
    "graph": "the same, audio and text read before",
    **peers.PEERS,
}
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100)
GROWTH = {  # lengths, and up to which the time is linear
    "tokens": ((4, 8, 16, 32, 64, 128, 256, 512), 128),
    "seconds": ((1, 2, 4, 8, 15, 30, 60), 60),
}
HIGH_CONCURRENCY = 256  # callers
OVERLOAD = 2.0  # x the capacity
OVERLOAD_MARGIN_S = 15.0  # for which the queue stays full


@dataclass(frozen=True)
class Plan:
    """How much a run measures."""

    command: str  # the command that runs it
    rounds: int  # turns of all systems
    requests: int  # of every turn
    pairs: int = 0  # further rounds of the server and the roofline alone, whose ratio is close to 1
    peers: Sequence[str] = ()  # names of the peers
    sweep: Sequence[int] = ()  # numbers of callers
    passes: int = 1  # of the sweep, up and down in turns; the run of median throughput is quoted
    main: int = 256  # requests of the run that gives percentiles, batches and CPU shares
    single: int = 20  # requests of each of three turns with one caller
    repeats: int = 0  # of every length of the growth curves; 0 leaves them out
    overload: bool = False  # whether to send more than the server can answer
    quick: bool = False  # whether the figures are rough


FULL = Plan(
    command="make bench",
    rounds=5,
    requests=128,
    pairs=10,
    peers=tuple(peers.PEERS),
    sweep=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    passes=3,
    main=640,
    repeats=8,
    overload=True,
)
QUICK = Plan("make bench-quick", rounds=2, requests=64, sweep=(1, 8, 32), main=128, single=10, quick=True)
ROOFLINE = Plan("python -m benchmarks roofline", rounds=7, requests=256)
PEERS = Plan("python -m benchmarks peers", rounds=5, requests=128, peers=tuple(peers.PEERS))


def add_arguments(parser: argparse.ArgumentParser, plan: Plan) -> None:
    """Add the options of a command that runs a plan."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="what was exported")
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument(
        "--baseline", type=Path, metavar="DIR", help="other exported models that take turns with those of --repository"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns of all systems (default: {plan.rounds})")
    if plan is FULL:
        parser.add_argument("--quick", action="store_true", help="measure less, in a few minutes")
    parser.set_defaults(plan=plan)


def run(arguments: argparse.Namespace) -> int:
    """Run a plan, write its results and print the summary. The status is always 0."""
    plan = QUICK if getattr(arguments, "quick", False) else arguments.plan
    if arguments.rounds is not None:
        plan = replace(plan, rounds=arguments.rounds)
    bench = Bench(arguments.checkpoint, arguments.repository, arguments.baseline, plan, Console(stderr=True))
    found = bench.run()
    written = results.write(found, RESULTS)
    report.write(found, written.with_suffix(".md"))
    print(f"results: {os.path.relpath(written)}\nreport: {os.path.relpath(written.with_suffix('.md'))}\n")
    print(f"{output.table(('figure', 'value', 'goal', ''), results.summary_rows(found))}\n\n{results.WHY_CPU_SECONDS}")
    return 0


@dataclass(frozen=True)
class Target:
    """A server to load."""

    host: str  # as `runner.run` takes it
    leader: int  # the process that leads the server's group
    polls: bool = False  # whether it uses the CPU when idle, so that it is stopped between turns

    def load(self, tokenizer: Path, **options: Any) -> Load:
        """Load the server; its processes run only meanwhile if they poll."""
        if self.polls:
            os.killpg(self.leader, signal.SIGCONT)
        try:
            return runner.run(self.host, tokenizer, **({"users": USERS} | options))
        finally:
            if self.polls:
                os.killpg(self.leader, signal.SIGSTOP)

    def measured_load(self, tokenizer: Path, **options: Any) -> tuple[Load, float]:
        """Return a load and the CPU seconds that the server used for it."""
        before = sum(cpu_seconds(self.leader).values())
        found = self.load(tokenizer, **options)
        return found, sum(cpu_seconds(self.leader).values()) - before


@dataclass(frozen=True)
class Served:
    """A Triton of emoserve, and how results name it."""

    target: Target
    triton: Triton
    title: str


@dataclass
class Bench:
    """One run of a plan."""

    checkpoint: Path
    repository: Path
    baseline: Path | None
    plan: Plan
    console: Console

    def __post_init__(self) -> None:
        self.tokenizer = workload.tokenizer_file(self.repository)
        self.has_int8 = _has_int8(self.repository)

    def run(self) -> Results:
        """Measure all parts of the plan.

        Raises:
            BenchmarkError: something cannot be run.
            TritonError: the repository cannot be served.
        """
        started, clock = datetime.now(UTC), time.monotonic()
        manifest = check_repository(self.repository)
        if manifest is None:
            raise BenchmarkError(f"{self.repository} is not one of ours: make one with `make export`")
        utterances = workload.mixed(self.plan.requests, self.tokenizer)
        with output.progress(self.console) as self.progress, ExitStack() as stack:
            self.task = self.progress.add_task("starting", total=None)
            self.fp32 = stack.enter_context(self._served("served", self.repository))
            int8 = None
            if self.has_int8:
                int8 = stack.enter_context(self._served("served_int8", self.repository, "int8"))
            self.progress.update(self.task, total=self._steps())
            systems, peaks, strategies = self._take_turns(stack, utterances, int8)
            main, side = self._sampled_load(self.fp32, requests=self.plan.main)
            curves = {"served": curve(main)}
            if int8:
                curves["served_int8"] = curve(self._sampled_load(int8, requests=self.plan.main)[0])
            flops = Flops.of(self.checkpoint)
            batch = max(1, round(side.models[ONNX_MODELS[1]].mean_batch))  # bert's, the one that pads
            ceiling = results.Roofline(
                peak_gflops=peaks,
                strategies=strategies,
                needed_gflop=flops.needed(utterances) / len(utterances) / 1e9,
                spent_gflop=flops.spent(utterances, batch) / len(utterances) / 1e9,
            )
            sweep = self._sweep(self.fp32)
            found = Results(
                started=started,
                minutes=0.0,
                quick=self.plan.quick,
                command=self.plan.command,
                revision=machine.revision(),
                machine=machine.describe(),
                versions=machine.versions(),
                kernels=machine.kernels(),
                settings={"users": USERS}
                | {name: getattr(self.plan, name) for name in ("rounds", "pairs", "requests")},
                checkpoint={
                    "digest": str(manifest["checkpoint"])[:12],
                    "text_encoder": str(manifest["sources"]["text_encoder"]),
                },
                workload=workload.describe(utterances),
                systems=systems,
                roofline=ceiling,
                stages=stages(side),
                sweep=sweep,
                sweep_int8=self._sweep(int8) if int8 else [],
                measured=self._single_request() | self._frontend(side),
                growth=self._optional(self._growth) or {},
                latencies=curves,
                high_concurrency=self._high_concurrency(sweep),
                overload=self._optional(partial(self._overload, sweep)) or {},
            )
        found = replace(found, minutes=(time.monotonic() - clock) / 60)
        return replace(found, summary=results.summarise(found))

    # --- parts of the plan ---

    def _take_turns(
        self, stack: ExitStack, utterances: Sequence[workload.Utterance], int8: Served | None
    ) -> tuple[dict[str, System], dict[str, list[float]], dict[str, float]]:
        """Load the systems in turns with the roofline; return them, the machine's peaks and the strategies' rates."""
        targets = {"served": self.fp32.target} | ({"served_int8": int8.target} if int8 else {})
        if self.baseline:
            targets["baseline"] = stack.enter_context(self._served("baseline", self.baseline)).target
            if _has_int8(self.baseline):
                served = self._served("baseline_int8", self.baseline, "int8")
                targets["baseline_int8"] = stack.enter_context(served).target
        for name in self.plan.peers:
            self._step(f"starting {name}")
            peer = stack.enter_context(peers.start(name, self.checkpoint, Path("build") / "bench" / "peers"))
            targets[name] = Target(peer.host, peer.pid, polls=peer.host.startswith("http:"))
            if targets[name].polls:
                stack.callback(os.killpg, peer.pid, signal.SIGCONT)  # a stopped process does not end
        pieces = WordPiece(self.tokenizer)
        ways = roofline.strategies(self.repository, os.cpu_count() or 1)
        rates = {}
        for name, way in ways.items():
            self._step(f"in process: {name}")
            roofline.cost(way, utterances[:32], pieces)  # warm-up
            rates[name] = len(utterances) / min(roofline.cost(way, utterances, pieces).seconds for _ in range(2))
        best = max(rates, key=lambda name: rates[name])

        def ceilings(half: Sequence[workload.Utterance]) -> dict[str, Cost]:
            names = ("roofline", "graph")
            return {name: roofline.cost(ways[best], half, pieces, graph_alone=name == "graph") for name in names}

        for name, target in targets.items():
            self._step(f"warming up {name}")
            target.load(self.tokenizer, requests=USERS)
        loads: dict[str, list[tuple[Load, float]]] = {name: [] for name in targets}
        costs: dict[str, list[Cost]] = {"roofline": [], "graph": []}
        peaks: defaultdict[str, list[float]] = defaultdict(list)
        for number in range(self.plan.rounds + self.plan.pairs):
            turns = targets if number < self.plan.rounds else {"served": targets["served"]}
            for name, target in turns.items():
                self._step(f"round {number + 1}: {name}")
                # half of the roofline's turn comes before the server's and half after, against drift
                first = ceilings(utterances[::2]) if name == "served" else {}
                loads[name].append(target.measured_load(self.tokenizer, requests=self.plan.requests))
                if name == "served":
                    for library, gflops in roofline.peak_gflops().items():
                        peaks[library].append(gflops)
                    second = ceilings(utterances[1::2])
                    for ceiling, half in first.items():
                        costs[ceiling].append(half + second[ceiling])
            figures = ", ".join(f"{name} {loads[name][-1][0].throughput:.1f}" for name in turns)
            best_rate = len(utterances) / costs["roofline"][-1].seconds
            self.console.print(f"round {number + 1}, utterances/s: {figures}, roofline {best_rate:.1f}", soft_wrap=True)
        systems = {name: system(TITLES[name], of) for name, of in loads.items()}
        titles = TITLES | {"roofline": f"{TITLES['roofline']}: {best}"}
        for name, taken in costs.items():
            throughput = [len(utterances) / cost.seconds for cost in taken]
            cpu_ms = [1e3 * cost.cpu_seconds / len(utterances) for cost in taken]
            systems[name] = System(titles[name], throughput, cpu_ms=cpu_ms)
        return systems, peaks, rates

    def _sampled_load(self, served: Served, **options: int) -> tuple[Load, Sampler]:
        self._step(f"{served.title}: {options.get('users', USERS)} callers")
        with Sampler(served.triton) as sampler:
            found = served.target.load(self.tokenizer, **options)
        return found, sampler

    def _sweep(self, served: Served) -> list[SweepPoint]:
        runs: dict[int, list[SweepPoint]] = {users: [] for users in self.plan.sweep}
        for number in range(self.plan.passes):
            for users in self.plan.sweep[:: -1 if number % 2 else 1]:  # up and down, against drift
                found, side = self._sampled_load(served, users=users, requests=max(48, 2 * users))
                p50, p95, p99 = map(found.percentile, (50, 95, 99))
                point = SweepPoint(users, found.throughput, p50, p95, p99, found.failures.total(), stages(side))
                runs[users].append(point)
        return [sorted(points, key=lambda point: point.throughput)[len(points) // 2] for points in runs.values()]

    def _high_concurrency(self, sweep: Sequence[SweepPoint]) -> dict[str, list[float]]:
        """Measure HIGH_CONCURRENCY callers in turns with as many as the sweep found best."""
        if HIGH_CONCURRENCY not in self.plan.sweep:
            return {}
        best = max(sweep, key=lambda point: point.throughput).users
        rates: dict[int, list[float]] = {best: [], HIGH_CONCURRENCY: []}
        for number in range(self.plan.rounds):
            for users in (best, HIGH_CONCURRENCY)[:: -1 if number % 2 else 1]:
                self._step(f"round {number + 1}: {users} callers")
                found = self.fp32.target.load(self.tokenizer, users=users, requests=2 * HIGH_CONCURRENCY)
                rates[users].append(found.throughput)
        return {"best": rates[best], "most": rates[HIGH_CONCURRENCY]}

    def _single_request(self) -> dict[str, float]:
        self._step("one utterance at a time")
        (utterance,) = workload.uniform(1, self.tokenizer, *SINGLE_REQUEST)
        served, alone = [], []
        for _ in range(3):  # in turns
            found = self.fp32.target.load(self.tokenizer, users=1, requests=self.plan.single, uniform=SINGLE_REQUEST)
            served.append(found.percentile(50))
            alone.append(roofline.one_at_a_time_ms(self.repository, utterance, self.tokenizer, self.plan.single))
        return {"latency_one_in_process_ms": median(alone), "latency_one_ms": median(served)}

    def _growth(self) -> dict[str, Growth]:
        """Measure utterances of one modality and length, one at a time."""
        found = {}
        for name, (lengths, up_to) in GROWTH.items() if self.plan.repeats else ():
            points = []
            for length in lengths:
                self._step(f"growth with {name}: {length}")
                uniform = (float(length), 0) if name == "seconds" else (0.0, length)
                load = self.fp32.target.load(self.tokenizer, users=1, requests=self.plan.repeats, uniform=uniform)
                points.append((float(length), load.percentile(50)))
            found[name] = results.growth(points, up_to)
        return found

    def _frontend(self, side: Sampler) -> dict[str, float]:
        self._step("front-end")
        share = side.cpu_seconds[PREPROCESS] / sum(side.cpu_seconds.values())
        return {"frontend_ms_3s": frontend.measure()[frontend.REFERENCE], "frontend_share_of_cpu": share}

    def _overload(self, sweep: Sequence[SweepPoint]) -> dict[str, float]:
        """Send a multiple of what the server answers, until well after its queue is full."""
        if not self.plan.overload:
            return {}
        self._step("overload")
        most = max(point.throughput for point in sweep)
        rate = OVERLOAD * most
        queue = parse((self.repository / QUEUE / "config.pbtxt").read_text())
        seconds = int(queue.parameters["max_queue_size"].string_value) / (rate - most) + OVERLOAD_MARGIN_S
        found = self.fp32.target.load(self.tokenizer, seconds=seconds, rate=rate)
        rejected = found.latency[np.array([failure == "Unavailable" for failure in found.failure])]
        figures = {"offered_per_s": rate, "answered_per_s": found.throughput, "rejected": float(rejected.size)}
        return figures | {"rejection_p99_ms": percentile(rejected, 99), "accepted_p99_ms": found.percentile(99)}

    # --- small parts ---

    @contextmanager
    def _served(self, name: str, repository: Path, config: str | None = None) -> Iterator[Served]:
        with Triton(repository, http_port=0, grpc_port=0, metrics_port=0, config=config) as triton:
            yield Served(Target(f"grpc://{triton.grpc_url}", triton.pid), triton, TITLES[name])

    def _optional(self, part: Callable[[], Part | None]) -> Part | None:
        """Return a part of the run; print why and return None if it fails, so that the others are kept."""
        try:
            return part()
        except BenchmarkError as error:
            self.console.print(f"left out: {error}")
            return None

    def _step(self, description: str) -> None:
        self.progress.update(self.task, description=description, advance=1)

    def _steps(self) -> int:
        served, plan = 2 if self.has_int8 else 1, self.plan
        lengths = sum(len(lengths) for lengths, _ in GROWTH.values()) if plan.repeats else 0
        others = len(plan.peers) + (1 + _has_int8(self.baseline) if self.baseline else 0)
        turns = plan.rounds * (served + others) + plan.pairs
        loads = served * (2 + plan.passes * len(plan.sweep))
        loads += 2 * plan.rounds if HIGH_CONCURRENCY in plan.sweep else 0
        return roofline.STRATEGIES + turns + 2 * len(plan.peers) + loads + lengths + 3


def _has_int8(repository: Path) -> bool:
    return all(model_file(repository, model, "int8").is_file() for model in ENCODERS)


def curve(found: Load) -> list[tuple[float, float]]:
    """Return (percentile, ms) of the answered requests."""
    return [(percent, found.percentile(percent)) for percent in PERCENTILES]


def system(title: str, turns: Sequence[tuple[Load, float]]) -> System:
    """Return the figures of a system's turns, each a load and the CPU seconds that the system used for it."""
    loads = [found for found, _ in turns]
    p50, p95, p99 = ([found.percentile(percent) for found in loads] for percent in (50, 95, 99))
    cpu = [1e3 * used / answered if (answered := found.answered.sum()) else float("nan") for found, used in turns]
    failures = sum(found.failures.total() for found in loads)
    return System(title, [found.throughput for found in loads], p50, p95, p99, cpu, failures)


def stages(side: Sampler) -> dict[str, Stage]:
    """Return the mean times of a request by model."""
    models = {name: model for name, model in side.models.items() if name != ENSEMBLE}
    return {name: Stage(model.queue_ms, model.compute_ms, model.mean_batch) for name, model in models.items()}
