"""`python -m benchmarks run` (`make bench`): everything that is claimed about speed, measured in one run.

Systems that are compared take turns, round after round, with the very same utterances: what slows the machine for a
while slows them all. Peers that poll are stopped by a signal between their turns, so that they take nothing from the
others.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmarks import frontend, load, machine, peers, results, roofline, tune, workload
from benchmarks.errors import BenchmarkError
from benchmarks.flops import Flops
from benchmarks.load import Load
from benchmarks.results import Growth, GrowthPoint, Moment, OnnxFile, Results, ServedModel, Stage, SweepPoint, System
from benchmarks.roofline import Cost
from benchmarks.sampling import ENSEMBLE, PREPROCESS, QUEUE, Sampler, ServerSide, cpu_seconds
from emotion.model import VGGish
from emotion.text import WordPiece
from export.repository import ENCODERS, ONNX_MODELS, model_file
from serving import Triton
from serving.repository import check_repository

Part = TypeVar("Part")

USERS = 32
LONE = (3.0, 15)  # seconds and tokens of the utterance whose latency is taken one at a time
SYSTEMS = {
    "served": "emoserve, fp32",
    "served_int8": "emoserve, int8",
    "roofline": "best in one process, fp32",
    "graph": "the same, audio and text read before",
}
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100)
TOKEN_LENGTHS, LINEAR_TOKENS = (4, 8, 16, 32, 64, 128, 256, 512), 128
AUDIO_LENGTHS = (1, 2, 4, 8, 15, 30, 60)  # s
CROWD = 256  # callers whose throughput is held against the best
OVERLOAD = 2.0  # times what the server answers
OVERLOAD_MARGIN = 15.0  # s that a full queue is kept full


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        command: that runs it.
        rounds: of turns.
        pairs: more rounds, of what is served and the roofline alone: a few turns can't tell how close they are.
        requests: of every turn.
        peers: names of those to compare with.
        sweep: numbers of callers.
        passes: through them, up and down in turns; what is quoted of each is the run of middle throughput.
        main: requests of the run from which latencies, batches and utilisation are taken.
        lone: requests of each of three turns in which latency is taken one at a time.
        repeats: of every length in the growth curves; 0 leaves them out.
        overload: whether to send more than the server can answer.
    """

    command: str
    rounds: int
    requests: int
    pairs: int = 0
    peers: Sequence[str] = ()
    sweep: Sequence[int] = ()
    passes: int = 1
    main: int = 256
    lone: int = 20
    repeats: int = 0
    overload: bool = False
    quick: bool = False


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
QUICK = Plan(command="make bench-quick", rounds=2, requests=64, sweep=(1, 8, 32), main=128, lone=10, quick=True)


@dataclass(frozen=True)
class Target:
    """A server to load.

    Attributes:
        host: as `load.run` takes it.
        leader: process id that leads the group of the server's processes.
        polls: whether it uses the CPU when idle, so that it is stopped between turns; a Triton does not.
    """

    host: str
    leader: int
    polls: bool = False

    def load(self, tokenizer: Path, **options: Any) -> Load:
        """`load.run` with this target's processes running, and only for that long."""
        with self._turn():
            return load.run(self.host, tokenizer, **({"users": USERS} | options))

    def measured_load(self, tokenizer: Path, **options: Any) -> tuple[Load, float]:
        """Return what `load` returns, and the CPU seconds that this target's processes used meanwhile."""
        before = cpu_seconds(self.leader)
        found = self.load(tokenizer, **options)
        return found, cpu_seconds(self.leader) - before

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self.polls:
            yield
            return
        os.killpg(self.leader, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.leader, signal.SIGSTOP)


@dataclass(frozen=True)
class Served:
    """One of our Tritons."""

    target: Target
    triton: Triton
    title: str


@dataclass
class Bench:
    """One run of a plan."""

    checkpoint: Path
    repository: Path
    plan: Plan
    console: Console

    def __post_init__(self) -> None:
        self.tokenizer = workload.tokenizer_file(self.repository)
        self.has_int8 = all(model_file(self.repository, model, "int8").is_file() for model in ENCODERS)

    def run(self) -> Results:
        """All of the plan.

        Raises:
            BenchmarkError: something can't be run; in one sentence.
            TritonError: the repository can't be served.
        """
        started, clock = datetime.now(UTC), time.monotonic()
        manifest = check_repository(self.repository)
        if manifest is None:
            raise BenchmarkError(f"{self.repository} is not one of ours: make one with `make export`")
        utterances = workload.mixed(self.plan.requests, self.tokenizer)
        flops = Flops.of(self.checkpoint)
        with self._bar() as self.progress, ExitStack() as stack:
            self.task: TaskID = self.progress.add_task("starting", total=None)
            self.fp32 = stack.enter_context(self._served("served", None))
            self.int8 = stack.enter_context(self._served("served_int8", "int8")) if self.has_int8 else None
            self.progress.update(self.task, total=self._steps())
            systems, peaks, tried = self._alternate(stack, utterances)
            main, side = self._main(self.fp32)
            curves = {"served": curve(main)}
            if self.int8:
                curves["served_int8"] = curve(self._main(self.int8)[0])
            sweep = self._sweep(self.fp32)
            sweep_int8 = self._sweep(self.int8) if self.int8 else []
            models = served_models(flops, utterances, side)
            found = Results(
                started=started,
                minutes=0.0,
                quick=self.plan.quick,
                command=self.plan.command,
                revision=machine.revision(),
                machine=machine.describe(),
                versions=machine.versions(),
                settings={
                    "users": USERS,
                    "rounds": self.plan.rounds,
                    "pairs": self.plan.pairs,
                    "requests": self.plan.requests,
                },
                checkpoint=self._describe(manifest),
                workload=workload.describe(utterances),
                systems=systems,
                roofline=results.Roofline(
                    peak_gflops=peaks,
                    strategies=tried,
                    needed_gflop_per_utterance=sum(model.needed_gflop for model in models.values()),
                    spent_gflop_per_utterance=sum(model.spent_gflop for model in models.values()),
                ),
                models=models,
                sweep=sweep,
                sweep_int8=sweep_int8,
                latency_one=self._latency_one(),
                tokens=self._spare(
                    lambda: self._growth("tokens", [(0.0, tokens) for tokens in TOKEN_LENGTHS], LINEAR_TOKENS)
                ),
                seconds=self._spare(
                    lambda: self._growth("seconds", [(float(each), 0) for each in AUDIO_LENGTHS], AUDIO_LENGTHS[-1])
                ),
                frontend=self._frontend(side),
                latencies=curves,
                crowd=self._crowd(sweep),
                server=server(side),
                overload=self._spare(lambda: self._overload(sweep)),
            )
        found = replace(found, minutes=(time.monotonic() - clock) / 60)
        return replace(found, summary=results.summarise(found))

    # --- parts of the plan ---

    def _alternate(
        self, stack: ExitStack, utterances: Sequence[workload.Utterance]
    ) -> tuple[dict[str, System], list[float], list[results.Strategy]]:
        """Load the systems in turns; the machine's peak and the best strategy in this process have turns, too."""
        targets = {"served": self.fp32.target}
        if self.int8:
            targets["served_int8"] = self.int8.target
        for name in self.plan.peers:
            self._step(f"starting {name}")
            peer = stack.enter_context(peers.start(name, self.checkpoint, Path("build") / "bench" / "peers"))
            targets[name] = Target(peer.host, peer.pid, polls=peer.host.startswith("http:"))
            if targets[name].polls:
                stack.callback(os.killpg, peer.pid, signal.SIGCONT)  # or it could not be told to end
        pieces = WordPiece(self.tokenizer)
        ways = roofline.strategies(self.repository, os.cpu_count() or 1)
        tried = []
        for name, way in ways.items():
            self._step(f"in process: {name}")
            roofline.cost(way, utterances[:32], pieces)  # warm
            fastest = min(roofline.cost(way, utterances, pieces).seconds for _ in range(2))
            tried.append(results.Strategy(name, len(utterances) / fastest))
        best = max(tried, key=lambda strategy: strategy.throughput).name

        def ceilings(half: Sequence[workload.Utterance]) -> dict[str, Cost]:
            return {
                name: roofline.cost(ways[best], half, pieces, graph_alone=name == "graph")
                for name in ("roofline", "graph")
            }

        for name, target in targets.items():
            self._step(f"warming {name}")
            target.load(self.tokenizer, requests=USERS)
        loads: dict[str, list[tuple[Load, float]]] = {name: [] for name in targets}
        costs: dict[str, list[Cost]] = {"roofline": [], "graph": []}
        peaks = []
        for number in range(self.plan.rounds + self.plan.pairs):
            turns = targets if number < self.plan.rounds else {"served": targets["served"]}
            for name, target in turns.items():
                self._step(f"round {number + 1}: {name}")
                # half of the ceilings' turn before and half after what they are compared with, against drift
                first = ceilings(utterances[::2]) if name == "served" else {}
                loads[name].append(target.measured_load(self.tokenizer, requests=self.plan.requests))
                if name == "served":
                    peaks.append(roofline.peak_gflops())
                    second = ceilings(utterances[1::2])
                    for ceiling, half in first.items():
                        costs[ceiling].append(half + second[ceiling])
            figures = ", ".join(f"{name} {loads[name][-1][0].throughput:.1f}" for name in turns)
            best_rate = len(utterances) / costs["roofline"][-1].seconds
            self.console.print(f"round {number + 1}, utterances/s: {figures}, roofline {best_rate:.1f}", soft_wrap=True)
        titles = SYSTEMS | {name: peer.title for name, peer in peers.PEERS.items()}
        systems = {name: system(titles[name], of) for name, of in loads.items()}
        titles["roofline"] += f": {best}"
        for name, taken in costs.items():
            systems[name] = System(
                titles[name],
                throughput=[len(utterances) / cost.seconds for cost in taken],
                cpu_ms=[1e3 * cost.cpu_seconds / len(utterances) for cost in taken],
            )
        return systems, peaks, tried

    def _main(self, served: Served) -> tuple[Load, ServerSide]:
        self._step(f"{served.title}: {USERS} callers")
        with Sampler(served.triton) as sampler:
            found = served.target.load(self.tokenizer, requests=self.plan.main)
        return found, sampler.result

    def _sweep(self, served: Served) -> list[SweepPoint]:
        runs: dict[int, list[SweepPoint]] = {users: [] for users in self.plan.sweep}
        for number in range(self.plan.passes):
            for users in self.plan.sweep[:: -1 if number % 2 else 1]:  # back again, against drift
                runs[users].append(self._sweep_point(served, users))
        return [sorted(points, key=lambda point: point.throughput)[len(points) // 2] for points in runs.values()]

    def _crowd(self, sweep: Sequence[SweepPoint]) -> results.Crowd | None:
        """CROWD callers against those that the sweep found best, in turns with as many requests."""
        if CROWD not in self.plan.sweep:
            return None
        best = max(sweep, key=lambda point: point.throughput).users
        throughput: dict[int, list[float]] = {best: [], CROWD: []}
        for number in range(self.plan.rounds):
            for users in (best, CROWD)[:: -1 if number % 2 else 1]:
                self._step(f"round {number + 1}: {users} callers")
                throughput[users].append(
                    self.fp32.target.load(self.tokenizer, users=users, requests=2 * CROWD).throughput
                )
        return results.Crowd(best, throughput[best], throughput[CROWD])

    def _sweep_point(self, served: Served, users: int) -> SweepPoint:
        self._step(f"{served.title}: {users} callers")
        with Sampler(served.triton) as sampler:
            found = served.target.load(self.tokenizer, users=users, requests=max(48, 2 * users))
        return SweepPoint(
            users=users,
            throughput=found.throughput,
            p50=found.percentile(50),
            p95=found.percentile(95),
            p99=found.percentile(99),
            failures=sum(found.failures.values()),
            stages=stages(sampler.result),
        )

    def _latency_one(self) -> results.LatencyOne:
        self._step("one utterance at a time")
        (utterance,) = workload.uniform(1, self.tokenizer, *LONE)
        served, alone = [], []
        for _ in range(3):  # in turns
            served.append(
                self.fp32.target.load(self.tokenizer, users=1, requests=self.plan.lone, uniform=LONE).percentile(50)
            )
            alone.append(roofline.one_at_a_time_ms(self.repository, utterance, self.tokenizer, self.plan.lone))
        return results.LatencyOne(in_process_ms=median(alone), served_ms=median(served))

    def _growth(self, name: str, lengths: Sequence[tuple[float, int]], up_to: float) -> Growth | None:
        """Medians of utterances of one modality, one at a time."""
        if not self.plan.repeats:
            return None
        points = []
        for seconds, tokens in lengths:
            self._step(f"growth with {name}: {seconds or tokens:g}")
            found = self.fp32.target.load(
                self.tokenizer, users=1, requests=self.plan.repeats, uniform=(seconds, tokens)
            )
            points.append(GrowthPoint(seconds or tokens, found.percentile(50)))
        return results.growth(points, up_to)

    def _frontend(self, side: ServerSide) -> results.FrontEnd:
        self._step("front-end")
        share = side.cpu_seconds[PREPROCESS] / sum(side.cpu_seconds.values())
        return results.FrontEnd(ms_3s=frontend.measure()[frontend.STRICTEST], share_of_cpu=share)

    def _overload(self, sweep: Sequence[SweepPoint]) -> results.Overload | None:
        """Arrivals at a multiple of what the server answers, until well after its queue is full."""
        if not self.plan.overload:
            return None
        self._step("overload")
        most = max(point.throughput for point in sweep)
        rate = OVERLOAD * most
        text = (self.repository / QUEUE / "config.pbtxt").read_text()  # where what is admitted waits
        limit = int(tune.parse(text).parameters["max_queue_size"].string_value)
        seconds = limit / (rate - most) + OVERLOAD_MARGIN
        found = self.fp32.target.load(self.tokenizer, seconds=seconds, rate=rate)
        refused = np.array([failure == "Unavailable" for failure in found.failure])
        return results.Overload(
            offered=rate,
            answered_per_s=found.throughput,
            refused=int(refused.sum()),
            refusal_p99_ms=float(np.percentile(found.latency[refused], 99)) if refused.any() else float("nan"),
            accepted_p99_ms=found.percentile(99),
            max_wait_ms=1e3 * (limit + 2 * USERS) / most,
        )

    # --- small parts ---

    @contextmanager
    def _served(self, name: str, config: str | None) -> Iterator[Served]:
        with Triton(self.repository, http_port=0, grpc_port=0, metrics_port=0, config=config) as triton:
            yield Served(Target(f"grpc://{triton.grpc_url}", triton.pid), triton, SYSTEMS[name])

    def _spare(self, part: Callable[[], Part | None]) -> Part | None:
        """A part that the others must not be lost with: None, and a line about it, where it fails."""
        try:
            return part()
        except BenchmarkError as error:
            self.console.print(f"left out: {error}")
            return None

    def _step(self, description: str) -> None:
        self.progress.update(self.task, description=description)
        self.progress.advance(self.task)

    def _steps(self) -> int:
        ours, plan = 2 if self.int8 else 1, self.plan
        lengths = (len(TOKEN_LENGTHS) + len(AUDIO_LENGTHS)) if plan.repeats else 0
        turns = plan.rounds * (ours + len(plan.peers)) + plan.pairs
        loads = ours * (2 + plan.passes * len(plan.sweep)) + (2 * plan.rounds if CROWD in plan.sweep else 0)
        return roofline.STRATEGIES + turns + 2 * len(plan.peers) + loads + lengths + 3

    def _describe(self, manifest: dict[str, Any]) -> results.Checkpoint:
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in VGGish().parameters())
        return results.Checkpoint(
            digest=str(manifest["checkpoint"])[:12],
            text_encoder=str(manifest["sources"]["text_encoder"]),
            vggish_parameters=parameters,
            files={
                name: OnnxFile((self.repository / name).stat().st_size, sha256)
                for name, sha256 in manifest["files"].items()
                if name.endswith(".onnx")
            },
        )

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description:<44}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=1,  # drawing takes CPU time of the process in which the roofline's is measured
        )


def curve(found: Load) -> list[tuple[float, float]]:
    """(percentile, ms) of the answered requests."""
    return [(percent, found.percentile(percent)) for percent in PERCENTILES]


def system(title: str, turns: Sequence[tuple[Load, float]]) -> System:
    """Return one system's alternations.

    Args:
        turns: each with the CPU seconds that the system used for it.
    """
    loads = [found for found, _ in turns]
    return System(
        title=title,
        throughput=[found.throughput for found in loads],
        p50=[found.percentile(50) for found in loads],
        p95=[found.percentile(95) for found in loads],
        p99=[found.percentile(99) for found in loads],
        failures=sum(sum(found.failures.values()) for found in loads),
        cpu_ms=[1e3 * cpu / answered if (answered := found.answered.sum()) else float("nan") for found, cpu in turns],
    )


def stages(side: ServerSide) -> dict[str, Stage]:
    """Return means by model, as Triton counted them."""
    found = {}
    for name, model in side.models.items():
        compute = model.compute_input_ms + model.compute_infer_ms + model.compute_output_ms
        if name != ENSEMBLE:
            found[name] = Stage(model.queue_ms, compute, model.mean_batch)
    return found


def served_models(flops: Flops, utterances: Sequence[workload.Utterance], side: ServerSide) -> dict[str, ServedModel]:
    """Return what each ONNX model did in a run.

    Args:
        flops: what they cost.
        utterances: of the workload.
        side: the run as its server saw it.
    """
    busy = sum(side.models[name].busy_seconds for name in ONNX_MODELS)
    needed = flops.needed(utterances)
    found = {}
    for name in ONNX_MODELS:
        model = side.models[name]
        computed = spent(flops, utterances, max(1, round(model.mean_batch)))
        found[name] = ServedModel(
            needed_gflop=needed[name] / len(utterances) / 1e9,
            spent_gflop=computed[name] / len(utterances) / 1e9,
            mean_batch=model.mean_batch,
            compute_share=model.busy_seconds / busy,
        )
    return found


def server(side: ServerSide) -> results.Server:
    """The server's side of the main run."""
    return results.Server(
        batch_sizes={name: of.batch_sizes for name, of in side.models.items() if name != ENSEMBLE},
        stages=stages(side),
        timeline=[Moment(**row) for row in side.timeline],
        cpu_seconds=side.cpu_seconds,
    )


def spent(flops: Flops, utterances: Sequence[workload.Utterance], size: int) -> Counter[str]:
    """Return the FLOPs that each model computes for the workload in batches of `size`, in its order."""
    total: Counter[str] = Counter()
    for start in range(0, len(utterances), size):
        total.update(flops.spent(utterances[start : start + size]))
    return total
