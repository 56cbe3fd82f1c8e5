"""`python -m benchmarks faults`: faults in one of two replicas under a steady load, and what happens to the requests.

The load is an open loop at half the capacity through one client with its retries. Each fault is a function that
injects it, waits until the replica answers, and returns how many seconds that took, or None if it answered all along.
Its docstring is the promise. It is always promised that no request is lost.
"""

import argparse
import contextlib
import math
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import psutil
from emotion_client import EmotionClient, EmotionError
from rich.console import Console
from tritonclient.grpc import InferenceServerClient, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from benchmarks import output
from benchmarks.load import runner
from benchmarks.load.runner import Load
from benchmarks.load.workload import tokenizer_file
from benchmarks.processes import ROOT
from benchmarks.resilience.replicas import BrokenPromise, FaultSkipped, Replica

SHARE = 0.5  # of the replicas' capacity
CALM_S = 20.0  # without a fault, to compare with
MIN_WINDOW_S = 5.0  # of load by which a fault is judged
SETTLING_S = 3.0  # between faults
RECOVERY_S = 10.0  # promised
PROCESSES = ("preprocess", "queue", "vggish", "bert", "Triton")
DAMAGED_FILES = (
    "vggish/1/model.onnx",
    "vggish/1/model.onnx.data",
    "bert/1/model.onnx",
    "fusion/1/model.onnx",
    "vggish/config.pbtxt",
    "preprocess/1/tokenizer.json",
    "preprocess/1/checkpoint.json",
)
NO_MOUNTS = "needs the right to mount file systems, as root has it"
Inject = Callable[[Replica], float | None]


@dataclass(frozen=True)
class Fault:
    """A fault, its promise, and the seconds within which the replica must answer again."""

    inject: Inject
    promise: str
    within: float = RECOVERY_S


@dataclass(frozen=True)
class Injection:
    """A fault that was injected."""

    began: float  # s on the clock of time.time(); requests that were due meanwhile are judged
    ended: float  # s on the clock of time.time(); requests that were due meanwhile are judged
    recovery: float | None = None  # s until the replica answered again; None if it answered all along
    broken: tuple[str, ...] = ()  # one phrase for each promise that was not kept
    skipped: str = ""  # why the fault was not injected; "" if it was


@dataclass(frozen=True)
class Outcome:
    """The requests during a fault: their number, failures by kind, and p99 of those answered in ms."""

    requests: int
    failures: Counter[str] = field(default_factory=Counter)
    p99: float = math.nan


FAULTS: dict[str, Fault] = {}


def fault(name: str, within: float = RECOVERY_S) -> Callable[[Inject], Inject]:
    """Decorate a function that injects a fault: its docstring is the promise."""

    def register(inject: Inject) -> Inject:
        FAULTS[name] = Fault(inject, inject.__doc__ or "", within)
        return inject

    return register


def send_signal(number: signal.Signals, process: str, replica: Replica) -> float:
    """healthy again within 10 s"""
    return replica.restarts(lambda: replica.process(process).send_signal(number))


for _process in PROCESSES:
    FAULTS[f"kill-{_process}"] = Fault(partial(send_signal, signal.SIGKILL, _process), send_signal.__doc__ or "")
    FAULTS[f"stop-{_process}"] = Fault(partial(send_signal, signal.SIGSTOP, _process), send_signal.__doc__ or "")


@fault("kill-launcher", within=20.0)
def launcher_killed(replica: Replica) -> float:
    """Triton finishes what it has and ends by itself; healthy again within 20 s"""
    return replica.restarts(replica.launcher.kill)


@fault("lost-for-good")
def lost_for_good(replica: Replica) -> float:
    """the other answers alone for 15 s; callers come back by themselves"""
    replica.hold()
    time.sleep(15)
    released = time.monotonic()
    replica.release()
    took = replica.until_healthy(released)
    before = replica.answered()
    time.sleep(8)
    if replica.answered() < before + 3:
        raise BrokenPromise("callers did not come back to it")
    return took


@fault("shm-full")
def shared_memory_full(replica: Replica) -> float | None:
    """it goes on, also while requests of 32 MB come that find no room, or is back when there is room again"""

    def ask() -> None:
        request = _request(audio=bytes(32 << 20))
        with grpc.insecure_channel(replica.endpoint, [("grpc.max_send_message_length", -1)]) as channel:
            for _ in range(3):
                with contextlib.suppress(grpc.RpcError):  # expected
                    service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=5)

    return _full(replica, replica.shm, ask)


@fault("disk-full")
def disk_full(replica: Replica) -> float | None:
    """it goes on: nothing is written while it serves"""
    last = replica.launcher.pid
    took = _full(replica, replica.tmp, lambda: None)
    if replica.launcher.pid != last:
        raise BrokenPromise("it was restarted")
    return took


@fault("disk-full-at-start")
def disk_full_at_start(replica: Replica) -> float:
    """it ends with an error message until there is room, then starts"""
    if not replica.mounted:
        raise FaultSkipped(NO_MOUNTS)
    with _filled(replica.tmp):
        replica.launcher.kill()
        time.sleep(10)
        last = replica.last_line()
        if not last.startswith("error: "):
            raise BrokenPromise(f"its last line was {last!r}")
    return replica.until_healthy(time.monotonic())


@fault("damaged-at-start")
def damaged_at_start(replica: Replica) -> None:
    """a file is cut, missing, noise or one bit wrong: the start ends with one error message and status 1"""
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    with tempfile.TemporaryDirectory(dir=replica.directory) as directory:
        copy = Path(directory, "repository")
        shutil.copytree(replica.repository, copy)
        for name in DAMAGED_FILES:
            for what, damage in DAMAGES.items():
                if what == "one bit" and name.endswith(".pbtxt"):
                    continue  # configurations are edited by hand, so they have no checksum
                with _damaged(copy / name, damage):
                    command = [sys.executable, "-m", "serving", "--repository", str(copy), *ports]
                    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
                last = (done.stderr.splitlines() or [""])[-1]
                if done.returncode != 1 or not last.startswith("error: ") or "Traceback" in done.stderr:
                    raise BrokenPromise(f"{name}, {what}: status {done.returncode}, {last!r}")


@fault("damaged-while-serving")
def damaged_while_serving(replica: Replica) -> None:
    """it goes on with what it has loaded; reloading is rejected, even with the admin key"""
    last = replica.launcher.pid
    try:
        for name in DAMAGED_FILES:
            DAMAGES["noise"](replica.repository / name)
        time.sleep(5)
        with InferenceServerClient(replica.endpoint) as client:
            for headers in ({}, {"triton-grpc-protocol-admin-key": replica.admin_key}):
                with contextlib.suppress(InferenceServerException):
                    client.load_model("vggish", headers=headers)
                    raise BrokenPromise("it reloaded a model")
    finally:
        replica.restore()
    replica.check_undisturbed(last)


@fault("idle-clients")
def idle_clients(replica: Replica) -> None:
    """500 connections and 100 streams that send nothing, 100 HTTP requests without their body: it goes on"""
    last = replica.launcher.pid
    host, port = replica.endpoint.split(":")
    body = b"POST /v2/models/emotion/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{"
    over = threading.Event()

    def nothing() -> Iterator[service_pb2.ModelInferRequest]:
        over.wait()
        yield from ()

    with contextlib.ExitStack() as stack:
        stack.callback(over.set)
        for _ in range(500):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
        for _ in range(100):
            stack.enter_context(socket.create_connection(replica.http, timeout=5)).sendall(body)
        for number in range(4):
            option = [("emoserve.channel", number)]  # so that each has a connection of its own
            channel = stack.enter_context(grpc.insecure_channel(replica.endpoint, option))
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for _ in range(25):
                stack.callback(stub.ModelStreamInfer(nothing()).cancel)
        time.sleep(12)
        replica.check_undisturbed(last)


@fault("cancelled-calls")
def cancelled_calls(replica: Replica) -> None:
    """40 calls a second that are cancelled within 0.1 s, for 10 s: it goes on"""
    last = replica.launcher.pid
    random = np.random.default_rng(5)
    request = _request(text=b"hello there")
    with grpc.insecure_channel(replica.endpoint) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(400):
            call = stub.ModelInfer.future(request)
            threading.Timer(float(random.uniform(0, 0.1)), call.cancel).start()
            time.sleep(0.025)
    replica.check_undisturbed(last)


@fault("no-descriptors", within=30.0)
def no_descriptors(replica: Replica) -> float | None:
    """a Triton that cannot open any more file descriptors: it goes on, or is restarted"""
    triton, last, began = replica.process("Triton"), replica.launcher.pid, time.monotonic()
    before = triton.rlimit(psutil.RLIMIT_NOFILE)
    triton.rlimit(psutil.RLIMIT_NOFILE, (triton.num_fds() + 2, before[1]))
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(replica.http, timeout=1))
        _wait_until(lambda: replica.launcher.pid != last, 30)
    if replica.launcher.pid == last:
        triton.rlimit(psutil.RLIMIT_NOFILE, before)
    return replica.until_healthy(began)


@fault("memory-limit", within=30.0)
def memory_limit(replica: Replica) -> float:
    """sixteen recordings of 60 s need more memory than there is: the kernel kills, the replica is back within 30 s"""
    limit = replica.group / "memory.limit_in_bytes"
    if not limit.is_file():
        raise FaultSkipped("needs a writable memory controller of cgroup v1; kill-vggish is the kernel's kill")
    family = [replica.launcher, *replica.launcher.children(recursive=True)]
    needed = sum(one.memory_full_info().pss for one in family)
    last, began = replica.launcher.pid, time.monotonic()
    limit.write_text(str(needed + (32 << 20)))
    long = np.zeros(60 * 16_000, np.int16)

    def ask(_: int) -> None:
        with contextlib.suppress(EmotionError):  # expected
            client.analyze(long, rate=16_000)

    try:
        with EmotionClient(replica.endpoint, retries=False) as client, ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(16)))
            _wait_until(lambda: replica.launcher.pid != last, 30)
    finally:
        limit.write_text("-1")
    if replica.launcher.pid == last:
        raise BrokenPromise("nothing was killed")
    return replica.until_healthy(began, last)


def _write_noise(path: Path) -> None:
    """Overwrite the first 4 KiB with noise."""
    with path.open("r+b") as file:
        file.write(np.random.default_rng(6).bytes(min(4096, path.stat().st_size)))


def _flip_bit(path: Path) -> None:
    """Flip the lowest bit of the middle byte."""
    with path.open("r+b") as file:
        middle = file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "missing": Path.unlink,
    "noise": _write_noise,
    "one bit": _flip_bit,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m benchmarks faults`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument(
        "--only", nargs="+", choices=FAULTS, metavar="NAME", default=[*FAULTS], help=f"faults: {', '.join(FAULTS)}"
    )


def run(arguments: argparse.Namespace) -> int:
    """Inject the faults and print a table; return 1 if a request was lost or a promise broken, else 0."""
    console = Console(stderr=True)
    tokenizer = tokenizer_file(arguments.repository)
    injections: dict[str, Injection] = {}
    build = ROOT / "build"  # a replica does not see what is below /tmp
    build.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        # SIGTERM must leave no server and no mount behind
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-", dir=build)))
        with console.status("starting two replicas"):
            replicas = [stack.enter_context(Replica(arguments.repository, directory / name)) for name in ("a", "b")]
            for replica in replicas:
                replica.until_healthy(time.monotonic())
        host = f"grpc://{','.join(replica.endpoint for replica in replicas)}"
        with console.status("capacity"):
            rate = SHARE * runner.capacity(host, tokenizer)
        running = stack.enter_context(runner.start(host, tokenizer, rate=rate, retries=True))
        with console.status("the load without a fault"):
            before = replicas[0].answered()
            _wait_until(lambda: replicas[0].answered() > before, 30)  # Locust has started
            calm_began = time.time()
            time.sleep(CALM_S)
            calm_ended = time.time()
        for number, name in enumerate(arguments.only):
            with console.status(f"{name} ({number + 1} of {len(arguments.only)})"):
                injections[name] = inject(FAULTS[name], replicas[number % 2])
                with contextlib.suppress(BrokenPromise):  # then the next fault finds it so
                    for replica in replicas:
                        replica.until_healthy(time.monotonic())
                time.sleep(SETTLING_S)
            console.print(f"{name}: {injections[name].skipped or '; '.join(injections[name].broken) or 'done'}")
        load = running.stop()
    calm = judge(Injection(calm_began, calm_ended), load)
    outcomes = {name: judge(one, load) for name, one in injections.items()}
    print(f"{rate:.1f} requests/s, half of the capacity; without a fault p99 {calm.p99:.0f} ms")
    rows = [_row(name, one, outcomes[name]) for name, one in injections.items()]
    print(output.table(("fault", "requests", "lost", "back after", "p99", "promise"), rows, width=200))
    broken = [
        f"{name}: {phrase}"
        for name, one in injections.items()
        if (phrase := verdict(one, outcomes[name])) and not one.skipped
    ]
    total = sum(outcomes[name].requests for name, one in injections.items() if not one.skipped)
    print(
        f"FAIL: {'; '.join(broken)}" if broken else f"PASS: none of {total} requests was lost, every promise was kept"
    )
    return int(bool(broken))


def inject(fault: Fault, replica: Replica) -> Injection:
    """Inject a fault and wait until the replica answers."""
    began, recovery, broken = time.time(), None, []
    known = len(replica.log_lines())
    try:
        recovery = fault.inject(replica)
    except FaultSkipped as reason:
        return Injection(began, began, skipped=str(reason))
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


def _row(name: str, injection: Injection, outcome: Outcome) -> list[str]:
    if injection.skipped:
        return [name, "", "", "", "", f"skipped: {injection.skipped}"]
    back = "never away" if injection.recovery is None else f"{injection.recovery:.1f} s"
    lost = str(outcome.failures.total())
    return [name, str(outcome.requests), lost, back, f"{outcome.p99:.0f} ms", FAULTS[name].promise]


@contextlib.contextmanager
def _filled(place: Path) -> Iterator[None]:
    """Fill a file system up to 64 KiB; with less room, Python would choose another place for temporary files."""
    filling = place / "filling"
    try:
        with filling.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 12))
            file.truncate(file.tell() - (1 << 16))
        yield
    finally:
        filling.unlink()


@contextlib.contextmanager
def _damaged(path: Path, damage: Callable[[Path], None]) -> Iterator[None]:
    """Damage a file while the block runs; other links to it stay whole."""
    whole = path.with_suffix(".whole")
    path.rename(whole)
    try:
        shutil.copy(whole, path)
        damage(path)
        yield
    finally:
        whole.replace(path)


def _full(replica: Replica, place: Path, meanwhile: Callable[[], None]) -> float | None:
    """Fill a file system for 10 s and while `meanwhile` runs; return the recovery if the replica was restarted."""
    if not replica.mounted:
        raise FaultSkipped(NO_MOUNTS)
    last = replica.launcher.pid
    with _filled(place):
        meanwhile()
        time.sleep(10)
    took = replica.until_healthy(time.monotonic())
    return took if replica.launcher.pid != last else None


def _request(audio: bytes = b"", text: bytes = b"") -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="emotion")
    for name, value in (("AUDIO", audio), ("TEXT", text)):
        request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
        request.raw_input_contents.append(struct.pack("<I", len(value)) + value)
    return request


def _wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
