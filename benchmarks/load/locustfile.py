"""Locust users that call an emotion server or one of its peers; `python -m benchmarks` runs it, and so can you.

    locust -f benchmarks/load/locustfile.py --host grpc://127.0.0.1:8001

opens Locust's web page. These options, given in the root of the repository, run without it:

    --headless -u 32 -r 32 -t 1m                 closed loop with 32 callers
    --headless -u 32 -r 32 --requests 500        the same, until 500 utterances are answered
    --headless --rate 20 -t 1m                   open loop: Poisson arrivals, 20 a second

A host grpc://HOST:PORT is called through EmotionClient, http://HOST:PORT with a peer's JSON: POST /analyze with
{"audio": base64, "text": str}. In a closed loop a user sends the next utterance after the answer to the last one. In an
open loop utterances are sent when they are due, and latency counts from then. Locust's "response size" is the size of
the utterance sent. The time of a run starts when utterances and connections are ready.
"""

# mypy: allow-untyped-decorators, allow-untyped-calls, disable-error-code="import-untyped"

import base64
import csv
import itertools
import json
import math
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
from locust import FastHttpUser, User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import STATE_RUNNING, STATE_SPAWNING
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
    """The state that the users share during a test."""

    items: Iterator[tuple[Utterance, Any]]  # with what send() takes
    random: np.random.Generator
    samples: list[Sample] = field(default_factory=list)
    users: int = 0  # that have not ended yet


run = Run(iter(()), np.random.default_rng())


class Caller(User):
    """A caller of a closed loop; in an open loop, a source of arrivals."""

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
        run.users += 1
        self.options: Any = self.environment.parsed_options
        self.in_flight = Pool(MAX_IN_FLIGHT)
        self.begin = self.due = time.perf_counter()
        if self.options.rate:
            self.due += self.gap()

    def on_stop(self) -> None:
        self.in_flight.join()
        run.users -= 1
        runner: Any = self.environment.runner
        if not run.users and runner.state in (STATE_SPAWNING, STATE_RUNNING):  # the run ends by itself
            gevent.spawn(runner.quit if self.options.headless else runner.stop)  # quit waits for this greenlet

    @task
    def work(self) -> None:
        if not self.options.rate:
            self.due = time.perf_counter()
        if self.due - self.begin >= self.options.seconds or (item := next(run.items, None)) is None:
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
        """Return the seconds from this arrival to the user's next."""
        runner: Any = self.environment.runner
        return float(run.random.exponential(runner.target_user_count / self.options.rate))

    def call(self, item: tuple[Utterance, Any], due: float) -> None:
        try:
            self.send(item[1])
            self.report(item[0], due)
        except Exception as error:  # every class is counted
            self.report(item[0], due, error)

    def report(self, utterance: Utterance, due: float, failure: Exception | None = None) -> None:
        latency = 1e3 * (time.perf_counter() - due)
        if self.options.samples:
            run.samples.append(Sample(EPOCH + due, latency, utterance.kind, type(failure).__name__ if failure else ""))
        size = len(utterance.audio) + len(utterance.text)
        what = {"request_type": self.scheme, "name": utterance.kind, "context": {}}
        self.environment.events.request.fire(response_time=latency, response_length=size, exception=failure, **what)


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


@events.init_command_line_parser.add_listener
def _arguments(parser: LocustArgumentParser) -> None:
    tokenizer = "build/model_repository/preprocess/1/tokenizer.json"
    parser.add_argument("--tokenizer", default=tokenizer, help="tokenizer.json that counts text lengths")
    parser.add_argument("--seed", type=int, default=4, help="seed of utterances and arrivals")
    parser.add_argument("--requests", type=int, default=0, help="send this number of utterances, each once, and end")
    parser.add_argument("--rate", type=float, default=0.0, help="arrivals/s of an open loop; 0: closed loop")
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
    """Choose the users that speak the host's protocol."""
    options: Any = environment.parsed_options
    # Locust's own timer would start before utterances and connections are ready
    options.seconds, options.run_time = options.run_time or math.inf, None
    if options.samples:  # "quit" comes after requests in flight
        environment.events.quit.add_listener(lambda exit_code: _write_samples(options.samples))
    environment.host = environment.host or "grpc://127.0.0.1:8001"
    environment.stop_timeout = environment.stop_timeout or STOP_TIMEOUT_S
    environment.user_classes = [CALLERS.get(environment.host.partition(":")[0], TritonUser)]


@events.test_start.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    """Prepare utterances and connections before the first user starts."""
    global run
    options: Any = environment.parsed_options
    count, tokenizer = options.requests or REPEATED_UTTERANCES, Path(options.tokenizer)
    assert environment.host is not None
    try:
        user_class = CALLERS[check_host(environment.host)]
        if options.uniform:
            seconds, tokens = options.uniform
            utterances = uniform(count, tokenizer, seconds, int(tokens), options.seed)
        else:
            utterances = mixed(count, tokenizer, options.seed)
        if user_class is TritonUser:
            _connect(environment.host, options)
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
    items = [(utterance, user_class.prepare(utterance)) for utterance in utterances]
    run = Run(iter(items) if options.requests else itertools.cycle(items), np.random.default_rng(options.seed))


def _connect(host: str, options: Any) -> None:
    settings = {name: getattr(options, name) for name in ("deadline", "retries", "priority")}
    TritonUser.client = EmotionClient(host.removeprefix("grpc://").split(","), **settings)
    try:
        # any call opens the channel; this one does not count as a request to a model
        if not TritonUser.client._triton.is_server_ready(client_timeout=10):
            raise BenchmarkError(f"the server at {host} is not ready: wait until all its models are loaded")
    except InferenceServerException as error:
        raise BenchmarkError(f"{host} does not answer as a Triton does: {error.message()}") from None


def _write_samples(file_name: str) -> None:
    with Path(file_name).open("w", newline="") as file:
        csv.writer(file).writerows([Sample._fields, *run.samples])
