"""Admission: a request is refused at once where its answer would come after its deadline.

Without it an overloaded server goes on working for callers who have left by the time it is done, and answers nobody.
How much work waits, and how long the classifier's batches take, is read from Triton's own metrics, so it holds for any
backend.
"""

import contextlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from emotion.errors import BusyError
from stages.loopback import get

METRICS_URL = "EMOSERVE_METRICS_URL"  # set by serving.Triton for its stages; without it everything is admitted
BOTTLENECK = "classifier"
BEFORE = "preprocess_audio"  # what waits there will come to the classifier, too
LOOK = 0.1  # s from one look at the metrics to the next, while requests come
FRESH = 1.0  # s after which a look says nothing any more
MEMORY = 5.0  # s over which the classifier's speed is taken, or more where it did not do so many utterances in them:
ENOUGH = 64  # fewer say little: the first ones of a burst share the cores with the decoding of all the others
MARGIN = 0.7  # of the deadline: what waits may be longer than usual, and the answer has a way to go
LONGEST = 30.0  # s: default_timeout_microseconds of every stage, beyond which a request is not left waiting
_METRIC = re.compile(
    r"(?m)^nv_inference_(pending_request_count|count|request_success|exec_count|compute_infer_duration_us)"
    rf'{{model="({BOTTLENECK}|{BEFORE})".*}} (\S+)'
)


@dataclass(frozen=True)
class Look:
    """The metrics at a moment.

    Attributes:
        waiting: requests before the classifier, of either priority.
        answered: requests that the classifier has answered since it was loaded.
        utterances, batches: that it has done.
        seconds: that each answered request's batch took, summed over the requests.
    """

    time: float  # s, time.monotonic()
    waiting: float
    answered: float
    utterances: float
    batches: float
    seconds: float


class Admission:
    """Says which requests still have a chance. The first stage has one, and is one process, so that it sees them all.

    The classifier takes interactive requests before bulk ones, so who waits interactively waits for their like alone;
    Triton's metrics count both together, so those that were admitted and not yet answered are counted here.
    """

    def __init__(self, look: Callable[[], Look] | None = None) -> None:
        """
        Args:
            look: reads the metrics; by default from METRICS_URL of the environment. While it raises OSError or
                ValueError nothing is known, and everything is admitted.
        """
        url = os.environ.get(METRICS_URL, "")
        self._read = look or (lambda: fetch(url))
        self._lock = threading.Lock()
        self._looks: deque[Look] = deque()  # of the last MEMORY seconds, or ENOUGH utterances, and the one before
        self._interactive = 0.0  # interactive requests that waited at the last look
        self._admitted = {False: 0, True: 0}  # since that look, by whether it is bulk
        self._batch = self._each = 0.0  # s that a batch took lately, and an utterance's share of it
        self._wanted = threading.Event()
        if look or url:
            threading.Thread(target=self._keep_looking, name="admission", daemon=True).start()

    def check(self, timeout: int, bulk: bool) -> None:
        """Count a request as admitted, or refuse it.

        Args:
            timeout: us that its caller waits; 0 where the request does not say.
            bulk: whether interactive requests go before it.

        Raises:
            BusyError: the answer would come too late; the sentence says by how much.
        """
        self._wanted.set()
        with self._lock:
            look = self._looks[-1] if self._looks else None
            # where nothing waited a moment ago the server keeps up, whatever was learnt of its speed before
            if look is not None and look.waiting and self._batch and time.monotonic() - look.time < FRESH:
                ahead = self._interactive + self._admitted[False]
                if bulk:
                    ahead = look.waiting + sum(self._admitted.values())
                # those ahead, the batch that is at work, and its own
                needed = ahead * self._each + 2 * self._batch
                limit = min(LONGEST, MARGIN * timeout / 1e6) if timeout else LONGEST
                if needed > limit:
                    raise BusyError(
                        f"the server is busy: an answer would take about {needed:.1f} s, and the caller waits "
                        f"{timeout / 1e6 or LONGEST:.1f} s; try again later"
                    )
            self._admitted[bulk] += 1

    def _keep_looking(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            with contextlib.suppress(OSError, ValueError):  # the look before goes stale
                self._note(self._read())
            time.sleep(LOOK)

    def _note(self, look: Look) -> None:
        """Learn the classifier's speed, and how many interactive requests wait.

        The speed is that of the batches themselves: how fast a queue gets shorter says little where callers leave.
        """
        with self._lock:
            before = self._looks[-1] if self._looks else look
            self._looks.append(look)
            while (
                len(self._looks) > 2
                and self._looks[1].time < look.time - MEMORY
                and self._looks[1].utterances <= look.utterances - ENOUGH
            ):
                self._looks.popleft()
            admitted, self._admitted = self._admitted[False], {False: 0, True: 0}
            left = self._interactive + admitted - (look.answered - before.answered)
            # no more than are waiting: some were refused later, or their callers left
            self._interactive = min(max(0.0, left), look.waiting + admitted)
            since = self._looks[0]
            requests, utterances = look.answered - since.answered, look.utterances - since.utterances
            if requests and utterances >= ENOUGH:
                self._batch = (look.seconds - since.seconds) / requests
                self._each = self._batch * (look.batches - since.batches) / utterances


def fetch(url: str) -> Look:
    """Ask Triton's metrics endpoint. Raises OSError or ValueError where there is no answer."""
    return read(get(url, timeout=FRESH))


def read(metrics: str) -> Look:
    """Triton's metrics in Prometheus' text format, at this moment."""
    values = {(name, model): float(value) for name, model, value in _METRIC.findall(metrics)}

    def of_classifier(name: str) -> float:
        return values.get((name, BOTTLENECK), 0.0)

    return Look(
        time=time.monotonic(),
        waiting=sum(value for (name, _), value in values.items() if name == "pending_request_count"),
        answered=of_classifier("request_success"),
        utterances=of_classifier("count"),
        batches=of_classifier("exec_count"),
        seconds=of_classifier("compute_infer_duration_us") / 1e6,
    )
