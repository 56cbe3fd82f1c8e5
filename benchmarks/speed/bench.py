"""`python -m benchmarks run`, `roofline` and `peers`: the speed of the server, measured beside other systems.

Systems take turns, round after round, with the same utterances, so that what slows the machine slows all of them.
Peers that poll are stopped by a signal between their turns, so that they take no CPU time from the others.
"""

import argparse
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.load import runner, workload
from benchmarks.load.runner import Load
from benchmarks.load.sampling import ENSEMBLE, PREPROCESS, cpu_seconds, sampled
from benchmarks.processes import ROOT
from benchmarks.speed import machine, peers, report, results, roofline
from benchmarks.speed.results import Results, SweepPoint, System
from benchmarks.speed.roofline import Cost, Flops
from emotion.text import WordPiece
from export.repository import ENCODERS, model_file
from serving import Triton
from serving.repository import check_repository

RESULTS = ROOT / "benchmarks" / "results"
EXPORTS = Path("build") / "bench" / "peers"  # of the peers, for the next run
USERS = 32
SINGLE_REQUEST = (3.0, 15)  # seconds and tokens of the utterance whose latency is measured alone
TITLES = {
    "served": "emoserve, fp32",
    "served_int8": "emoserve, int8",
    "baseline": "baseline, fp32",
    "baseline_int8": "baseline, int8",
    "roofline": "best in one process, fp32",
    "openvino": "OpenVINO in one process, fp32",
    **peers.PEERS,
}
SINGLE_TURNS = 3  # of the server and the models in one process
HIGH_CONCURRENCY, CROWDED_TURNS = 256, 5  # callers, and turns with them


@dataclass(frozen=True)
class Plan:
    """How much a run measures."""

    command: str  # the command that runs it
    rounds: int  # turns of all systems
    requests: int  # of every turn
    peers: Sequence[str] = ()  # names of the peers
    sweep: Sequence[int] = ()  # numbers of callers
    passes: int = 1  # of the sweep, up and down in turns; the run of median throughput is quoted
    main: int = 256  # requests of the run that gives batches and CPU shares
    single: int = 20  # requests of each of SINGLE_TURNS with one caller


FULL = Plan("make bench", 10, 128, tuple(peers.PEERS), (1, 2, 4, 8, 16, 32, 64, 128, 256), 3, 640)
QUICK = Plan("make bench-quick", rounds=2, requests=64, sweep=(1, 8, 32), main=128, single=10)
ROOFLINE = Plan("python -m benchmarks roofline", rounds=7, requests=256)
PEERS = Plan("python -m benchmarks peers", rounds=5, requests=128, peers=tuple(peers.PEERS))


def run(plan: Plan, arguments: argparse.Namespace) -> int:
    """Run a plan, write its results and print the summary. The status is always 0."""
    if getattr(arguments, "quick", False):
        plan = QUICK
    if arguments.rounds is not None:
        plan = replace(plan, rounds=arguments.rounds)
    found = Bench(arguments.checkpoint, arguments.repository, arguments.baseline, plan).run()
    written = results.write(found, RESULTS)
    report.write(found, written.with_suffix(".md"))
    print(f"results: {os.path.relpath(written)}\nreport: {os.path.relpath(written.with_suffix('.md'))}\n")
    print(output.table(("figure", "value", "goal", ""), results.summary_rows(found)))
    return 0


@dataclass(frozen=True)
class Target:
    """A server to load."""

    host: str  # as `runner.run` takes it
    leader: int  # the process that leads the server's group
    triton: Triton | None = None  # if it is one of emoserve

    @property
    def polls(self) -> bool:
        """Whether it uses the CPU when idle, so that it is stopped between turns."""
        return self.host.startswith("http:")

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


@dataclass
class Bench:
    """One run of a plan."""

    checkpoint: Path
    repository: Path
    baseline: Path | None  # another repository
    plan: Plan
    targets: dict[str, Target] = field(default_factory=dict)  # what takes turns, by the name in results

    def run(self) -> Results:
        """Measure all parts of the plan. Raises BenchmarkError or TritonError if something cannot be run or served."""
        started, clock = datetime.now(UTC), time.monotonic()
        manifest = check_repository(self.repository)
        if manifest is None:
            raise BenchmarkError(f"{self.repository} is not one of ours: make one with `make export`")
        self.tokenizer = workload.tokenizer_file(self.repository)
        utterances = workload.mixed(self.plan.requests, self.tokenizer)
        with output.console.status("starting") as self.status, ExitStack() as stack:
            self._start(stack)
            served, int8 = self.targets["served"], self.targets.get("served_int8")
            systems, peaks, strategies = self._take_turns(utterances)
            self.status.update("stages")
            assert served.triton is not None
            with sampled(served.triton) as side:
                served.load(self.tokenizer, requests=self.plan.main)
            needed = Flops.of(self.checkpoint).needed(utterances) / len(utterances) / 1e9  # GFLOP of one
            share = side.cpu_seconds[PREPROCESS] / sum(side.cpu_seconds.values())
            front_end = {"frontend_ms_3s": roofline.frontend_ms(), "frontend_share_of_cpu": share}
            sweep = self._sweep(served)
            models = {name: model for name, model in side.models.items() if name != ENSEMBLE}
            settings = {name: getattr(self.plan, name) for name in ("rounds", "requests")}
            sources = {"digest": str(manifest["checkpoint"])[:12], "text_encoder": manifest["sources"]["text_encoder"]}
            found = Results(
                started=started,
                minutes=0.0,  # not known yet
                command=self.plan.command,
                revision=machine.revision(),
                machine=machine.describe(),
                versions=machine.versions(),
                settings={"users": USERS} | settings,
                checkpoint=sources,
                systems=systems,
                roofline=results.Roofline(peaks, strategies, needed),
                stages=models,
                sweep=sweep,
                sweep_int8=self._sweep(int8) if int8 else [],
                measured=front_end | self._single_request(),
                high_concurrency=self._high_concurrency(sweep),
            )
        return replace(found, minutes=(time.monotonic() - clock) / 60, summary=results.summarise(found))

    def _start(self, stack: ExitStack) -> None:
        """Start the servers that take turns."""
        for name, config, repository in (
            ("served", None, self.repository),
            ("served_int8", "int8", self.repository),
            ("baseline", None, self.baseline),
            ("baseline_int8", "int8", self.baseline),
        ):
            if repository and (not config or all(model_file(repository, one, config).is_file() for one in ENCODERS)):
                self.status.update(f"starting {TITLES[name]}")
                triton = Triton(repository, http_port=0, grpc_port=0, metrics_port=0, config=config)
                stack.enter_context(triton)
                self.targets[name] = Target(f"grpc://{triton.grpc_url}", triton.pid, triton)
        for name in self.plan.peers:
            self.status.update(f"starting {name}")
            peer = peers.start(name, self.checkpoint, EXPORTS)
            self.targets[name] = target = Target(*stack.enter_context(peer))
            if target.polls:
                stack.callback(os.killpg, target.leader, signal.SIGCONT)  # a stopped process does not end

    def _take_turns(
        self, utterances: Sequence[workload.Utterance]
    ) -> tuple[dict[str, System], dict[str, list[float]], dict[str, float]]:
        """Load the systems in turns with the roofline; return them, the machine's peaks and the strategies' rates."""
        cost, title, rates = self._best(
            "roofline", roofline.strategies(self.repository, os.cpu_count() or 1), utterances
        )
        in_process = {"roofline": title}
        if self.plan.peers:
            from benchmarks.speed.peers import openvino_in_process  # OpenVINO takes seconds to import

            other = roofline.one_by_one(openvino_in_process.models(self.checkpoint, EXPORTS))
            other_cost, in_process["openvino"], _ = self._best("openvino", other, utterances)
        for name, target in self.targets.items():
            self.status.update(f"warming up {name}")
            target.load(self.tokenizer, requests=USERS)
        loads: dict[str, list[tuple[Load, float]]] = {name: [] for name in self.targets}
        costs: dict[str, list[Cost]] = {name: [] for name in in_process}  # by round
        peaks: defaultdict[str, list[float]] = defaultdict(list)
        for number in range(self.plan.rounds):
            for name, target in self.targets.items():
                self.status.update(f"round {number + 1}: {name}")
                # half of the roofline's turn comes before the server's and half after, against drift
                before = cost(utterances[::2]) if name == "served" else None
                loads[name].append(target.measured_load(self.tokenizer, requests=self.plan.requests))
                if before:
                    for library, gflops in roofline.peak_gflops().items():
                        peaks[library].append(gflops)
                    costs["roofline"].append(before + cost(utterances[1::2]))
            if self.plan.peers:
                costs["openvino"].append(other_cost(utterances))
            figures = ", ".join(f"{name} {of[-1][0].throughput:.1f}" for name, of in loads.items())
            figures += "".join(f", {name} {len(utterances) / of[-1].seconds:.1f}" for name, of in costs.items())
            output.console.print(f"round {number + 1}, utterances/s: {figures}", soft_wrap=True)
        systems = {name: system(TITLES[name], of) for name, of in loads.items()}
        for name, of_rounds in costs.items():
            throughput = [len(utterances) / one.seconds for one in of_rounds]
            cpu_ms = [1e3 * one.cpu_seconds / len(utterances) for one in of_rounds]
            systems[name] = System(in_process[name], throughput, cpu_ms=cpu_ms)
        return systems, peaks, rates

    def _best(
        self, name: str, ways: Mapping[str, roofline.Run], utterances: Sequence[workload.Utterance]
    ) -> tuple[Callable[[Sequence[workload.Utterance]], Cost], str, dict[str, float]]:
        """Return the cost of utterances in the fastest way, its title, and the utterances/s of each way."""
        rates, pieces = {}, WordPiece(self.tokenizer)
        for title, way in ways.items():
            self.status.update(f"{TITLES[name]}: {title}")
            roofline.cost(way, utterances[:32], pieces)  # warm-up
            rates[title] = len(utterances) / min(roofline.cost(way, utterances, pieces).seconds for _ in range(2))
        best = max(rates, key=lambda title: rates[title])
        return partial(roofline.cost, ways[best], pieces=pieces), f"{TITLES[name]}: {best}", rates

    def _sweep(self, target: Target) -> list[SweepPoint]:
        runs: dict[int, list[SweepPoint]] = {users: [] for users in self.plan.sweep}
        for number in range(self.plan.passes):
            for users in self.plan.sweep[:: -1 if number % 2 else 1]:  # up and down, against drift
                self.status.update(f"{users} callers")
                found = target.load(self.tokenizer, users=users, requests=max(48, 2 * users))
                p50, p95, p99 = map(found.percentile, (50, 95, 99))
                runs[users].append(SweepPoint(users, found.throughput, p50, p95, p99, found.failures.total()))
        return [sorted(points, key=lambda point: point.throughput)[len(points) // 2] for points in runs.values()]

    def _high_concurrency(self, sweep: Sequence[SweepPoint]) -> dict[str, list[float]]:
        """Measure HIGH_CONCURRENCY callers in turns with as many as the sweep found best."""
        if HIGH_CONCURRENCY not in self.plan.sweep:
            return {}
        best = max(sweep, key=lambda point: point.throughput).users
        rates: dict[int, list[float]] = {best: [], HIGH_CONCURRENCY: []}
        for number in range(CROWDED_TURNS):
            for users in (best, HIGH_CONCURRENCY)[:: -1 if number % 2 else 1]:
                self.status.update(f"round {number + 1}: {users} callers")
                found = self.targets["served"].load(self.tokenizer, users=users, requests=2 * HIGH_CONCURRENCY)
                rates[users].append(found.throughput)
        return {"best": rates[best], "most": rates[HIGH_CONCURRENCY]}

    def _single_request(self) -> dict[str, float]:
        self.status.update("one utterance at a time")
        (utterance,) = workload.uniform(1, self.tokenizer, *SINGLE_REQUEST)
        single, served, alone = self.plan.single, [], []
        for _ in range(SINGLE_TURNS):
            found = self.targets["served"].load(self.tokenizer, users=1, requests=single, uniform=SINGLE_REQUEST)
            served.append(found.percentile(50))
            alone.append(roofline.one_at_a_time_ms(self.repository, utterance, self.tokenizer, single))
        return {"latency_one_in_process_ms": median(alone), "latency_one_ms": median(served)}


def system(title: str, turns: Sequence[tuple[Load, float]]) -> System:
    """Return the figures of a system's turns, each a load and the CPU seconds that the system used for it."""
    p50, p95, p99 = ([found.percentile(percent) for found, _ in turns] for percent in (50, 95, 99))
    cpu = [1e3 * used / answered if (answered := found.answered.sum()) else float("nan") for found, used in turns]
    failures = sum(found.failures.total() for found, _ in turns)
    return System(title, [found.throughput for found, _ in turns], p50, p95, p99, cpu, failures)
