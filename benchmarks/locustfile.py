"""Locust's users of the emotion server and of its peers; `python -m benchmarks` runs it, and so can you.

    locust -f benchmarks/locustfile.py --host grpc://127.0.0.1:8001

opens Locust's web page; with these it runs without, in the repository's root all of them:

    --headless -u 32 -r 32 -t 1m                 closed loop: 32 callers
    --headless -u 32 -r 32 --requests 500        the same, until 500 utterances are answered
    --headless --rate 20 -t 1m                   open loop: Poisson arrivals, 20 a second
    --headless --rate 20 --shape steps -t 4m     climbing in steps; --shape bursts: with a burst in every period
    --headless --rate 20 -t 2h                   soak
    --headless --rate 900 -t 1m --master --expect-workers 4, and four times --worker --master-host HOST

A host grpc://HOST:PORT is called through EmotionClient, http://HOST:PORT with a peer's JSON: POST /analyze with
{"audio": base64, "text": str}. In a closed loop a user sends the next utterance when the last is answered; in an open
loop utterances are sent when they are due, whatever has become of those before, and latency counts from then. Locust's
"response size" is the size of the utterance that was sent, since every answer has the same few bytes. The time of a run
starts when utterances and connection are ready; with --master it includes what the workers need for that.
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
from locust import FastHttpUser, LoadTestShape, User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner
from tritonclient.utils import InferenceServerException

from benchmarks.errors import BenchmarkError
from benchmarks.load import check_host
from benchmarks.workload import Utterance, mixed, uniform

grpc.experimental.gevent.init_gevent()  # before any channel is opened; importing locust has patched everything else

ENDLESS = 512  # utterances that a run without --requests sends over and over
MOST_UNDER_WAY = 2000  # requests of an open loop, per process: more are failures, rather than sent late and unnoticed
STOP_TIMEOUT = 60.0  # s that requests under way are awaited at the end
EPOCH = time.time() - time.perf_counter()  # s: the clock of latencies -> the clock of time.time()

# gRPC waits for each call in a thread of this pool: with gevent's ten, an answer is not read before older ones
gevent.get_hub().threadpool.maxsize = MOST_UNDER_WAY + 8  # and some for gevent's own use, such as looking up names


class Item(NamedTuple):
    """An utterance ready to be sent."""

    kind: str
    size: int  # bytes of its audio and text
    payload: Any  # what send() of the user class takes


class Sample(NamedTuple):
    """One request that was answered or failed; a row of the file that --samples names."""

    start: float  # s, on the clock of time.time(): when it was sent, or due
    latency: float  # ms
    kind: str
    failure: str  # the exception's class


class TooManyUnderWay(Exception):
    """An utterance of an open loop was not sent, since too many were unanswered."""


@dataclass
class Run:
    """What the users of one process share, from the start of a test to its end."""

    items: Iterator[Item] = field(default_factory=lambda: iter(()))
    awaited: float = math.inf  # requests still to be answered
    random: np.random.Generator = field(default_factory=np.random.default_rng)
    samples: list[Sample] = field(default_factory=list)
    ready: bool = False  # whether utterances and connections are there


run = Run()


class Caller(User):
    """A user in a closed loop; in an open loop, the source of its process's share of the arrivals."""

    abstract = True
    scheme: ClassVar[str]  # of the hosts that it calls

    @staticmethod
    def prepare(utterance: Utterance) -> Any:
        """What send() takes, so that as little as possible is left to do when it is sent."""
        raise NotImplementedError

    def send(self, payload: Any) -> None:
        """Send it and wait for the answer. Raises what went wrong."""
        raise NotImplementedError

    def on_start(self) -> None:
        options = self.environment.parsed_options
        assert options is not None
        self.options = options
        self.under_way = Pool(MOST_UNDER_WAY)
        self.begin = time.perf_counter()
        self.due = self.begin
        if options.rate and options.arrivals == "poisson":
            self.due += self.gap()

    def on_stop(self) -> None:
        self.under_way.join()

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
        if self.under_way.full():
            self.report(item, self.due, TooManyUnderWay(f"{MOST_UNDER_WAY} requests are unanswered"))
        else:
            self.under_way.spawn(self.call, item, self.due)
        self.due += self.gap()

    def gap(self) -> float:
        """Seconds from this process's arrival to its next."""
        rate = self.options.rate * level(self.options, self.due - self.begin) / self.options.workers
        return run.random.exponential(1 / rate) if self.options.arrivals == "poisson" else 1 / rate

    def call(self, item: Item, due: float) -> None:
        failure = None
        try:
            self.send(item.payload)
        except Exception as error:  # of whatever class: each is counted
            failure = error
        self.report(item, due, failure)

    def report(self, item: Item, due: float, failure: Exception | None) -> None:
        latency = 1e3 * (time.perf_counter() - due)
        if self.options.samples:
            run.samples.append(Sample(EPOCH + due, latency, item.kind, type(failure).__name__ if failure else ""))
        self.environment.events.request.fire(
            request_type=self.scheme,
            name=item.kind,
            response_time=latency,
            response_length=item.size,
            exception=failure,
            context={},
        )
        run.awaited -= 1
        if not run.awaited:
            runner = self.environment.runner
            gevent.spawn(runner.quit if self.options.headless else runner.stop)  # which would wait for this greenlet


class TritonUser(Caller):
    """Calls emoserve, or any Triton with the same model, over gRPC."""

    scheme = "grpc"
    client: ClassVar[EmotionClient]  # of the process: all of gRPC's channels to a server share one connection anyhow

    @staticmethod
    def prepare(utterance: Utterance) -> tuple[bytes | None, str]:
        return utterance.audio or None, utterance.text

    def send(self, payload: tuple[bytes | None, str]) -> None:
        self.client.analyze(*payload)


class PeerUser(Caller, FastHttpUser):
    """Calls a peer with JSON over HTTP; in a closed loop each user keeps a connection of its own."""

    scheme = "http"
    concurrency = MOST_UNDER_WAY
    default_headers = {"Content-Type": "application/json"}  # noqa: RUF012 - as in its base

    @staticmethod
    def prepare(utterance: Utterance) -> bytes:
        return json.dumps({"audio": base64.b64encode(utterance.audio).decode(), "text": utterance.text}).encode()

    def on_start(self) -> None:
        self.client.get("/", catch_response=True)  # connects; what it answers doesn't matter, nor is it reported
        super().on_start()

    def send(self, payload: bytes) -> None:
        response = self.client.post("/analyze", data=payload, catch_response=True)  # type: ignore[arg-type]
        response.raise_for_status()
        if len(response.json()["probabilities"]) != 5:
            raise ValueError("an answer without five probabilities")


CALLERS: dict[str, type[Caller]] = {user.scheme: user for user in (TritonUser, PeerUser)}


def level(options: Any, seconds: float) -> float:
    """The load at a moment of the run, as a share of the users or the rate asked for."""
    if options.shape == "steps":
        return min(options.steps, 1 + seconds // options.period) / options.steps
    if options.shape == "bursts" and seconds % options.period >= 0.8 * options.period:
        return options.burst
    return 1.0


class Course(LoadTestShape):
    """How many users there are at a moment of the run; in an open loop, one for each process."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        runner: Any = self.runner
        options = runner.environment.parsed_options
        # Locust asks while _begin waits for the server, which is no part of the run
        seconds = self.get_run_time() if run.ready else 0.0
        if options.run_time and seconds >= options.run_time:
            return None
        users = runner.worker_count if options.rate else math.ceil(options.num_users * level(options, seconds))
        return users, users if options.rate else options.spawn_rate


@events.init_command_line_parser.add_listener
def _arguments(parser: LocustArgumentParser) -> None:
    tokenizer = "model_repository/preprocess/1/tokenizer.json"
    parser.add_argument("--tokenizer", default=tokenizer, help="tokenizer.json that text lengths are counted with")
    parser.add_argument("--seed", type=int, default=4, help="of the utterances and the arrivals")
    parser.add_argument("--requests", type=int, default=0, help="send so many, each once, and end")
    parser.add_argument("--rate", type=float, default=0.0, help="open loop: arrivals per second; 0 for a closed loop")
    parser.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson", help="of the open loop")
    parser.add_argument("--shape", choices=("constant", "steps", "bursts"), default="constant", help="of users or rate")
    parser.add_argument("--period", type=float, default=30.0, help="seconds that a step lasts, or from burst to burst")
    parser.add_argument("--steps", type=int, default=8, help="equal steps in which --shape steps climbs")
    parser.add_argument("--burst", type=float, default=4.0, help="times the load in the last fifth of each period")
    parser.add_argument("--retries", action="store_true", help="let the client retry when the server is busy")
    parser.add_argument("--deadline", type=float, default=30.0, help="seconds that a caller waits")
    parser.add_argument("--priority", choices=("interactive", "bulk"), default="interactive", help="of the requests")
    parser.add_argument(  # Locust's page has no field for two numbers
        "--uniform",
        type=float,
        nargs=2,
        metavar=("SECONDS", "TOKENS"),
        help="utterances of one length; 0 for none of that modality",
        include_in_web_ui=False,
    )
    parser.add_argument(
        "--samples", default="", metavar="FILE", help="CSV to write all requests to", include_in_web_ui=False
    )


@events.init.add_listener
def _choose(environment: Environment, **_: Any) -> None:
    """Only users that speak the host's protocol, unless this is a worker, which learns the host from its master."""
    options: Any = environment.parsed_options
    if options.requests and (isinstance(environment.runner, MasterRunner) or options.worker):
        sys.exit("error: --requests counts in one process: leave it out, or --master and --worker")
    if isinstance(environment.runner, WorkerRunner):
        return
    environment.host = environment.host or "grpc://127.0.0.1:8001"
    environment.stop_timeout = environment.stop_timeout or STOP_TIMEOUT
    environment.user_classes = [CALLERS.get(environment.host.partition(":")[0], TritonUser)]


@events.test_start.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    """Have utterances and connections ready before the first user starts."""
    global run
    options: Any = environment.parsed_options
    runner: Any = environment.runner
    run = Run()
    if not isinstance(runner, WorkerRunner):
        # sent to workers with the other options
        options.workers, options.seconds = runner.worker_count, options.run_time or math.inf
    if isinstance(runner, MasterRunner):
        run.ready = True  # its workers prepare their own
        return
    seed = options.seed + runner.worker_index
    count, tokenizer = options.requests or ENDLESS, Path(options.tokenizer)
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
    items = [
        Item(utterance.kind, len(utterance.audio) + len(utterance.text), user_class.prepare(utterance))
        for utterance in utterances
    ]
    run.random = np.random.default_rng(seed)
    run.awaited = options.requests or math.inf
    run.items = iter(items) if options.requests else itertools.cycle(items)
    course: Any = environment.shape_class
    course.reset_time()
    run.ready = True


def _connect(host: str, options: Any) -> None:
    TritonUser.client = EmotionClient(
        host.removeprefix("grpc://"),
        deadline=options.deadline,
        retries=options.retries,
        priority=options.priority,
    )
    try:
        # any call opens the channel, and this one is not counted as a request to a model
        ready = TritonUser.client._triton.is_server_ready(client_timeout=10)
    except InferenceServerException as error:
        raise BenchmarkError(f"{host} does not answer as a Triton does: {error.message()}") from None
    if not ready:
        raise BenchmarkError(f"the server at {host} is not ready: wait until all its models are loaded")


@events.quitting.add_listener
def _end(environment: Environment, **_: Any) -> None:
    """Write the samples; a worker's were sent to its master with its statistics."""
    options: Any = environment.parsed_options
    if options.samples and not isinstance(environment.runner, WorkerRunner):
        with Path(options.samples).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Sample._fields)
            writer.writerows(run.samples)


@events.report_to_master.add_listener
def _send_samples(client_id: str, data: dict[str, Any]) -> None:
    data["samples"], run.samples = run.samples, []


@events.worker_report.add_listener
def _take_samples(client_id: str, data: dict[str, Any]) -> None:
    run.samples.extend(Sample(*sample) for sample in data["samples"])
