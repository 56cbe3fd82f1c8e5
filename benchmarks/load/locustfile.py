"""Locust users that call an emotion server or one of its peers; `python -m benchmarks` runs it, and so can you.

    locust -f benchmarks/load/locustfile.py --host grpc://127.0.0.1:8001

opens Locust's web page. These options, given in the root of the repository, run without it:

    --headless -u 32 -r 32 -t 1m                 closed loop with 32 callers
    --headless -u 32 -r 32 --requests 500        the same, until 500 utterances are answered
    --headless --rate 20 -t 1m                   open loop: Poisson arrivals, 20 a second
    --headless --rate 20 --shape steps -t 4m     load that rises in steps; --shape bursts: one burst in every period
    --headless --rate 20 -t 2h                   soak
    --headless --rate 900 -t 1m --master --expect-workers 4, and four times --worker --master-host HOST

A host grpc://HOST:PORT is called through EmotionClient, http://HOST:PORT with a peer's JSON: POST /analyze with
{"audio": base64, "text": str}. In a closed loop a user sends the next utterance after the answer to the last one. In an
open loop utterances are sent when they are due, and latency counts from then. Locust's "response size" is the size of
the utterance sent. The time of a run starts when utterances and connections are ready; with --master it includes the
workers' preparation.
"""

# mypy: allow-untyped-decorators, allow-untyped-calls, disable-error-code="import-untyped"

import base64
import csv
import itertools
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gevent
import grpc.experimental.gevent
import numpy as np
from emotion_client import EmotionClient
from gevent.pool import Pool
from locust import FastHttpUser, LoadTestShape, User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner
from tritonclient.utils import InferenceServerException

from benchmarks.errors import BenchmarkError
from benchmarks.load.runner import check_host
from benchmarks.load.workload import Utterance, mixed, uniform

grpc.experimental.gevent.init_gevent()  # before any channel is opened; importing locust has patched everything else

REPEATED_UTTERANCES = 512  # that a run without --requests sends over and over
MAX_IN_FLIGHT = 2000  # requests of a process; an open loop counts more as failures instead of sending them late
STOP_TIMEOUT_S = 60.0  # for requests in flight at the end
EPOCH = time.time() - time.perf_counter()  # s: the clock of latencies -> the clock of time.time()

# gRPC waits for each call in a thread of this pool; with gevent's ten threads, answers are read late
gevent.get_hub().threadpool.maxsize = MAX_IN_FLIGHT + 8  # 8 for gevent itself, such as name resolution


class Sample(NamedTuple):
    """A request that was answered or failed: a row of the file that --samples names."""

    start: float  # s, on the clock of time.time(): when it was sent, or due
    latency: float  # ms
    kind: str
    failure: str  # the exception's class


class TooManyInFlight(Exception):
    """An utterance of an open loop was not sent because too many requests were unanswered."""


@dataclass
class Run:
    """The state that the users of a process share during a test."""

    items: Iterator[tuple[Utterance, Any]] = field(default_factory=lambda: iter(()))  # with what send() takes
    unanswered: float = math.inf  # requests still to be answered
    random: np.random.Generator = field(default_factory=np.random.default_rng)
    samples: list[Sample] = field(default_factory=list)
    ready: bool = False  # whether utterances and connections are ready
    all_sent: bool = False  # whether this process has sent whatever was due in an open loop


run = Run()


class Caller(User):
    """A caller of a closed loop; in an open loop, the source of its process's share of the arrivals."""

    abstract = True
    scheme: ClassVar[str]  # of its hosts

    @staticmethod
    def prepare(utterance: Utterance) -> Any:
        """Return the payload of an utterance, so that sending it takes little time."""
        raise NotImplementedError

    def send(self, payload: Any) -> None:
        """Send a payload and wait for the answer. Raises if there is none."""
        raise NotImplementedError

    def on_start(self) -> None:
        options = self.environment.parsed_options
        assert options is not None
        self.options = options
        self.in_flight = Pool(MAX_IN_FLIGHT)
        self.begin = time.perf_counter()
        self.due = self.begin
        if options.rate and options.arrivals == "poisson":
            self.due += self.gap()

    def on_stop(self) -> None:
        self.in_flight.join()

    @task
    def work(self) -> None:
        if not self.options.rate:
            self.due = time.perf_counter()
        if self.due - self.begin >= self.options.seconds or (item := next(run.items, None)) is None:
            run.all_sent = True
            raise StopUser
        if not self.options.rate:
            self.call(item, self.due)
            return
        gevent.sleep(max(0.0, self.due - time.perf_counter()))
        if self.in_flight.full():
            self.report(item[0], self.due, TooManyInFlight(f"{MAX_IN_FLIGHT} requests are unanswered"))
        else:
            self.in_flight.spawn(self.call, item, self.due)
        self.due += self.gap()

    def gap(self) -> float:
        """Return the seconds from this arrival of the process to its next."""
        rate = self.options.rate * level(self.options, self.due - self.begin) / self.options.workers
        return run.random.exponential(1 / rate) if self.options.arrivals == "poisson" else 1 / rate

    def call(self, item: tuple[Utterance, Any], due: float) -> None:
        failure = None
        try:
            self.send(item[1])
        except Exception as error:  # every class is counted
            failure = error
        self.report(item[0], due, failure)

    def report(self, utterance: Utterance, due: float, failure: Exception | None) -> None:
        latency = 1e3 * (time.perf_counter() - due)
        if self.options.samples:
            run.samples.append(Sample(EPOCH + due, latency, utterance.kind, type(failure).__name__ if failure else ""))
        self.environment.events.request.fire(
            request_type=self.scheme,
            name=utterance.kind,
            response_time=latency,
            response_length=len(utterance.audio) + len(utterance.text),
            exception=failure,
            context={},
        )
        run.unanswered -= 1
        if not run.unanswered:
            runner = self.environment.runner
            gevent.spawn(runner.quit if self.options.headless else runner.stop)  # quit waits for this greenlet


class TritonUser(Caller):
    """Calls emoserve, or any Triton with the same model, over gRPC."""

    scheme = "grpc"
    client: ClassVar[EmotionClient]  # one a process: gRPC's channels to a server share one connection

    @staticmethod
    def prepare(utterance: Utterance) -> tuple[bytes | None, str]:
        return utterance.audio or None, utterance.text

    def send(self, payload: tuple[bytes | None, str]) -> None:
        self.client.analyze(*payload)


class PeerUser(Caller, FastHttpUser):
    """Calls a peer with JSON over HTTP; each user of a closed loop keeps its own connection."""

    scheme = "http"
    concurrency = MAX_IN_FLIGHT
    default_headers = {"Content-Type": "application/json"}  # noqa: RUF012 - as in its base

    @staticmethod
    def prepare(utterance: Utterance) -> bytes:
        return json.dumps({"audio": base64.b64encode(utterance.audio).decode(), "text": utterance.text}).encode()

    def on_start(self) -> None:
        self.client.get("/", catch_response=True)  # connects; the answer is not reported
        super().on_start()

    def send(self, payload: bytes) -> None:
        response = self.client.post("/analyze", data=payload, catch_response=True)  # type: ignore[arg-type]
        response.raise_for_status()
        if len(response.json()["probabilities"]) != 5:
            raise ValueError("an answer without five probabilities")


CALLERS: dict[str, type[Caller]] = {user.scheme: user for user in (TritonUser, PeerUser)}


def level(options: Any, seconds: float) -> float:
    """Return the load at a moment of the run, as a share of the requested users or rate."""
    if options.shape == "steps":
        return min(options.steps, 1 + seconds // options.period) / options.steps
    if options.shape == "bursts" and seconds % options.period >= 0.8 * options.period:
        return options.burst
    return 1.0


class LoadShape(LoadTestShape):
    """The number of users at a moment of the run; in an open loop, one for each process."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        runner: Any = self.runner
        options = runner.environment.parsed_options
        # Locust already calls this while _begin waits for the server
        seconds = self.get_run_time() if run.ready else 0.0
        # a busy machine sends some requests late, but sends all that were due
        if options.run_time and seconds >= options.run_time and (run.all_sent or not options.rate):
            return None
        users = runner.worker_count if options.rate else math.ceil(options.num_users * level(options, seconds))
        return users, users if options.rate else options.spawn_rate


@events.init_command_line_parser.add_listener
def _arguments(parser: LocustArgumentParser) -> None:
    tokenizer = "build/model_repository/preprocess/1/tokenizer.json"
    parser.add_argument("--tokenizer", default=tokenizer, help="tokenizer.json that counts text lengths")
    parser.add_argument("--seed", type=int, default=4, help="seed of utterances and arrivals")
    parser.add_argument("--requests", type=int, default=0, help="send this number of utterances, each once, and end")
    parser.add_argument("--rate", type=float, default=0.0, help="arrivals/s of an open loop; 0: closed loop")
    parser.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson", help="of the open loop")
    parser.add_argument("--shape", choices=("constant", "steps", "bursts"), default="constant", help="of the load")
    parser.add_argument("--period", type=float, default=30.0, help="seconds of a step, or from burst to burst")
    parser.add_argument("--steps", type=int, default=8, help="number of equal steps of --shape steps")
    parser.add_argument("--burst", type=float, default=4.0, help="factor of the load in the last fifth of each period")
    parser.add_argument("--retries", action="store_true", help="let the client retry if the server is busy")
    parser.add_argument("--deadline", type=float, default=30.0, help="seconds that a caller waits")
    parser.add_argument("--priority", choices=("interactive", "bulk"), default="interactive", help="of requests")
    # Locust's page has no fields for these
    page: Any = {"include_in_web_ui": False}
    uniform = "give all utterances this number of seconds and tokens; 0 leaves a modality out"
    parser.add_argument("--uniform", type=float, nargs=2, metavar=("SECONDS", "TOKENS"), help=uniform, **page)
    parser.add_argument("--samples", default="", metavar="FILE", help="CSV file to write every request to", **page)


@events.init.add_listener
def _choose(environment: Environment, **_: Any) -> None:
    """Choose the users that speak the host's protocol; a worker learns the host from its master."""
    options: Any = environment.parsed_options
    if options.requests and (isinstance(environment.runner, MasterRunner) or options.worker):
        sys.exit("error: --requests counts in one process; leave out --requests, or --master and --worker")
    if isinstance(environment.runner, WorkerRunner):
        return
    if options.samples:  # a worker sends its samples to its master; "quit" comes after requests in flight
        environment.events.quit.add_listener(lambda exit_code: _write_samples(options.samples))
    assert environment.runner is not None
    # with a load shape, Locust itself handles SIGTERM only after the load
    gevent.signal_handler(signal.SIGTERM, environment.runner.quit)
    environment.host = environment.host or "grpc://127.0.0.1:8001"
    environment.stop_timeout = environment.stop_timeout or STOP_TIMEOUT_S
    environment.user_classes = [CALLERS.get(environment.host.partition(":")[0], TritonUser)]


@events.test_start.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    """Prepare utterances and connections before the first user starts."""
    global run
    options: Any = environment.parsed_options
    runner: Any = environment.runner
    run = Run()
    if not isinstance(runner, WorkerRunner):
        # workers receive these with the other options
        options.workers, options.seconds = runner.worker_count, options.run_time or math.inf
    if isinstance(runner, MasterRunner):
        run.ready = run.all_sent = True  # workers prepare and send their own utterances
        return
    seed = options.seed + runner.worker_index
    count, tokenizer = options.requests or REPEATED_UTTERANCES, Path(options.tokenizer)
    assert environment.host is not None
    try:
        user_class = CALLERS[check_host(environment.host)]
        if options.uniform:
            seconds, tokens = options.uniform
            utterances = uniform(count, tokenizer, seconds, int(tokens), seed)
        else:
            utterances = mixed(count, tokenizer, seed)
        if user_class is TritonUser:
            _connect(environment.host, options)
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
    items = [(utterance, user_class.prepare(utterance)) for utterance in utterances]
    run.random = np.random.default_rng(seed)
    run.unanswered = options.requests or math.inf
    run.items = iter(items) if options.requests else itertools.cycle(items)
    shape: Any = environment.shape_class
    shape.reset_time()
    run.ready = True


def _connect(host: str, options: Any) -> None:
    endpoints = host.removeprefix("grpc://").split(",")
    settings = {name: getattr(options, name) for name in ("deadline", "retries", "priority")}
    TritonUser.client = EmotionClient(endpoints, **settings)
    try:
        # any call opens the channel; this one does not count as a request to a model
        ready = TritonUser.client._triton.is_server_ready(client_timeout=10)
    except InferenceServerException as error:
        raise BenchmarkError(f"{host} does not answer as a Triton does: {error.message()}") from None
    if not ready:
        raise BenchmarkError(f"the server at {host} is not ready: wait until all its models are loaded")


def _write_samples(file_name: str) -> None:
    with Path(file_name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Sample._fields)
        writer.writerows(run.samples)


@events.report_to_master.add_listener
def _send_samples(client_id: str, data: dict[str, Any]) -> None:
    data["samples"], run.samples = run.samples, []


@events.worker_report.add_listener
def _take_samples(client_id: str, data: dict[str, Any]) -> None:
    run.samples.extend(Sample(*sample) for sample in data["samples"])
