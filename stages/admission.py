"""Admission control: reject a request on arrival if its answer would come after its deadline.

Without admission control, an overloaded server computes answers for callers who have already left. The queue lengths
and the speed of the models are read from Triton's metrics, so admission works with every backend.
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
from stages.cost import USUAL_COST, delay_s
from stages.loopback import HTTP_URL, get
from stages.triton_metrics import COST, PENDING, REQUESTS, WAIT_SECONDS, WAITING, WAITING_COST, MetricsReader, Values

QUEUE = "queue"  # the stage in whose queue admitted requests wait
STAGES = ("preprocess", QUEUE)  # stages that notice that a caller has left
MODELS = ("vggish", "bert", "fusion")  # models behind these stages, in the order of their runs
POLL_INTERVAL_S = 0.1  # between two readings of the metrics while requests arrive
MAX_AGE_S = 1.0  # if the newest reading is older, every request is admitted
WINDOW_S = 5.0  # window of the speed measurement; it grows until it contains MIN_UTTERANCES
MIN_UTTERANCES = 64  # fewer are not representative, as the first of a burst share the cores with the others' decoding
MARGIN = 0.7  # used share of a timeout, because waiting requests may be longer than usual and the answer must travel
# The timeout that is assumed for requests without one is updated once a second. If requests wait, and more than
# MAX_CANCELED_SHARE of the callers and at least MIN_CANCELED left, it falls below the current wait and below the mean
# time after which callers left, by the factor DECREASE a second. Otherwise it grows by the factor INCREASE a second.
UPDATE_INTERVAL_S = 1.0
MAX_CANCELED_SHARE, MIN_CANCELED = 0.02, 2
DECREASE, INCREASE = 0.7, 1.02
MIN_DEFAULT_TIMEOUT_S = 1.0
MAX_WAIT_S = 30.0  # max_wait_seconds of the stages, which is the longest time that a request can wait


@dataclass(frozen=True)
class Instances:
    """The instances of a model.

    Attributes:
        count: number of instances.
        resource: name of the resource of Triton's rate limiter that an instance holds while it runs a batch. Models
            with the same resource run one batch at a time. "" is no limit.
    """

    count: int
    resource: str = ""

    @property
    def concurrent(self) -> int:
        """The number of instances that can run batches at the same time."""
        return 1 if self.resource else self.count


@dataclass(frozen=True)
class ModelWork:
    """Counters of a model since it was loaded.

    Attributes:
        requests: answered requests.
        utterances, batches: executed utterances and batches.
        request_seconds: the duration of each answered request's batch in seconds, summed over the requests.
        instances: the instances of the model.
    """

    requests: float
    utterances: float
    batches: float
    request_seconds: float
    instances: Instances


@dataclass(frozen=True)
class QueueSnapshot:
    """Queue lengths and counters from one reading of Triton's metrics.

    Attributes:
        time: time of the reading on a monotonic clock, in seconds.
        held: number of requests that wait in QUEUE.
        interactive, bulk: cost of those that are ahead of a usual new one, in patches.
        waiting: number of requests that wait for each of MODELS.
        passed, passed_cost: requests that have left QUEUE for the models since it was loaded, and their cost.
        work: counters of each of MODELS.
        canceled: canceled requests since the models were loaded.
        left_in_stages: canceled requests that were found in STAGES.
        waited_s: seconds that these requests had waited in STAGES.
    """

    time: float
    held: float
    interactive: float
    bulk: float
    waiting: Mapping[str, float]
    work: Mapping[str, ModelWork]
    passed: float
    passed_cost: float
    canceled: float = 0.0
    left_in_stages: float = 0.0
    waited_s: float = 0.0

    @property
    def answered(self) -> float:
        """The number of requests that the last model has answered."""
        return self.work[MODELS[-1]].requests

    @property
    def is_busy(self) -> bool:
        """Whether a request waits."""
        return any((self.held, *self.waiting.values()))

    def queued_for(self, model: str) -> float:
        """Return the number of requests behind QUEUE that a model has not run yet."""
        return sum(self.waiting[each] for each in MODELS[: MODELS.index(model) + 1])


@dataclass(frozen=True)
class Speed:
    """Durations of the models, in seconds.

    Attributes:
        bottleneck: time for a request of the mean cost by model, of the slowest model or of each model of the slowest
            group that takes turns.
        cost: the mean cost of a request, in patches.
        request: time for a request of the mean cost in each of MODELS, one after the other, when it is alone.
        batch: time for one batch of each model of the bottleneck, one after the other.
        passage: time for one batch of each of MODELS, one after the other.
    """

    bottleneck: Mapping[str, float]
    cost: float
    request: float
    batch: float
    passage: float


class Admission:
    """Admission control of one stage process: estimates the wait of each request, and rejects it if it is too long.

    Interactive requests leave the queue before bulk ones, so they wait only for other interactive requests. Requests
    that were admitted since the last reading of the metrics are counted here. Each process of the stage has its own
    Admission, which sees a share of the requests and assumes that the shares of the other processes are equal.
    """

    def __init__(
        self,
        processes: int = 1,
        default_timeout_s: float = MAX_WAIT_S,
        read: Callable[[], QueueSnapshot] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start a thread that reads the metrics, if Triton's metrics endpoint is known.

        Args:
            processes: number of processes of the stage.
            default_timeout_s: longest time in seconds that a caller without a timeout is assumed to wait.
            read: returns a snapshot; None reads Triton's metrics. Tests inject their own, and call `observe`.
            clock: returns the time in seconds; tests inject their own.
        """
        self._processes = processes
        self._longest_default_s = default_timeout_s
        self._default_timeout_s = default_timeout_s  # adapted to how long callers wait
        self._updated: QueueSnapshot | None = None  # the snapshot of the last update of that timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._snapshots: deque[QueueSnapshot] = deque()  # of the window, and the last one before it
        self._admitted: dict[bool, list[float]] = {False: [], True: []}  # costs since the newest snapshot, by `bulk`
        self._speed: Speed | None = None
        self._wanted = threading.Event()
        metrics, instances = MetricsReader(), InstancesReader()
        self._read = read or (lambda: snapshot(metrics(), instances(), clock()))
        if metrics.available and read is None:
            threading.Thread(target=self._keep_observing, name="admission", daemon=True).start()

    def check(self, timeout: int, bulk: bool, cost: float = 0.0) -> None:
        """Reject a request whose answer would come too late. If its cost is known, admit it otherwise.

        A stage checks a request twice: before it decodes the inputs, when their cost is not known, and after it.

        Args:
            timeout: time that the caller waits, in microseconds; 0 if the request has no timeout.
            bulk: whether interactive requests are served before this request.
            cost: cost of the request in patches, as `stages.cost.cost` returns it; 0.0 if it is not known yet.

        Raises:
            BusyError: the answer would come too late; the message has the expected time and the timeout.
        """
        self._wanted.set()
        with self._lock:
            newest = self._snapshots[-1] if self._snapshots else None
            # an empty queue means that the server keeps up, whatever speed was measured before
            if (
                newest is not None
                and self._speed is not None
                and newest.is_busy
                and self._clock() - newest.time < MAX_AGE_S
            ):
                queued = newest.interactive + self._admitted_cost(False, self._speed)
                if bulk:
                    queued += newest.bulk + self._admitted_cost(True, self._speed)
                waits = timeout / 1e6 or self._default_timeout_s
                own = _own_s(self._speed, cost) + _overtaken_s(cost, min(waits, MAX_WAIT_S))
                needed = _ahead_s(newest, queued, self._speed) + own
                if needed > (limit := min(MAX_WAIT_S, MARGIN * waits)):
                    caller = "the caller waits" if timeout else "a request without a timeout may take"
                    remedy = "try again later" if timeout or own > MAX_WAIT_S else "try again later, or send a timeout"
                    if limit < own <= MAX_WAIT_S:
                        longer = "longer timeout" if timeout else "timeout"
                        remedy = f"with no request ahead it takes about {own:.1f} s, so send a {longer}"
                    wait = f"an answer would take about {needed:.1f} s, and {caller} {waits:.1f} s"
                    raise BusyError(f"the server is busy: {wait}; {remedy}")
            if cost:
                self._admitted[bulk].append(cost)

    def _admitted_cost(self, bulk: bool, speed: Speed) -> float:
        """Return the cost of what was admitted since the newest snapshot; other processes admit usual requests."""
        costs = self._admitted[bulk]
        return sum(costs) + (self._processes - 1) * len(costs) * speed.cost

    def observe(self) -> None:
        """Read the metrics once, and update the queue lengths, the speed of the models and the assumed timeout.

        Raises:
            OSError: the metrics can't be read.
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
            self._admitted = {False: [], True: []}
            self._update_default_timeout(newest)
            oldest = self._snapshots[0]
            if _utterances(oldest, newest) >= MIN_UTTERANCES and newest.passed > oldest.passed:
                self._speed = speed(oldest, newest)

    def _update_default_timeout(self, newest: QueueSnapshot) -> None:
        """Shorten the assumed timeout if callers leave while requests wait, and lengthen it otherwise.

        Triton detects that a caller has left only between two steps of its request. The work for a request is wasted if
        its caller leaves after the last queue, so the wait must be shorter than the time after which callers leave.
        """
        before = self._updated or newest
        seconds = newest.time - before.time
        if self._updated is not None and seconds < UPDATE_INTERVAL_S:
            return
        self._updated = newest
        seconds = min(seconds, WINDOW_S)  # the last snapshot may be a day old
        left, answered = newest.canceled - before.canceled, newest.answered - before.answered
        leaving = left >= MIN_CANCELED and left > MAX_CANCELED_SHARE * (left + answered)
        if leaving and newest.is_busy and self._speed is not None:
            current = (_ahead_s(newest, newest.interactive, self._speed) + _own_s(self._speed)) / MARGIN
            alone = 2 * (self._speed.batch + self._speed.passage) / MARGIN  # without a queue every request is admitted
            in_stages = newest.left_in_stages - before.left_in_stages
            patience = (newest.waited_s - before.waited_s) / in_stages if in_stages else current
            shorter = min(self._default_timeout_s, current, patience) * DECREASE**seconds
            self._default_timeout_s = max(MIN_DEFAULT_TIMEOUT_S, alone, shorter)
        else:
            self._default_timeout_s *= INCREASE**seconds
        self._default_timeout_s = min(self._longest_default_s, self._default_timeout_s)

    def _keep_observing(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            with contextlib.suppress(OSError):  # without a new snapshot, check() admits after MAX_AGE_S
                self.observe()
            time.sleep(POLL_INTERVAL_S)


def _ahead_s(newest: QueueSnapshot, queued: float, speed: Speed) -> float:
    """Return the seconds that the waiting requests ahead of a request take.

    Args:
        newest: the queues when it arrives; the sizes of the requests behind QUEUE are not known.
        queued: cost of the requests ahead of it in QUEUE.
        speed: the speed of the models.
    """
    return sum((queued / speed.cost + newest.queued_for(model)) * each for model, each in speed.bottleneck.items())


def _own_s(speed: Speed, cost: float = 0.0) -> float:
    """Return the seconds that the running batches and a request's own batches take, if it has this cost."""
    return speed.batch + max(speed.passage, cost / speed.cost * speed.request)


def _overtaken_s(cost: float, waits_s: float) -> float:
    """Return the seconds within which later requests of usual cost are ordered before a request."""
    return max(0.0, delay_s(cost, waits_s) - delay_s(USUAL_COST, waits_s))


def _utterances(since: QueueSnapshot, until: QueueSnapshot) -> float:
    """Return how many utterances every model has run between two snapshots."""
    return min(until.work[model].utterances - since.work[model].utterances for model in MODELS)


def speed(since: QueueSnapshot, until: QueueSnapshot) -> Speed:
    """Return the speed of the models between two snapshots.

    Each model must have run a batch between them, and a request must have passed QUEUE.

    The speed is calculated from the durations of batches. The change of queue lengths would be misleading, because
    queues also become shorter when callers leave.
    """
    batch: dict[str, float] = {}
    alone = 0.0
    per_request: defaultdict[str, dict[str, float]] = defaultdict(dict)  # by shared resource
    for model in MODELS:
        old, new = since.work[model], until.work[model]
        requests = max(1.0, new.requests - old.requests)
        batch[model] = (new.request_seconds - old.request_seconds) / requests
        request = batch[model] / max(1.0, requests / max(1.0, new.batches - old.batches))
        alone += request
        per_request[new.instances.resource or model][model] = request / new.instances.concurrent
    bottleneck = max(per_request.values(), key=lambda models: sum(models.values()))
    cost = (until.passed_cost - since.passed_cost) / (until.passed - since.passed)
    return Speed(bottleneck, cost or 1.0, alone, sum(batch[model] for model in bottleneck), sum(batch.values()))


def snapshot(values: Values, instances: Mapping[str, Instances], now: float) -> QueueSnapshot:
    """Return the queue lengths and counters in Triton's metrics.

    Args:
        values: metrics as `stages.triton_metrics.parse` returns them.
        instances: instances of each of MODELS.
        now: time of the metrics on a monotonic clock, in seconds.
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
        values.get((WAITING, QUEUE), 0.0),
        values.get((f"{WAITING_COST}:interactive", QUEUE), 0.0),
        values.get((f"{WAITING_COST}:bulk", QUEUE), 0.0),
        {model: waiting(model) for model in MODELS},
        {model: work(model) for model in MODELS},
        values.get((f"{REQUESTS}:answered", QUEUE), 0.0),
        values.get((f"{COST}:answered", QUEUE), 0.0),
        in_stages(f"{REQUESTS}:canceled")
        + sum(values.get(("request_failure:CANCELED", model), 0.0) for model in MODELS),
        in_stages(f"{REQUESTS}:canceled"),
        in_stages(f"{WAIT_SECONDS}:canceled"),
    )


class InstancesReader:
    """Reads the instances of the models from Triton, once for each model."""

    def __init__(self, url: str | None = None) -> None:
        """Create a reader that connects at its first call.

        Args:
            url: HOST:PORT of Triton's HTTP; None for the value of the environment variable HTTP_URL.
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
    """Return the instances in a model configuration; the count of a group is for each of its GPUs."""
    groups = config["instance_group"]
    count = sum(int(group["count"]) * max(1, len(group.get("gpus") or [])) for group in groups)
    needed = {each["name"] for group in groups for each in (group.get("rate_limiter") or {}).get("resources") or []}
    return Instances(count, ",".join(sorted(needed)))
