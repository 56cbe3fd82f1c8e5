"""`python -m benchmarks tune`: a search, by Optuna, for the settings that serve the most on this machine.

The measure is throughput in a closed loop, among the settings whose p99 of latency keeps the objective. Every trial
starts Triton with its own configurations and sends it the same utterances. Since the best of many noisy measurements is
partly the luckiest, the leaders and the current configuration are measured again in turns, and only that counts. Among
leaders that are equally fast, the one with the fewest instances wins: each holds a copy of the weights.

Finished trials are kept in build/tune/NAME.db, so that the same command continues an interrupted search.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
from google.protobuf import text_format
from optuna.trial import TrialState
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.load import runner
from benchmarks.load.sampling import PREPROCESS, QUEUE
from benchmarks.load.workload import tokenizer_file
from benchmarks.speed import machine
from emotion.manifest import MANIFEST, digest
from export.repository import ENCODERS
from serving import Triton, TritonError
from serving.repository import check_repository

STATE = Path("build/tune")
PRECISIONS = ("fp32", "int8")
MIN_REQUESTS, REQUESTS_PER_USER = 256, 8  # measured in a trial
WARM_UP_PER_USER = 2  # requests before them
LEADERS, ROUNDS = 3, 3  # settings that are measured again, and how often
TIE = 0.05  # share of the best throughput within which medians of ROUNDS cannot be told apart
TUNED = (PREPROCESS, QUEUE, *ENCODERS)  # `fusion` takes next to no time
MAX_PREPROCESS_INSTANCES, MAX_ENCODER_INSTANCES = 4, 8
SIZES = (4, 8, 16, 32, 64, 128)  # of batches and of max_waiting
MADE_BY = "# Made by `python -m benchmarks tune"
Parameters = dict[str, str]  # the label of each search parameter's choice
THREADS, MAX_WAITING, MAX_BULK_WAITING = "intra_op_thread_count", "max_waiting", "max_bulk_waiting"  # parameters


@dataclass(frozen=True, slots=True)
class StageSettings:
    """The settings of a model that tuning changes."""

    instances: int  # of the model
    threads: int | None  # of each instance's ONNX Runtime, 0 for all cores; None if the model has no such parameter
    batch: int  # largest batch in rows
    max_waiting: int | None  # requests that `queue` lets wait before the models behind it; None likewise


def parse(text: str) -> Any:
    """Return a config.pbtxt as ModelConfig."""
    return text_format.Parse(text, ModelConfig())


def settings(text: str) -> StageSettings:
    """Return the settings in a config.pbtxt with one instance group."""
    config = parse(text)

    def parameter(name: str) -> int | None:
        return int(config.parameters[name].string_value) if name in config.parameters else None

    # without a queue delay, Triton never exceeds the largest preferred size
    batch = max(config.dynamic_batching.preferred_batch_size, default=config.max_batch_size)
    return StageSettings(config.instance_group[0].count, parameter(THREADS), batch, parameter(MAX_WAITING))


def edit(text: str, wanted: StageSettings, ensemble_batch: int) -> str:
    """Return a config.pbtxt with other settings; it is returned as it is, comments included, if nothing changes.

    Triton rejects a model whose max_batch_size is below its ensemble's, so smaller batches are set by
    preferred_batch_size.
    """
    before = settings(text)
    if wanted == before:
        return text
    config = parse(text)
    config.instance_group[0].count = wanted.instances
    bulk = wanted.max_waiting // 2 if wanted.max_waiting and MAX_BULK_WAITING in config.parameters else None
    for name, value in ((THREADS, wanted.threads), (MAX_WAITING, wanted.max_waiting), (MAX_BULK_WAITING, bulk)):
        if value is not None:
            config.parameters[name].string_value = str(value)
    if (wanted.instances, wanted.threads) != (before.instances, before.threads):
        # instances that each have a part of the cores must not take turns
        config.instance_group[0].ClearField("rate_limiter")
    if wanted.batch != before.batch:
        config.max_batch_size = max(wanted.batch, ensemble_batch)
        config.dynamic_batching.ClearField("preferred_batch_size")
        if wanted.batch < ensemble_batch:
            config.dynamic_batching.preferred_batch_size.append(wanted.batch)
    return str(text_format.MessageToString(config))


def link(repository: Path, texts: dict[str, str], directory: Path) -> None:
    """Make `directory` a model repository: links to another one's files, with configurations of its own by model."""
    repository = repository.resolve()
    (directory / MANIFEST).symlink_to(repository / MANIFEST)
    for model, text in texts.items():
        (directory / model).mkdir()
        for entry in (repository / model).iterdir():
            if entry.name not in ("config.pbtxt", "configs"):
                (directory / model / entry.name).symlink_to(entry)
        (directory / model / "config.pbtxt").write_text(text)


@dataclass
class Base:
    """The configurations that tuning starts from: config.pbtxt by model of an exported repository."""

    repository: Path
    texts: dict[str, str]

    @classmethod
    def load(cls, repository: Path, precision: str) -> "Base":
        """Return what is served by default, or with `--config int8`.

        Raises BenchmarkError or TritonError if the repository is not an intact export with this precision.
        """
        if check_repository(repository) is None:
            raise BenchmarkError(f"{repository} was not made by `python -m export`; name another with --repository")
        texts = {path.parent.name: path.read_text() for path in sorted(repository.glob("*/config.pbtxt"))}
        named = {path.parent.parent.name: path.read_text() for path in repository.glob(f"*/configs/{precision}.pbtxt")}
        if precision != PRECISIONS[0] and not named:
            command = f"python -m export CHECKPOINT --precision {precision}"
            raise BenchmarkError(f"{repository} has no configs/{precision}.pbtxt; make them with: {command}")
        return cls(repository, texts | named)

    def __post_init__(self) -> None:
        self.stages = {model: settings(self.texts[model]) for model in TUNED}
        self.ensemble_batch = int(parse(self.texts["emotion"]).max_batch_size)  # rows in one request

    def edited(self, stages: dict[str, StageSettings]) -> dict[str, str]:
        """Return the configurations of all models with other settings for the tuned ones."""
        return self.texts | {model: edit(self.texts[model], one, self.ensemble_batch) for model, one in stages.items()}


class Space:
    """What is searched: the labels of each parameter's choices by "MODEL NAME", the current choice first.

    Instances and threads of an encoder are one parameter, "INSTANCESxTHREADS", so that no combination has more than two
    threads a core. Batches and what waits before the models are no larger than the number of users.
    """

    def __init__(self, base: Base, cores: int, users: int) -> None:
        preprocess, queue = base.stages[PREPROCESS], base.stages[QUEUE]
        ensemble = base.ensemble_batch
        counts = (preprocess.instances, *_doublings(min(cores, MAX_PREPROCESS_INSTANCES)))
        waiting = (queue.max_waiting or 0, *(size for size in SIZES if size < 2 * users))
        found: dict[str, list[Any]] = {f"{PREPROCESS} instances": [*counts], f"{QUEUE} max_waiting": [*waiting]}
        for model in ENCODERS:
            stage = base.stages[model]
            found[f"{model} instances x threads"] = [f"{stage.instances}x{stage.threads or 0}"] + [
                f"{instances}x{threads}"
                for threads in _doublings(cores)
                for instances in _doublings(min(MAX_ENCODER_INSTANCES, 2 * cores // threads))
                if (instances, threads) != (stage.instances, stage.threads or cores)
            ]
            small = [size for size in SIZES if size < min(ensemble, users)]
            large = [size for size in (ensemble, *SIZES) if ensemble <= size < 2 * users]
            found[f"{model} batch"] = [stage.batch, *small, *large]
        self.base = base
        self.choices = {name: list(dict.fromkeys(map(str, labels))) for name, labels in found.items()}
        self.current = {name: labels[0] for name, labels in self.choices.items()}

    def describe(self, parameters: Parameters) -> str:
        """Return parameters in one line."""
        return ", ".join(f"{name} {parameters[name]}" for name in self.choices)

    def stages(self, parameters: Parameters) -> dict[str, StageSettings]:
        """Return the settings that parameters stand for."""
        stages = dict(self.base.stages)
        for name, label in parameters.items():
            model, what = name.split(maxsplit=1)
            names = what.split(" x ")
            stages[model] = replace(stages[model], **dict(zip(names, map(int, label.split("x")), strict=True)))
        return stages


def _doublings(limit: int) -> list[int]:
    """Return 1, 2, 4, ... and the limit itself."""
    return sorted({2**power for power in range(limit.bit_length())} | {limit})


@dataclass(frozen=True, slots=True)
class Measurement:
    """Answers/s, and latency in ms; 0 and infinite if not every request was answered."""

    throughput: float
    p50: float
    p99: float

    def __str__(self) -> str:
        if math.isinf(self.p99):
            return "requests failed"
        return f"{self.throughput:.2f} utterances/s, p50 {self.p50:.0f} ms, p99 {self.p99:.0f} ms"


FAILED = Measurement(0.0, math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Parameters, and their measurements: the search's own, or those of a leader that was measured again."""

    parameters: Parameters
    runs: list[Measurement]

    @property
    def result(self) -> Measurement:
        """The medians; FAILED if any measurement failed."""
        if FAILED in self.runs:
            return FAILED
        return Measurement(*map(median, zip(*map(astuple, self.runs), strict=True)))


def ranking(among: Iterable[Candidate], p99_ms: float) -> list[Candidate]:
    """Return those that keep the objective, the highest throughput first."""
    holding = [candidate for candidate in among if candidate.result.p99 <= p99_ms]
    return sorted(holding, key=lambda candidate: -candidate.result.throughput)


def measure_again(leaders: Sequence[Candidate], measured: Callable[[Parameters], Measurement]) -> list[Candidate]:
    """Measure leaders ROUNDS times in turns; their first measurements, perhaps lucky, do not count."""
    again = [Candidate(one.parameters, []) for one in leaders]
    for one in [*again] * ROUNDS:
        one.runs.append(measured(one.parameters))
    return again


def choose(holding: list[Candidate], stages: Callable[[Parameters], dict[str, StageSettings]]) -> Candidate:
    """Return the winner of a non-empty `ranking`: as fast as any, fewest instances, then lowest p99."""
    as_fast = [one for one in holding if one.result.throughput >= (1 - TIE) * holding[0].result.throughput]

    def cost(candidate: Candidate) -> tuple[int, int, float]:
        chosen = stages(candidate.parameters)
        copies = sum(chosen[model].instances for model in ENCODERS)
        return copies, chosen[PREPROCESS].instances, candidate.result.p99

    return min(as_fast, key=cost)


def run(arguments: argparse.Namespace) -> int:
    """Search, print the table, write the winner; return 1 if no settings keep the objective, else 0."""
    p99_ms, users, name = arguments.p99_ms, arguments.users, arguments.name
    if not (0 < p99_ms < math.inf and users > 0 and arguments.trials > 0):
        raise BenchmarkError("--p99-ms, --users and --trials must be above 0")
    base = Base.load(arguments.repository, arguments.precision)
    for path in _targets(base, name):
        if path.exists() and not path.read_text().startswith(MADE_BY):
            raise BenchmarkError(f"{path} was not made by tuning and is not overwritten; choose another --name")
    here = machine.describe()
    space = Space(base, max(1, int(here.cores)), users)
    asked = {"--p99-ms": p99_ms, "--users": users, "--precision": arguments.precision, "CPU": here.cpu}
    asked |= {"number of cores": here.cores, "ONNX Runtime": machine.versions()["onnxruntime"]}
    study = open_study(name, asked | {"export": [digest(base.repository / MANIFEST), base.texts]})
    found = search(study, space, p99_ms, users, arguments.trials)
    before = found[0]
    leaders = ranking(found, p99_ms)[:LEADERS]
    leaders += [before] if leaders and before not in leaders else []
    leaders = measure_again(leaders, lambda parameters: measure(base, space.stages(parameters), users))
    repeated = {space.describe(one.parameters): one for one in leaders}
    shown = leaders + [one for one in found if space.describe(one.parameters) not in repeated]
    print(f"settings, and whether they keep a p99 of {p99_ms:g} ms; * is the current configuration\n")
    headings = ("settings", "runs", "utterances/s", "p50 ms", "p99 ms", "holds")
    rows = []
    for one in shown:
        label = space.describe(one.parameters) + " *" * (one.parameters == space.current)
        figures = f"{one.result.throughput:.2f}", f"{one.result.p50:.0f}", f"{one.result.p99:.0f}"
        rows.append([label, str(len(one.runs)), *figures, "yes" if one.result.p99 <= p99_ms else "no"])
    print(output.table(headings, rows, width=250))
    holding = ranking(leaders, p99_ms)
    if not holding:
        best = min(one.result.p99 for one in shown)
        print(f"nothing holds a p99 of {p99_ms:g} ms with {users} users: the best is {best:.0f} ms")
        return 1
    winner = choose(holding, space.stages)
    before = repeated[space.describe(space.current)]
    print(f"winner: {space.describe(winner.parameters)}: {winner.result}; now: {before.result}")
    header = (
        f"{MADE_BY} --p99-ms {p99_ms:g} --users {users} --precision {arguments.precision}`.\n"
        f"# For {here.cores:g} cores of {here.cpu}; {winner.result}; before tuning: {before.result}.\n"
    )
    written = write(base, space.stages(winner.parameters), name, header)
    print(f"written: {', '.join(map(str, written)) or 'nothing, as the current configuration is the winner'}")
    if written:
        print(f"serve it with: python -m serving --repository {arguments.repository} --config {name}")
    return 0


def open_study(name: str, asked: dict[str, Any]) -> optuna.Study:
    """Return the study in build/tune/NAME.db, which is new unless an earlier search began it.

    Raises BenchmarkError if that search was asked anything else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    STATE.mkdir(parents=True, exist_ok=True)
    file = STATE / f"{name}.db"
    storage = f"sqlite:///{file.absolute()}"
    study = optuna.create_study(study_name="tune", storage=storage, direction="maximize", load_if_exists=True)
    before = study.user_attrs.get("asked", asked)
    if others := [key for key in asked if before[key] != asked[key]]:
        what = f"the trials of a search with another {' and another '.join(others)}"
        raise BenchmarkError(f"{file} has {what}; delete it, or choose another --name")
    study.set_user_attr("asked", asked)
    return study


def search(study: optuna.Study, space: Space, p99_ms: float, users: int, trials: int) -> list[Candidate]:
    """Measure until a study has `trials`; return all that are finished, the current configuration first.

    Raises BenchmarkError if the current configuration cannot be measured.
    """

    def objective(trial: optuna.Trial) -> float:
        parameters = {name: trial.suggest_categorical(name, labels) for name, labels in space.choices.items()}
        measurement = measure(space.base, space.stages(parameters), users)
        if measurement == FAILED and parameters == space.current:
            raise BenchmarkError(f"the current configuration does not answer all requests of {users} users")
        trial.set_user_attr("measurement", astuple(measurement))
        trial.set_constraint("p99", measurement.p99 - p99_ms)
        print(f"{space.describe(parameters)}: {measurement}", file=sys.stderr)
        return measurement.throughput

    def finished() -> list[Candidate]:
        done = study.get_trials(states=[TrialState.COMPLETE])
        return [Candidate(trial.params, [Measurement(*trial.user_attrs["measurement"])]) for trial in done]

    # a seed of its own for each start, or a continued search would repeat its first suggestions
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    if not finished():
        study.enqueue_trial(space.current)
    study.optimize(objective, n_trials=max(0, trials - len(finished())), show_progress_bar=True)
    return finished()


def measure(base: Base, stages: dict[str, StageSettings], users: int) -> Measurement:
    """Serve with these settings and measure; FAILED if Triton does not start, or leaves requests unanswered."""
    warm_up = WARM_UP_PER_USER * users
    requests = max(MIN_REQUESTS, REQUESTS_PER_USER * users)
    tokenizer = tokenizer_file(base.repository.resolve())
    with tempfile.TemporaryDirectory(prefix="emoserve-tune-") as directory:
        link(base.repository, base.edited(stages), Path(directory))
        try:
            with Triton(directory, http_port=0, grpc_port=0, metrics_port=0, log_level="error") as server:
                load = runner.run(f"grpc://{server.grpc_url}", tokenizer, users=users, requests=warm_up + requests)
        except TritonError as error:
            print(f"Triton does not start with {stages}: {error}", file=sys.stderr)
            return FAILED
    if load.failures:
        return FAILED
    counted = load.where(np.arange(warm_up + requests) >= warm_up)
    return Measurement(counted.throughput, counted.percentile(50), counted.percentile(99))


def _targets(base: Base, name: str) -> list[Path]:
    return [base.repository / model / "configs" / f"{name}.pbtxt" for model in base.texts]


def write(base: Base, stages: dict[str, StageSettings], name: str, header: str) -> list[Path]:
    """Write and return configs/NAME.pbtxt of every model that differs from its config.pbtxt; remove earlier others."""
    written = []
    for path, text in zip(_targets(base, name), base.edited(stages).values(), strict=True):
        if text == (path.parent.parent / "config.pbtxt").read_text():
            path.unlink(missing_ok=True)
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(header + text)
        written.append(path)
    return written
