"""`python -m benchmarks faults`: faults in one of two replicas under a steady load, and what happens to the requests.

Replicas run as in Kubernetes: each has its own files, and is restarted when it ends. The load is an open loop at half
the capacity through one client with its retries. Each fault has a function that injects it, waits until the replica
answers, and returns how many seconds that took, or None if it answered all along. It is always promised that no request
is lost.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from emotion_client import EmotionClient, EmotionError
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from benchmarks import output
from benchmarks.load import runner
from benchmarks.load.runner import Load
from benchmarks.load.workload import tokenizer_file
from benchmarks.processes import HOST, ROOT
from serving.triton import free_ports
from stages.triton_metrics import MetricsReader

SHARE = 0.5  # of the replicas' capacity
CALM_S = 20.0  # without a fault, to compare with
MIN_WINDOW_S = 5.0  # of load by which a fault is judged
SETTLING_S = 3.0  # between faults
RECOVERY_S = 10.0  # promised
PROCESSES = ("preprocess", "queue", "vggish", "bert", "Triton")
SERVED_FILES = ("vggish/1/model.onnx", "vggish/config.pbtxt", "bert/1/model.onnx", "preprocess/1/tokenizer.json")
HEALTHY_TIMEOUT_S = 90.0
SUPERVISOR = 'while :; do "$@"; sleep 0.5; done'


class BrokenPromise(Exception):
    """A promise was not kept; the message is one phrase."""


class Replica:
    """`python -m serving` on fixed ports with a supervisor, while the `with` block runs.

    Attributes:
        repository: its copy of the models.
        endpoint: HOST:PORT of gRPC.
    """

    def __init__(self, source: Path, directory: Path) -> None:
        """Prepare a replica of the models in `source`, which keeps its copy of them and its log in `directory`."""
        self.repository, self._log = directory / "repository", directory / "log"
        self.admin_key = secrets.token_urlsafe(32)
        self._source = source
        self._ports = free_ports(HOST, {"http": 0, "grpc": 0, "metrics": 0})
        self.endpoint = f"{HOST}:{self._ports['grpc']}"

    @property
    def launcher(self) -> psutil.Process:
        """The process that was started last; waits for it during a restart."""
        while True:
            for one in self._supervisor.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if one.name() != "sleep":
                        return one
            time.sleep(0.1)

    def process(self, name: str) -> psutil.Process:
        """Return a process by name: "Triton", or the model whose stage it runs."""
        part = "tritonserver" if name == "Triton" else f"{name}/1/"
        return next(one for one in self.launcher.children(recursive=True) if part in " ".join(one.cmdline()[:2]))

    def restore(self) -> None:
        """Make its copy of the models what it was."""
        shutil.copytree(self._source, self.repository, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))

    def is_healthy(self) -> bool:
        """Return whether it answers an utterance."""
        try:
            with EmotionClient(self.endpoint, retries=False, deadline=3) as client:
                client.analyze(text="hello there")
        except EmotionError:
            return False
        return True

    def until_healthy(self, since: float, last: int | None = None) -> float:
        """Wait until it answers, and the launcher with the process id `last` is gone.

        Returns the seconds since `since`, s on the clock of time.monotonic().
        """
        while self.launcher.pid == last or not self.is_healthy():
            if time.monotonic() > since + HEALTHY_TIMEOUT_S:
                message = f"it was not healthy within {HEALTHY_TIMEOUT_S:.0f} s; its last line: {self.last_line()}"
                raise BrokenPromise(message)
            time.sleep(0.1)
        return time.monotonic() - since

    def restarts(self, because: Callable[[], object]) -> float:
        """Break it with `because` and return the seconds until it was restarted and answered."""
        last, since = self.launcher.pid, time.monotonic()
        because()
        return self.until_healthy(since, last)

    @contextlib.contextmanager
    def lost(self) -> Iterator[None]:
        """Kill all its processes, and do not restart it while the block runs."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    def answered(self) -> float:
        """Return how many requests it answered since its last start."""
        read = MetricsReader(f"http://{HOST}:{self._ports['metrics']}/metrics")
        return read().get(("request_success", "emotion"), 0.0)

    def log_lines(self) -> list[str]:
        """Return its output over all its starts."""
        return self._log.read_text(errors="replace").splitlines() if self._log.exists() else []

    def last_line(self) -> str:
        """Return the last line of its output."""
        return (self.log_lines() or ["(no output)"])[-1]

    def __enter__(self) -> "Replica":
        self.restore()
        self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop(psutil.Process.terminate)

    def _start(self) -> None:
        command = [sys.executable, "-m", "serving", "--repository", str(self.repository)]
        command += [f"--{name}-port={port}" for name, port in self._ports.items()]
        environment = os.environ | {"EMOSERVE_ADMIN_KEY": self.admin_key}
        shell = ["sh", "-c", SUPERVISOR, "supervisor", *command]
        with self._log.open("a") as log:
            self._supervisor = psutil.Popen(
                shell, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def _stop(self, end: Callable[[psutil.Process], None] = psutil.Process.kill) -> None:
        """End the launcher, then kill what is left, the supervisor included."""
        self._supervisor.suspend()  # so that it starts nothing anew
        family = self._supervisor.children(recursive=True)
        self._supervisor.kill()  # first: a suspended parent leaves zombies, for which the others would wait
        self._supervisor.wait()
        for one, finish in ((family[0], end), *((one, psutil.Process.kill) for one in family)):
            with contextlib.suppress(psutil.Error):
                finish(one)
                one.wait(30)


Inject = Callable[[Replica], float | None]


class Fault(NamedTuple):
    """A fault, its promise, and the seconds within which the replica must answer again."""

    inject: Inject
    promise: str
    within: float = RECOVERY_S


class Injection(NamedTuple):
    """A fault that was injected."""

    began: float  # s on the clock of time.time()
    ended: float  # likewise; requests that were due meanwhile are judged
    recovery: float | None = None  # s until the replica answered again; None if it answered all along
    broken: tuple[str, ...] = ()  # one phrase for each promise that was not kept


class Outcome(NamedTuple):
    """The requests during a fault: their number, failures by kind, and p99 of those answered in ms."""

    requests: int
    failures: Counter[str]
    p99: float


def signalled(number: signal.Signals, process: str, replica: Replica) -> float:
    """Send a signal to a process of a replica; return the seconds until it was restarted and answered."""
    return replica.restarts(lambda: replica.process(process).send_signal(number))


def lost_for_good(replica: Replica) -> float:
    """Kill a replica, start it after 15 s, and return the seconds until it answered."""
    with replica.lost():
        time.sleep(15)
    took = replica.until_healthy(time.monotonic())
    before = replica.answered()
    time.sleep(8)
    if replica.answered() < before + 3:
        raise BrokenPromise("callers did not come back to it")
    return took


def damaged_while_serving(replica: Replica) -> None:
    """Overwrite parts of the served files, try to reload a model, and restore the files."""
    last = replica.launcher.pid
    try:
        for name in SERVED_FILES:
            with (replica.repository / name).open("r+b") as file:
                file.write(np.random.default_rng(6).bytes(4096))
        time.sleep(MIN_WINDOW_S)
        with InferenceServerClient(replica.endpoint) as client:
            for headers in ({}, {"triton-grpc-protocol-admin-key": replica.admin_key}):
                with contextlib.suppress(InferenceServerException):
                    client.load_model("vggish", headers=headers)
                    raise BrokenPromise("it reloaded a model")
    finally:
        replica.restore()
    if replica.launcher.pid != last or not replica.is_healthy():
        raise BrokenPromise(f"it was restarted, or does not answer: {replica.last_line()}")


FAULTS = {
    f"{verb}-{process}": Fault(partial(signalled, number, process), f"healthy again within {RECOVERY_S:g} s")
    for process in PROCESSES
    for verb, number in (("kill", signal.SIGKILL), ("stop", signal.SIGSTOP))
} | {
    "kill-launcher": Fault(
        lambda replica: replica.restarts(replica.launcher.kill),
        "Triton finishes what it has and ends by itself; healthy again within 20 s",
        within=20.0,
    ),
    "lost-for-good": Fault(lost_for_good, "the other answers alone for 15 s; callers come back by themselves"),
    "damaged-while-serving": Fault(
        damaged_while_serving, "it goes on with what it has loaded; reloading is rejected, even with the admin key"
    ),
}


def run(arguments: argparse.Namespace) -> int:
    """Inject the faults and print a table; return 1 if a request was lost or a promise broken, else 0."""
    tokenizer = tokenizer_file(arguments.repository)
    injections: dict[str, Injection] = {}
    with contextlib.ExitStack() as stack:
        # SIGTERM must leave no server behind
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emoserve-faults-")))
        with output.console.status("starting two replicas"):
            replicas = [stack.enter_context(Replica(arguments.repository, directory / name)) for name in ("a", "b")]
            for replica in replicas:
                replica.until_healthy(time.monotonic())
        host = f"grpc://{','.join(replica.endpoint for replica in replicas)}"
        rate = SHARE * runner.capacity(host, tokenizer)
        running = stack.enter_context(runner.start(host, tokenizer, rate=rate, retries=True))
        with output.console.status("the load without a fault"):
            before = replicas[0].answered()
            while running.is_running() and replicas[0].answered() == before:  # Locust starts
                time.sleep(0.1)
            calm_began = time.time()
            time.sleep(CALM_S)
            calm_ended = time.time()
        for number, name in enumerate(arguments.only):
            with output.console.status(f"{name} ({number + 1} of {len(arguments.only)})"):
                injections[name] = inject(FAULTS[name], replicas[number % 2])
                with contextlib.suppress(BrokenPromise):  # then the next fault finds it so
                    for replica in replicas:
                        replica.until_healthy(time.monotonic())
                time.sleep(SETTLING_S)
            output.console.print(f"{name}: {'; '.join(injections[name].broken) or 'done'}")
        load = running.stop()
    calm = judge(Injection(calm_began, calm_ended), load)
    print(f"{rate:.1f} requests/s, half of the capacity; without a fault p99 {calm.p99:.0f} ms")
    rows, violations, total = [], [], 0
    for name, one in injections.items():
        outcome = judge(one, load)
        total += outcome.requests
        back = "never away" if one.recovery is None else f"{one.recovery:.1f} s"
        figures = str(outcome.requests), str(outcome.failures.total()), back, f"{outcome.p99:.0f} ms"
        rows.append((name, *figures, FAULTS[name].promise))
        violations += [f"{name}: {phrase}"] if (phrase := verdict(one, outcome)) else []
    print(output.table(("fault", "requests", "lost", "back after", "p99", "promise"), rows, width=200))
    return output.verdict(violations, f"none of {total} requests was lost, every promise was kept")


def inject(fault: Fault, replica: Replica) -> Injection:
    """Inject a fault and wait until the replica answers."""
    began, recovery, broken = time.time(), None, []
    known = len(replica.log_lines())
    try:
        recovery = fault.inject(replica)
    except BrokenPromise as reason:
        broken.append(str(reason))
    if recovery and recovery > fault.within:
        broken.append(f"back after {recovery:.1f} s, not within {fault.within:.0f} s")
    if any(line.startswith("Traceback") for line in replica.log_lines()[known:]):
        broken.append("it ended with a traceback")
    time.sleep(max(0.0, began + MIN_WINDOW_S - time.time()))
    return Injection(began, time.time(), recovery, tuple(broken))


def judge(injection: Injection, load: Load) -> Outcome:
    """Return what happened to the requests that were due during a fault."""
    during = load.where((injection.began <= load.start) & (load.start < injection.ended))
    return Outcome(len(during.failure), during.failures, during.percentile(99))


def verdict(injection: Injection, outcome: Outcome) -> str:
    """Return the lost requests and broken promises as a phrase; "" if there are none."""
    kinds = ", ".join(outcome.failures)
    lost = [f"{outcome.failures.total()} of {outcome.requests} lost ({kinds})"] if outcome.failures else []
    return "; ".join([*lost, *injection.broken])
