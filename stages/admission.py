"""Rejects a request at once where its answer would come after its deadline.

Without that an overloaded server works for callers who have left by the time it is done, and answers nobody. How much
work waits, and how long the models take for it, is read from Triton's own metrics, so it holds for any backend.
"""

import contextlib
import json
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from emotion.errors import BusyError
from stages.loopback import HTTP_URL, get
from stages.triton_metrics import PENDING, REQUESTS, WAIT_SECONDS, WAITING, MetricsReader, Values

STAGES = ("preprocess", "queue")  # in which admitted requests wait
MODELS = ("vggish", "bert", "fusion")  # behind it, one after the other
POLL_INTERVAL_S = 0.1  # between two readings of the metrics, while requests come
MAX_AGE_S = 1.0  # of the newest reading; with an older one everything is admitted
WINDOW_S = 5.0  # over which the models' speed is taken, or longer until MIN_UTTERANCES were answered
MIN_UTTERANCES = 64  # fewer say little: the first ones of a burst share the cores with the decoding of all the others
MARGIN = 0.7  # of the deadline: what waits may be longer than usual, and the answer has a way to go
# The timeout that is assumed for requests without one is judged once a second. If requests wait, and more than
# MAX_CANCELED_SHARE of the callers and at least MIN_CANCELED left, it falls below the present wait and below the mean
# time after which callers left, by DECREASE each second; otherwise it grows by INCREASE each second.
JUDGE_INTERVAL_S = 1.0
MAX_CANCELED_SHARE, MIN_CANCELED = 0.02, 2
DECREASE, INCREASE = 0.7, 1.02
MIN_DEFAULT_TIMEOUT_S = 1.0
MAX_WAIT_S = 30.0  # max_wait_seconds of the stages: no request waits longer


@dataclass(frozen=True)
class Instances:
    """The instances of a model.

    Attributes:
        count: how many there are.
        resource: name of the resource of Triton's rate limiter that an instance holds while it runs a batch. Models
            with the same resource run one batch at a time. Empty: no limit.
    """

    count: int
    resource: str = ""

    @property
    def at_once(self) -> int:
        """How many run batches at the same time."""
        return 1 if self.resource else self.count


@dataclass(frozen=True)
class ModelWork:
    """What a model has done since it was loaded.

    Attributes:
        requests: answered.
        utterances, batches: executed.
        request_seconds: the duration of each answered request's batch, summed over the requests.
        instances: of the model.
    """

    requests: float
    utterances: float
    batches: float
    request_seconds: float
    instances: Instances


@dataclass(frozen=True)
class QueueSnapshot:
    """Triton's metrics at a moment.

    Attributes:
        time: s, of a monotonic clock.
        interactive, bulk: requests that wait in STAGES.
        waiting: requests that wait for each of the models behind it.
        work: of each model.
        canceled: requests whose callers were found to have left, since the models were loaded.
        left_in_stages, waited_s: those of them that were found in STAGES, and the seconds that they had waited there.
    """

    time: float
    interactive: float
    bulk: float
    waiting: Mapping[str, float]
    work: Mapping[str, ModelWork]
    canceled: float = 0.0
    left_in_stages: float = 0.0
    waited_s: float = 0.0

    @property
    def answered(self) -> float:
        """Requests that have come out of the last model."""
        return self.work[MODELS[-1]].requests

    @property
    def all_waiting(self) -> float:
        """Requests that wait anywhere."""
        return self.interactive + self.bulk + sum(self.waiting.values())

    def behind(self, model: str) -> float:
        """Return the requests between STAGES and a model, which it has yet to take."""
        return sum(self.waiting[each] for each in MODELS[: MODELS.index(model) + 1])


@dataclass(frozen=True)
class Speed:
    """How long the models take, in seconds.

    Attributes:
        bottleneck: by model, the time for one utterance; of the slowest model, or of each model of the slowest group
            that takes turns.
        batch: one batch of each of these.
        passage: one batch of each model, one after the other.
    """

    bottleneck: Mapping[str, float]
    batch: float
    passage: float


class Admission:
    """Decides which requests still have a chance.

    Interactive requests leave the queue before bulk ones, so they wait only for other interactive requests. Requests
    that were admitted since the last reading of the metrics are counted here. Each process of the stage has an
    Admission of its own, sees its share of the requests, and assumes that the other shares are equal.
    """

    def __init__(
        self,
        processes: int = 1,
        default_timeout_s: float = MAX_WAIT_S,
        read: Callable[[], QueueSnapshot] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start to read the metrics in a thread, where there are any.

        Args:
            processes: of the stage.
            default_timeout_s: how long the caller of a request without a timeout is assumed to wait at most.
            read: replaces the reading of Triton's metrics in tests, which call `observe` themselves.
            clock: replaces time.monotonic in tests.
        """
        self._processes = processes
        self._longest_default_s = default_timeout_s
        self._default_timeout_s = default_timeout_s  # follows what callers turn out to wait
        self._judged: QueueSnapshot | None = None  # the snapshot at which that was last changed
        self._clock = clock
        self._lock = threading.Lock()
        self._snapshots: deque[QueueSnapshot] = deque()  # of the window, and the one before it
        self._admitted = {False: 0, True: 0}  # by this process since the newest snapshot, by whether it is bulk
        self._speed: Speed | None = None
        self._wanted = threading.Event()
        metrics, instances = MetricsReader(), InstancesReader()
        self._read = read or (lambda: snapshot(metrics(), instances(), clock()))
        if metrics.available and read is None:
            threading.Thread(target=self._keep_observing, name="admission", daemon=True).start()

    def check(self, timeout: int, bulk: bool) -> None:
        """Count a request as admitted, or reject it.

        Args:
            timeout: us that its caller waits; 0 if the request has no timeout.
            bulk: whether interactive requests go before it.

        Raises:
            BusyError: the answer would come too late; the message says by how much.
        """
        self._wanted.set()
        with self._lock:
            newest = self._snapshots[-1] if self._snapshots else None
            # where nothing waited a moment ago the server keeps up, whatever was learnt of its speed before
            if (
                newest is not None
                and self._speed is not None
                and newest.all_waiting
                and self._clock() - newest.time < MAX_AGE_S
            ):
                queued = newest.interactive + self._processes * self._admitted[False]
                if bulk:
                    queued += newest.bulk + self._processes * self._admitted[True]
                needed = _needed_s(newest, queued, self._speed)
                waits = timeout / 1e6 or self._default_timeout_s
                if needed > min(MAX_WAIT_S, MARGIN * waits):
                    caller = (
                        f"the caller waits {waits:.1f} s; try again later"
                        if timeout
                        else f"a request without a timeout may take {waits:.1f} s; try again later, or send a timeout"
                    )
                    raise BusyError(f"the server is busy: an answer would take about {needed:.1f} s, and {caller}")
            self._admitted[bulk] += 1

    def observe(self) -> None:
        """Read the metrics once: learn how many requests wait, and the models' speed.

        Raises:
            OSError: they cannot be read.
        """
        newest = self._read()
        with self._lock:
            self._snapshots.append(newest)
            while (
                len(self._snapshots) > 2
                and self._snapshots[1].time < newest.time - WINDOW_S
                and _utterances(self._snapshots[1], newest) >= MIN_UTTERANCES
            ):
                self._snapshots.popleft()
            self._admitted = {False: 0, True: 0}
            self._follow_callers(newest)
            oldest = self._snapshots[0]
            if _utterances(oldest, newest) >= MIN_UTTERANCES:
                self._speed = speed(oldest, newest)

    def _follow_callers(self, newest: QueueSnapshot) -> None:
        """Assume a shorter wait where callers leave while requests wait, and a longer one where they do not.

        Triton notices that a caller has left only between two steps of its request. The work for a request is wasted
        if its caller leaves after the last queue, so the wait must become shorter than the callers' patience.
        """
        judged = self._judged or newest
        seconds = newest.time - judged.time
        if self._judged is not None and seconds < JUDGE_INTERVAL_S:
            return
        self._judged = newest
        seconds = min(seconds, WINDOW_S)  # the last snapshot may be of yesterday
        left, answered = newest.canceled - judged.canceled, newest.answered - judged.answered
        leaving = left >= MIN_CANCELED and left > MAX_CANCELED_SHARE * (left + answered)
        if leaving and newest.all_waiting and self._speed is not None:
            present = _needed_s(newest, newest.interactive, self._speed) / MARGIN
            alone = 2 * (self._speed.batch + self._speed.passage) / MARGIN  # without a queue every request is admitted
            in_stages = newest.left_in_stages - judged.left_in_stages
            patience = (newest.waited_s - judged.waited_s) / in_stages if in_stages else present
            shorter = min(self._default_timeout_s, present, patience) * DECREASE**seconds
            self._default_timeout_s = max(MIN_DEFAULT_TIMEOUT_S, alone, shorter)
        else:
            self._default_timeout_s *= INCREASE**seconds
        self._default_timeout_s = min(self._longest_default_s, self._default_timeout_s)

    def _keep_observing(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            with contextlib.suppress(OSError):  # the newest snapshot ages
                self.observe()
            time.sleep(POLL_INTERVAL_S)


def _needed_s(newest: QueueSnapshot, queued: float, speed: Speed) -> float:
    """Return the seconds until the answer of a request behind `queued` others in STAGES."""
    ahead = sum((queued + newest.behind(model)) * each for model, each in speed.bottleneck.items())
    # those ahead, the batches that are running, and its own way through the models
    return ahead + speed.batch + speed.passage


def _utterances(since: QueueSnapshot, until: QueueSnapshot) -> float:
    return min(until.work[model].utterances - since.work[model].utterances for model in MODELS)


def speed(since: QueueSnapshot, until: QueueSnapshot) -> Speed:
    """Return how fast the models were between two snapshots, in each of which something was executed.

    The speed is that of the batches themselves: how fast a queue gets shorter says little where callers leave.
    """
    batch: dict[str, float] = {}
    per_utterance: defaultdict[str, dict[str, float]] = defaultdict(dict)  # by what the models share
    for model in MODELS:
        old, new = since.work[model], until.work[model]
        batch[model] = (new.request_seconds - old.request_seconds) / max(1.0, new.requests - old.requests)
        per_batch = (new.utterances - old.utterances) / max(1.0, new.batches - old.batches)
        per_utterance[new.instances.resource or model][model] = (
            batch[model] / max(1.0, per_batch) / new.instances.at_once
        )
    bottleneck = max(per_utterance.values(), key=lambda models: sum(models.values()))
    return Speed(bottleneck, sum(batch[model] for model in bottleneck), sum(batch.values()))


def snapshot(values: Values, instances: Mapping[str, Instances], now: float) -> QueueSnapshot:
    """Return what Triton's metrics say at this moment.

    Args:
        values: as `stages.triton_metrics.parse` returns them.
        instances: of each model.
        now: s, of a monotonic clock.
    """

    def waiting(model: str) -> float:
        return values.get((PENDING, model), 0.0)

    def in_stages(metric: str) -> float:
        return sum(values.get((metric, stage), 0.0) for stage in STAGES)

    def work(model: str) -> ModelWork:
        return ModelWork(
            requests=values.get(("request_success", model), 0.0),
            utterances=values.get(("count", model), 0.0),
            batches=values.get(("exec_count", model), 0.0),
            request_seconds=values.get(("compute_infer_duration_us", model), 0.0) / 1e6,
            instances=instances[model],
        )

    return QueueSnapshot(
        now,
        in_stages(f"{WAITING}:interactive"),
        in_stages(f"{WAITING}:bulk"),
        {model: waiting(model) for model in MODELS},
        {model: work(model) for model in MODELS},
        in_stages(f"{REQUESTS}:canceled")
        + sum(values.get(("request_failure:CANCELED", model), 0.0) for model in MODELS),
        in_stages(f"{REQUESTS}:canceled"),
        in_stages(f"{WAIT_SECONDS}:canceled"),
    )


class InstancesReader:
    """Asks Triton once which instances the models have."""

    def __init__(self, url: str | None = None) -> None:
        """Ask at the first call.

        Args:
            url: HOST:PORT of Triton's HTTP; None for the one that the environment variable HTTP_URL names.
        """
        self._url = url or os.environ.get(HTTP_URL, "")
        self._instances: dict[str, Instances] = {}

    def __call__(self) -> Mapping[str, Instances]:
        """Return the instances of each of MODELS.

        Raises:
            OSError: Triton does not answer.
        """
        for model in MODELS:
            if model not in self._instances:
                config = json.loads(get(f"http://{self._url}/v2/models/{model}/config", timeout=MAX_AGE_S))
                self._instances[model] = instances_of(config)
        return self._instances


def instances_of(config: Mapping[str, Any]) -> Instances:
    """Return the instances of a model, by its configuration: those of a group are on each of its GPUs."""
    groups = config["instance_group"]
    count = sum(int(group["count"]) * max(1, len(group.get("gpus") or [])) for group in groups)
    needed = {each["name"] for group in groups for each in (group.get("rate_limiter") or {}).get("resources") or []}
    return Instances(count, ",".join(sorted(needed)))
