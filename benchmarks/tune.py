"""`python -m benchmarks tune`: a search, by Optuna, for the settings that serve the most on this machine.

The ensemble is judged as a whole: throughput in a closed loop, among the settings whose 99th percentile of latency
holds the objective. Every trial starts Triton on a repository of links with configurations of its own, and sends it the
same utterances. Measurements are noisy, and the best of many is partly the luckiest: the leaders and the current
configuration are measured again in turn, and only what is measured then names the winner. Of leaders that are as fast
as can be told, the one with the fewest instances wins: each holds a copy of the weights, and more of them make a lone
request slower.

Trials are kept in build/tune/NAME.db as they finish, so that the same command goes on after an interruption.
"""

import argparse
import hashlib
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from google.protobuf import text_format
from optuna.trial import TrialState
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks import load, machine
from benchmarks.errors import BenchmarkError
from benchmarks.sampling import PREPROCESS, QUEUE
from benchmarks.workload import tokenizer_file
from export.repository import ENCODERS
from serving import Triton, TritonError
from serving.repository import MANIFEST, check_repository

REPOSITORY = Path(__file__).parent.parent / "model_repository"
STATE = Path("build/tune")
PRECISIONS = ("fp32", "int8")

REQUESTS = 256  # that are measured in a trial, at least
REQUESTS_PER_USER = 8  # likewise
WARM_UP_PER_USER = 2  # requests before them that are not counted
LEADERS = 3  # settings that are measured again
ROUNDS = 3  # times
TIE = 0.05  # share of the best throughput within which medians of ROUNDS can't be told apart

TUNED = (PREPROCESS, QUEUE, *ENCODERS)  # `fusion` takes next to no time
MAX_PREPROCESS_INSTANCES = 4
MAX_INSTANCES = 8  # of each encoder: every instance holds a copy of the weights
THREADS, MAX_WAITING = "intra_op_thread_count", "max_waiting"  # parameters of a configuration
BATCHES = (4, 8, 16, 32, 64, 128)
WAITING = (4, 8, 16, 32, 64, 128)

MADE_BY = "# Made by `python -m benchmarks tune"


# --- configurations -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stage:
    """What is tuned of one model.

    Attributes:
        instances: of the model.
        threads: of each instance's ONNX Runtime, 0 for as many as there are cores.
        batch: rows in a batch, at most.
        max_waiting: requests that the stage `queue` lets wait before the models behind it.

    `threads` and `max_waiting` are None where the configuration has no such parameter.
    """

    instances: int
    threads: int | None
    batch: int
    max_waiting: int | None


def parse(text: str) -> Any:
    """A config.pbtxt as Triton's ModelConfig.

    Raises:
        BenchmarkError: it is none.
    """
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise BenchmarkError(f"a model's configuration can't be read (line:column : reason): {error}") from None


def read(text: str) -> Stage:
    """The settings in a config.pbtxt.

    Raises:
        BenchmarkError: it has not exactly one instance group.
    """
    config = parse(text)
    if len(config.instance_group) != 1:
        raise BenchmarkError(f"the configuration of {config.name} must have one instance_group to be tuned")

    def parameter(name: str) -> int | None:
        return int(config.parameters[name].string_value) if name in config.parameters else None

    return Stage(
        instances=config.instance_group[0].count,
        threads=parameter(THREADS),
        # without a queue delay, Triton never goes beyond the largest preferred size
        batch=max(config.dynamic_batching.preferred_batch_size, default=config.max_batch_size),
        max_waiting=parameter(MAX_WAITING),
    )


def edit(text: str, stage: Stage, ensemble_batch: int) -> str:
    """Return a config.pbtxt with other settings.

    Lines that change say "# tuned" in the end; all others and their comments stay. Triton rejects a model whose
    max_batch_size is below its ensemble's, so smaller batches are asked for by preferred_batch_size.

    Args:
        text: the config.pbtxt.
        stage: the settings.
        ensemble_batch: max_batch_size of the ensemble.

    Raises:
        BenchmarkError: the text spells a setting in a way that is not understood here.
    """
    before = read(text)
    if stage.instances != before.instances:
        text = _set(text, r"(instance_group\s*\[\s*\{[^}]*?\bcount:\s*)(\d+)", stage.instances)
    for name, value, old in (
        (THREADS, stage.threads, before.threads),
        (MAX_WAITING, stage.max_waiting, before.max_waiting),
    ):
        if value != old:
            text = _set(text, rf'(key:\s*"{name}"\s+value:\s*\{{\s*string_value:\s*")(\d+)', value)
    if (stage.instances, stage.threads) != (before.instances, before.threads):
        # instances that have a part of the cores each must not take turns
        text = re.sub(r"(^[ \t]*#.*\n)*^[ \t]*rate_limiter\b.*\n", "", text, flags=re.MULTILINE)
    if stage.batch != before.batch:
        text = re.sub(r"^[ \t]*preferred_batch_size:[^\n]*\n", "", text, flags=re.MULTILINE)
        if stage.batch < ensemble_batch:
            text = re.sub(
                r"(\bdynamic_batching\s*\{)",
                rf"\1\n  preferred_batch_size: [ {stage.batch} ]  # tuned",
                text,
                count=1,
            )
            if parse(text).max_batch_size != ensemble_batch:
                text = _set(text, r"(^max_batch_size:\s*)(\d+)", ensemble_batch)
        elif stage.batch != read(text).batch:
            text = _set(text, r"(^max_batch_size:\s*)(\d+)", stage.batch)
    if read(text) != stage:
        raise BenchmarkError(
            f"can't tune the configuration of {parse(text).name}: write its instance_group, {THREADS}, {MAX_WAITING} "
            "and dynamic_batching in the way of those that come with emoserve"
        )
    return text


def _set(text: str, pattern: str, value: int | None) -> str:
    """Exchange a number, and the remark at the end of its line, which spoke of the old one."""
    return re.sub(
        pattern + r"([^#\n]*?)[ \t]*(#[^\n]*)?$",
        lambda match: f"{match[1]}{value}{match[3]}  # tuned; was {match[2]}",
        text,
        count=1,
        flags=re.MULTILINE,
    )


@dataclass(frozen=True)
class Base:
    """The configuration that tuning starts from.

    Attributes:
        repository: an exported model repository.
        texts: each model's config.pbtxt, by its name.
    """

    repository: Path
    texts: dict[str, str]

    @classmethod
    def load(cls, repository: Path, precision: str) -> "Base":
        """What is served by default, or with `--config int8`.

        Raises:
            BenchmarkError: the repository lacks what is needed.
        """
        try:
            manifest = check_repository(repository)
        except TritonError as error:
            raise BenchmarkError(str(error)) from None
        if manifest is None:
            raise BenchmarkError(
                f"{repository} was not made by `python -m export`; name one that was with --repository"
            )
        texts, found = {}, precision == PRECISIONS[0]
        for default in sorted(repository.glob("*/config.pbtxt")):
            named = default.parent / "configs" / f"{precision}.pbtxt"
            found |= named.is_file()
            texts[default.parent.name] = (named if named.is_file() else default).read_text()
        if not found:
            raise BenchmarkError(
                f"{repository} has no configs/{precision}.pbtxt; make them with: "
                f"python -m export CHECKPOINT --precision {precision}"
            )
        return cls(repository, texts)

    @property
    def stages(self) -> dict[str, Stage]:
        """The settings of the tuned models."""
        return {model: read(self.texts[model]) for model in TUNED}

    @property
    def ensemble_batch(self) -> int:
        """Rows that a client may send in one request."""
        return int(parse(self.texts["emotion"]).max_batch_size)

    def edited(self, stages: dict[str, Stage]) -> dict[str, str]:
        """The configurations of all models with other settings for those tuned."""
        return self.texts | {
            model: edit(self.texts[model], stage, self.ensemble_batch) for model, stage in stages.items()
        }

    def digest(self) -> str:
        """Of everything that is served: configurations, code, weights."""
        digest = hashlib.sha256(json.dumps(self.texts, sort_keys=True).encode())
        for model, text in self.texts.items():
            weights = parse(text).default_model_filename or "model.onnx"
            for path in sorted((self.repository / model / "1").iterdir()):
                if path.is_file() and (path.suffix != ".onnx" or path.name == weights):
                    with path.open("rb") as file:
                        digest.update(f"{model}/{path.name}".encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:12]


def link(repository: Path, texts: dict[str, str], directory: Path) -> None:
    """Make `directory` a model repository: links to the files of another one, with configurations of its own."""
    repository = repository.resolve()
    (directory / MANIFEST).symlink_to(repository / MANIFEST)
    for model, text in texts.items():
        (directory / model).mkdir()
        for entry in (repository / model).iterdir():
            if entry.name not in ("config.pbtxt", "configs"):
                (directory / model / entry.name).symlink_to(entry)
        (directory / model / "config.pbtxt").write_text(text)


# --- the search space -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchParameter:
    """One thing that is searched.

    Attributes:
        model: whose it is.
        name: for people.
        choices: fields of the model's Stage by the label of each choice, the current choice first.
    """

    model: str
    name: str
    choices: dict[str, dict[str, int]]


def search_parameters(current: dict[str, Stage], ensemble_batch: int, cores: int, users: int) -> list[SearchParameter]:
    """Return what is searched.

    Instances and threads of an encoder are one choice, so that no combination has more than two threads a core. Neither
    batches nor what waits before the models can be larger than the number of users.

    Args:
        current: the settings now, by model.
        ensemble_batch: max_batch_size of the ensemble.
        cores: of this machine.
        users: callers in the closed loop.
    """
    preprocess, queue = current[PREPROCESS], current[QUEUE]
    counts = (preprocess.instances, *_doublings(min(cores, MAX_PREPROCESS_INSTANCES)))
    found = [SearchParameter(PREPROCESS, "instances", {str(count): {"instances": count} for count in counts})]
    assert queue.max_waiting is not None
    waiting = (queue.max_waiting, *(count for count in WAITING if count < 2 * users))
    found.append(SearchParameter(QUEUE, MAX_WAITING, {str(count): {"max_waiting": count} for count in waiting}))
    for model in ENCODERS:
        stage = current[model]
        workers = {f"{stage.instances}x{stage.threads or cores}": {"instances": stage.instances}}
        for threads in _doublings(cores):
            for instances in _doublings(min(MAX_INSTANCES, 2 * cores // threads)):
                workers.setdefault(f"{instances}x{threads}", {"instances": instances, "threads": threads})
        found.append(SearchParameter(model, "instances x threads", workers))
        sizes = (
            stage.batch,
            *(size for size in BATCHES if size < min(ensemble_batch, users)),
            *(size for size in (ensemble_batch, *BATCHES) if ensemble_batch <= size < 2 * users),
        )
        found.append(SearchParameter(model, "batch", {str(size): {"batch": size} for size in sizes}))
    return found


def _doublings(limit: int) -> list[int]:
    """1, 2, 4, ... and the limit itself."""
    return sorted({2**power for power in range(limit.bit_length())} | {limit})


class Space:
    """Settings as Optuna's parameters: the label of each search parameter's choice, by "MODEL NAME"."""

    def __init__(self, base: Base, cores: int, users: int) -> None:
        self.base = base
        self.searched = {
            f"{one.model} {one.name}": one for one in search_parameters(base.stages, base.ensemble_batch, cores, users)
        }
        self.current = {name: next(iter(one.choices)) for name, one in self.searched.items()}

    def suggest(self, trial: optuna.Trial) -> dict[str, str]:
        """The parameters of a trial."""
        return {name: trial.suggest_categorical(name, list(one.choices)) for name, one in self.searched.items()}

    def describe(self, parameters: dict[str, str]) -> dict[str, str]:
        """In short, by model."""
        words: dict[str, list[str]] = {}
        for name, one in self.searched.items():
            words.setdefault(one.model, []).append(parameters[name])
        return {model: " ".join(labels) for model, labels in words.items()}

    def sentence(self, parameters: dict[str, str]) -> str:
        """The same in one line."""
        return ", ".join(f"{model} {label}" for model, label in self.describe(parameters).items())

    def stages(self, parameters: dict[str, str]) -> dict[str, Stage]:
        """The settings that parameters stand for."""
        stages = self.base.stages
        for name, label in parameters.items():
            one = self.searched[name]
            stages[one.model] = replace(stages[one.model], **one.choices[label])
        return stages


# --- measurements and the choice among them -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measurement:
    """Answers/s, and latency percentiles in ms; 0 and infinite where not every request was answered."""

    throughput: float
    p50: float
    p99: float

    def __str__(self) -> str:
        if math.isinf(self.p99):
            return "requests failed"
        return f"{self.throughput:.2f} utterances/s, p50 {self.p50:.0f} ms, p99 {self.p99:.0f} ms"


AGAIN = "again"  # marks the trials that measure a leader once more
FAILED = Measurement(0.0, math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings, and what was measured with them, in order."""

    parameters: dict[str, str]
    runs: list[Measurement]

    @property
    def judged(self) -> list[Measurement]:
        """The runs that count: the first one is what made it a leader, by luck perhaps."""
        return self.runs[1:] or self.runs

    @property
    def result(self) -> Measurement:
        """Medians."""
        if FAILED in self.runs:
            return FAILED
        return Measurement(
            median(run.throughput for run in self.judged),
            median(run.p50 for run in self.judged),
            median(run.p99 for run in self.judged),
        )


def candidates(study: optuna.Study) -> list[Candidate]:
    """All settings that were measured, in the order of their first trials."""
    found: dict[tuple[tuple[str, str], ...], Candidate] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        candidate = found.setdefault(tuple(sorted(trial.params.items())), Candidate(trial.params, []))
        candidate.runs.append(
            Measurement(**{field.name: trial.user_attrs[field.name] for field in fields(Measurement)})
        )
    return list(found.values())


def ranking(among: Iterable[Candidate], p99_ms: float) -> list[Candidate]:
    """Those that hold the objective, the highest throughput first."""
    holding = [candidate for candidate in among if candidate.result.p99 <= p99_ms]
    return sorted(holding, key=lambda candidate: -candidate.result.throughput)


def choose(holding: list[Candidate], stages: Callable[[dict[str, str]], dict[str, Stage]]) -> Candidate:
    """Return the winner of a `ranking` that is not empty: as fast as any, the fewest instances, then the lowest p99.

    Args:
        stages: from a candidate's parameters to its settings.
    """
    repeated = [one for one in holding if len(one.runs) > ROUNDS] or holding[:1]
    as_fast = [one for one in repeated if one.result.throughput >= (1 - TIE) * repeated[0].result.throughput]

    def cost(candidate: Candidate) -> tuple[int, int, float]:
        settings = stages(candidate.parameters)
        copies = sum(settings[model].instances for model in ENCODERS)
        return copies, settings[PREPROCESS].instances, candidate.result.p99

    return min(as_fast, key=cost)


def to_repeat(among: list[Candidate], current: dict[str, str], p99_ms: float) -> list[Candidate]:
    """Leaders and the current configuration, as far as they still need measuring, those with the fewest runs first."""
    leaders = ranking(among, p99_ms)[:LEADERS]
    compared = [
        candidate for candidate in among if candidate in leaders or (leaders and candidate.parameters == current)
    ]
    return sorted((one for one in compared if len(one.runs) <= ROUNDS), key=lambda one: len(one.runs))


# --- the search -----------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks tune`."""
    parser.add_argument(
        "--p99-ms", type=float, required=True, metavar="N", help="99th percentile of latency that must hold, in ms"
    )
    parser.add_argument("--users", type=int, default=32, help="callers in the closed loop (default: 32)")
    parser.add_argument(
        "--repository", type=Path, default=REPOSITORY, metavar="DIR", help="exported models (default: model_repository)"
    )
    parser.add_argument("--trials", type=int, default=30, help="in all, earlier ones included (default: 30)")
    parser.add_argument("--name", default="tuned", help="of the configuration to write (default: tuned)")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the weights (default: fp32)")


def run(arguments: argparse.Namespace) -> int:
    """Search, print the table, write the winner.

    Returns:
        0, or 1 where no settings hold the objective, or 130 where interrupted.

    Raises:
        BenchmarkError: an argument, the repository or an earlier search's file can't be used.
    """
    if not (0 < arguments.p99_ms < math.inf and arguments.users > 0 and arguments.trials > 0):
        raise BenchmarkError("--p99-ms, --users and --trials must be above 0")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", arguments.name):
        raise BenchmarkError(f"--name is {arguments.name!r}; use lower-case letters, digits, - and _")
    base = Base.load(arguments.repository, arguments.precision)
    for path in _targets(base, arguments.name):
        if path.exists() and not path.read_text().startswith(MADE_BY):
            raise BenchmarkError(f"{path} was not made by tuning and is not overwritten; choose another --name")
    question = identify(base, arguments.p99_ms, arguments.users, arguments.precision)
    space = Space(base, question["cores"], arguments.users)
    database = STATE / f"{arguments.name}.db"
    study = open_study(database, question)
    try:
        search(study, space, arguments.p99_ms, arguments.users, arguments.trials)
    except KeyboardInterrupt:
        print(f"interrupted; finished trials are in {database}: repeat the command to go on", file=sys.stderr)
        return 130
    found = candidates(study)
    Console().print(table(space, found, arguments.p99_ms))
    holding = ranking(found, arguments.p99_ms)
    if not holding:
        best = min(candidate.result.p99 for candidate in found)
        print(f"nothing holds a p99 of {arguments.p99_ms:g} ms with {arguments.users} users: the best is {best:.0f} ms")
        return 1
    winner = choose(holding, space.stages)
    before = next(candidate for candidate in found if candidate.parameters == space.current)
    print(f"winner: {space.sentence(winner.parameters)}: {winner.result}; now: {before.result}")
    command = f"{MADE_BY} --p99-ms {arguments.p99_ms:g} --users {arguments.users} --precision {arguments.precision}`."
    header = (
        f"{command} Chosen with `python -m serving --config {arguments.name}`.\n"
        f"# For {question['cores']} cores of {question['cpu']}, ONNX Runtime {question['onnxruntime']}.\n"
        f"# Measured, medians of {len(winner.judged)}: {winner.result};\n"
        f"# with the configuration that tuning began with: {before.result}.\n#\n"
    )
    written = write(base, space.stages(winner.parameters), arguments.name, header)
    if written:
        print("written: " + ", ".join(map(str, written)))
        print(f"serve it with: python -m serving --repository {arguments.repository} --config {arguments.name}")
    else:
        print("the current configuration is the winner: there is nothing to write")
    return 0


def identify(base: Base, p99_ms: float, users: int, precision: str) -> dict[str, Any]:
    """What a search is for; measurements of different ones don't mix."""
    here = machine.describe()
    return {
        "p99_ms": p99_ms,
        "users": users,
        "precision": precision,
        "cpu": here.cpu,
        "cores": max(1, int(here.cores)),
        "onnxruntime": machine.versions()["onnxruntime"],
        "repository": base.digest(),
    }


def open_study(database: Path, question: dict[str, Any]) -> optuna.Study:
    """The study in a file, made where there is none; trials that an interruption cut short are given up.

    Raises:
        BenchmarkError: the file's trials answer another question; the message says what differs.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{database.absolute()}"
    study = optuna.create_study(study_name="tune", storage=storage, direction="maximize", load_if_exists=True)
    earlier = study.user_attrs.get("question")
    if earlier is None:
        study.set_user_attr("question", question)
    elif earlier != question:
        different = [
            f"{key} was {earlier[key]}, is {value}" for key, value in question.items() if earlier[key] != value
        ]
        raise BenchmarkError(
            f"{database} holds another search ({'; '.join(different)}): delete it to start afresh, or choose another "
            "--name"
        )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def search(study: optuna.Study, space: Space, p99_ms: float, users: int, trials: int) -> None:
    """Measure until there are `trials`, the current configuration first, then the leaders again.

    Raises:
        BenchmarkError: the current configuration can't be measured, or the load fails.
    """
    with Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        speed_estimate_period=3600,  # s; a trial may take longer than the default's 30
    ) as bar:
        task = bar.add_task("trials")
        while True:
            finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            searched = sum(AGAIN not in trial.user_attrs for trial in finished)
            if searched < trials:
                what, left = f"trial {searched + 1} of {trials}", trials - searched + (1 + LEADERS) * ROUNDS
                if not finished:
                    study.enqueue_trial(space.current)
            else:
                due = to_repeat(candidates(study), space.current, p99_ms)
                what, left = "leaders once more", sum(1 + ROUNDS - len(one.runs) for one in due)
                if due:
                    study.enqueue_trial(due[0].parameters, user_attrs={AGAIN: True})
            bar.update(task, description=what, completed=len(finished), total=len(finished) + left)
            if not left:
                return
            # begun anew with another seed each time, as a resumed search would otherwise repeat its first suggestions
            study.sampler = optuna.samplers.TPESampler(seed=len(study.get_trials(deepcopy=False)))
            trial = study.ask()
            parameters = space.suggest(trial)
            stages = space.stages(parameters)
            try:
                measurement = measure(space.base, stages, users)
                if measurement == FAILED and parameters == space.current:
                    raise BenchmarkError(f"the current configuration does not answer all requests of {users} users")
            except BaseException:
                study.tell(trial, state=TrialState.FAIL)
                raise
            record(study, trial, measurement, p99_ms)
            verdict = "holds" if measurement.p99 <= p99_ms else "does not hold"
            bar.console.print(f"{what}: {space.sentence(parameters)}: {measurement}, {verdict}", highlight=False)


def record(study: optuna.Study, trial: optuna.Trial, measurement: Measurement, p99_ms: float) -> None:
    """Finish a trial."""
    for name, value in asdict(measurement).items():
        trial.set_user_attr(name, value)
    trial.set_constraint("p99", measurement.p99 - p99_ms)
    study.tell(trial, measurement.throughput)


def measure(base: Base, stages: dict[str, Stage], users: int) -> Measurement:
    """Serve with these settings and measure; FAILED where Triton does not start, or leaves requests unanswered."""
    warm_up = WARM_UP_PER_USER * users
    requests = max(REQUESTS, REQUESTS_PER_USER * users)
    tokenizer = tokenizer_file(base.repository.resolve())
    with tempfile.TemporaryDirectory(prefix="emoserve-tune-") as directory:
        link(base.repository, base.edited(stages), Path(directory))
        try:
            with Triton(directory, http_port=0, grpc_port=0, metrics_port=0, log_level="error") as server:
                every = load.run(f"grpc://{server.grpc_url}", tokenizer, users=users, requests=warm_up + requests)
        except TritonError as error:
            print(f"Triton does not start with {stages}: {error}", file=sys.stderr)
            return FAILED
    counted = replace(
        every,
        start=every.start[warm_up:],
        latency=every.latency[warm_up:],
        kind=every.kind[warm_up:],
        failure=every.failure[warm_up:],
    )
    if any(every.failure):
        return FAILED
    return Measurement(counted.throughput, counted.percentile(50), counted.percentile(99))


# --- the result -----------------------------------------------------------------------------------------------------


def table(space: Space, found: list[Candidate], p99_ms: float) -> Table:
    """All settings: those that hold the objective by throughput, then the others by p99."""
    holding = ranking(found, p99_ms)
    others = sorted((one for one in found if one not in holding), key=lambda one: one.result.p99)
    result = Table(
        title=f"settings, and whether they hold a p99 of {p99_ms:g} ms",
        caption="preprocess: instances; queue: max_waiting; encoders: instances x threads, batch limit; * as it is now",
        box=SIMPLE,
    )
    for model in space.describe(space.current):
        result.add_column(model, no_wrap=True)
    for heading in ("runs", "utterances/s", "p50 ms", "p99 ms", "holds"):
        result.add_column(heading, justify="right")
    for one in holding + others:
        figures = one.result
        labels = list(space.describe(one.parameters).values())
        if one.parameters == space.current:
            labels[0] += " *"
        result.add_row(
            *labels,
            str(len(one.judged)),
            f"{figures.throughput:.2f}",
            f"{figures.p50:.0f}",
            f"{figures.p99:.0f}",
            "yes" if one in holding else "no",
        )
    return result


def _targets(base: Base, name: str) -> list[Path]:
    return [base.repository / model / "configs" / f"{name}.pbtxt" for model in base.texts]


def write(base: Base, stages: dict[str, Stage], name: str, header: str) -> list[Path]:
    """Write configs/NAME.pbtxt beside each config.pbtxt that differs from it; remove an earlier search's elsewhere.

    Returns:
        The files written.
    """
    written = []
    for path, text in zip(_targets(base, name), base.edited(stages).values(), strict=True):
        if text == (path.parent.parent / "config.pbtxt").read_text():
            path.unlink(missing_ok=True)
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(header + text)
        written.append(path)
    return written
