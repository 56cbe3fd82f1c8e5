"""`python -m benchmarks faults`: faults injected into one of two replicas under a steady load, and what becomes of it.

The load is an open loop at half of what the replicas answer, through one client with its retries. Each fault is a
function that injects it, waits until the replica answers again, and returns how many seconds that took, or None where
it answered all along; its docstring is what is promised. Beside that it is promised, always, that no request is lost.
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
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import emotion_client
import grpc
import numpy as np
import psutil
from emotion_client import EmotionClient, EmotionError
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import InferenceServerClient, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from benchmarks import workload
from benchmarks.load import ROOT
from benchmarks.replicas import Broken, Replica, Skipped, Steady

SHARE = 0.5  # of what the replicas answer
CAPACITY_REQUESTS = 96  # that tell what they answer
USERS = 16
CALM = 20.0  # s without a fault, to compare with
SHORTEST = 5.0  # s of load that a fault is judged by
SETTLING = 3.0  # s of load from one fault to the next
BUILD = ROOT / "build"  # what is below /tmp, a replica does not see
SOON = 10.0  # s in which a replica is promised to be back
PROCESSES = ("preprocess", "queue", "vggish", "bert", "Triton")
FILES = (
    "vggish/1/model.onnx",
    "bert/1/model.onnx",
    "fusion/1/model.onnx",
    "vggish/config.pbtxt",
    "preprocess/1/tokenizer.json",
    "preprocess/1/checkpoint.json",
)
NO_MOUNTS = "needs the right to mount file systems, as root has it"


@dataclass(frozen=True)
class Fault:
    """What is injected, what is promised, and in how many seconds the replica is to be back."""

    inject: Callable[[Replica], float | None]
    promise: str
    within: float = SOON


@dataclass(frozen=True)
class Outcome:
    """What became of a fault.

    Attributes:
        requests: of the load, from the fault until the replica was back, and for 5 s at least.
        failures: of those, what and how often.
        p99: ms of those answered.
        recovery: s until the replica answered again; None where it did all along.
        broken: phrases, one for each promise that was not kept.
        skipped: why it was not injected.
    """

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    p99: float = math.nan
    recovery: float | None = None
    broken: tuple[str, ...] = ()
    skipped: str = ""


def send_signal(number: signal.Signals, process: str, replica: Replica) -> float:
    """healthy again within 10 s"""
    return replica.restarts(lambda: replica.process(process).send_signal(number))


def launcher_killed(replica: Replica) -> float:
    """Triton finishes what it has and ends by itself; healthy again within 20 s"""
    return replica.restarts(replica.launcher.kill)


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
        raise Broken("callers did not come back to it")
    return took


def shared_memory_full(replica: Replica) -> float | None:
    """it goes on, also while requests of 32 MB come that find no room, or is back when there is room again"""

    def ask() -> None:
        request = _request(audio=bytes(32 << 20))
        with grpc.insecure_channel(replica.endpoint, [("grpc.max_send_message_length", -1)]) as channel:
            for _ in range(3):
                with contextlib.suppress(grpc.RpcError):  # as was to be expected
                    service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=5)

    return _full(replica, replica.shm, ask)


def disk_full(replica: Replica) -> float | None:
    """it goes on: nothing is written while it serves"""
    last = replica.launcher.pid
    took = _full(replica, replica.tmp, lambda: None)
    if replica.launcher.pid != last:
        raise Broken("it was started anew")
    return took


def disk_full_at_start(replica: Replica) -> float:
    """it ends with a sentence until there is room, then starts"""
    if not replica.mounted:
        raise Skipped(NO_MOUNTS)
    with _filled(replica.tmp):
        replica.process("launcher").kill()
        time.sleep(10)
        last = replica.last_line()
        if not last.startswith("error: "):
            raise Broken(f"it said {last!r}")
    freed = time.monotonic()
    return replica.until_healthy(freed)


def damaged_at_start(replica: Replica) -> None:
    """a file of the models is cut, missing, noise or one bit wrong: the start ends with one sentence and status 1"""
    with tempfile.TemporaryDirectory(dir=replica.directory) as directory:
        copy = Path(directory, "repository")
        shutil.copytree(replica.repository, copy, copy_function=os.link)
        for name in FILES:
            for what, damage in DAMAGES.items():
                if what == "one bit" and name.endswith(".pbtxt"):
                    continue  # people edit these, so there is nothing to hold them to
                with _damaged(copy / name, damage):
                    command = [sys.executable, "-m", "serving", "--repository", str(copy), *ANY_PORTS]
                    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
                last = (done.stderr.splitlines() or [""])[-1]
                if done.returncode != 1 or not last.startswith("error: ") or "Traceback" in done.stderr:
                    raise Broken(f"{name}, {what}: status {done.returncode}, {last!r}")


def damaged_while_serving(replica: Replica) -> None:
    """it goes on with what it has loaded; reloading is refused, even with the admin key"""
    last = replica.launcher.pid
    try:
        for name in FILES:
            DAMAGES["noise"](replica.repository / name)
        time.sleep(5)
        with InferenceServerClient(replica.endpoint) as client:
            for headers in ({}, {"triton-grpc-protocol-admin-key": replica.admin_key}):
                with contextlib.suppress(InferenceServerException):
                    client.load_model("vggish", headers=headers)
                    raise Broken("it reloaded a model")
    finally:
        replica.restore()
    _same(replica, last)


def idle_clients(replica: Replica) -> None:
    """500 connections and 100 streams that say nothing, 100 HTTP requests without their body: it goes on"""
    last = replica.launcher.pid
    host, port = replica.endpoint.split(":")
    body = b"POST /v2/models/emotion/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{"
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(over.set)
        for _ in range(500):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
        for _ in range(100):
            connection = stack.enter_context(socket.create_connection(replica.http, timeout=5))
            connection.sendall(body)
        for number in range(4):
            option = [("emoserve.channel", number)]  # makes it a connection of its own
            channel = stack.enter_context(grpc.insecure_channel(replica.endpoint, option))
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for _ in range(25):
                stack.callback(stub.ModelStreamInfer(_silent(over)).cancel)
        time.sleep(12)
        _same(replica, last)


def cancelled_calls(replica: Replica) -> None:
    """40 calls a second that are cancelled within 0.1 s, for 10 s: it goes on"""
    last = replica.launcher.pid
    chance = np.random.default_rng(5)
    request = _request(text=b"hello there")
    with grpc.insecure_channel(replica.endpoint) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(400):
            call = stub.ModelInfer.future(request)
            threading.Timer(float(chance.uniform(0, 0.1)), call.cancel).start()
            time.sleep(0.025)
    _same(replica, last)


def no_descriptors(replica: Replica) -> float | None:
    """a Triton that can't open any more file descriptors: it goes on, or is started anew"""
    triton, last, began = replica.process("Triton"), replica.launcher.pid, time.monotonic()
    before = triton.rlimit(psutil.RLIMIT_NOFILE)
    triton.rlimit(psutil.RLIMIT_NOFILE, (triton.num_fds() + 2, before[1]))
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(replica.http, timeout=1))
        _until(lambda: replica.launcher.pid != last, 30)
    if replica.launcher.pid != last:
        return replica.until_healthy(began)
    triton.rlimit(psutil.RLIMIT_NOFILE, before)
    return replica.until_healthy(began)


def memory_limit(replica: Replica) -> float:
    """sixteen recordings of 60 s need more memory than there is: the kernel kills, the replica is back within 30 s"""
    limit = replica.group / "memory.limit_in_bytes"
    if not limit.is_file():
        raise Skipped("needs cgroup v1 with a memory controller that can be written; the kernel's kill is kill-vggish")
    family = [replica.launcher, *replica.launcher.children(recursive=True)]
    needed = sum(one.memory_full_info().pss for one in family)
    last, began = replica.launcher.pid, time.monotonic()
    limit.write_text(str(needed + (32 << 20)))
    long = np.zeros(60 * 16_000, np.int16)

    def ask(_: int) -> None:
        with contextlib.suppress(EmotionError):  # as was to be expected
            client.analyze(long, rate=16_000)

    try:
        with EmotionClient(replica.endpoint, retries=False) as client, ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(16)))
            _until(lambda: replica.launcher.pid != last, 30)
    finally:
        limit.write_text("-1")
    if replica.launcher.pid == last:
        raise Broken("nothing was killed")
    return replica.until_healthy(began, last)


def _damaged_noise(path: Path) -> None:
    """Its first 4 KiB, or all where it is shorter."""
    with path.open("r+b") as file:
        file.write(np.random.default_rng(6).bytes(min(4096, path.stat().st_size)))


def _damaged_bit(path: Path) -> None:
    """The lowest bit of its middle byte is flipped."""
    with path.open("r+b") as file:
        middle = file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "missing": Path.unlink,
    "noise": _damaged_noise,
    "one bit": _damaged_bit,
}
ANY_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


def _documented(inject: Callable[[Replica], float | None], within: float = SOON) -> Fault:
    return Fault(inject, inject.__doc__ or "", within)


FAULTS: dict[str, Fault] = {
    **{
        f"kill-{name}": Fault(partial(send_signal, signal.SIGKILL, name), send_signal.__doc__ or "")
        for name in PROCESSES
    },
    **{
        f"stop-{name}": Fault(partial(send_signal, signal.SIGSTOP, name), send_signal.__doc__ or "")
        for name in PROCESSES
    },
    "kill-launcher": _documented(launcher_killed, 20.0),
    "lost-for-good": _documented(lost_for_good),
    "shm-full": _documented(shared_memory_full),
    "disk-full": _documented(disk_full),
    "disk-full-at-start": _documented(disk_full_at_start),
    "damaged-at-start": _documented(damaged_at_start),
    "damaged-while-serving": _documented(damaged_while_serving),
    "idle-clients": _documented(idle_clients),
    "cancelled-calls": _documented(cancelled_calls),
    "no-descriptors": _documented(no_descriptors, 30.0),
    "memory-limit": _documented(memory_limit, 30.0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks faults`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument(
        "--only", nargs="+", choices=FAULTS, metavar="NAME", default=list(FAULTS), help=f"of: {', '.join(FAULTS)}"
    )


def run(arguments: argparse.Namespace) -> int:
    """Inject and print.

    Returns:
        0, or 1 where a request was lost or a promise broken.
    """
    console = Console(stderr=True)
    tokenizer = workload.tokenizer_file(arguments.repository)
    utterances = [
        emotion_client.Utterance(one.audio or None, one.text or None)
        for one in workload.mixed(CAPACITY_REQUESTS, tokenizer)
    ]
    outcomes: dict[str, Outcome] = {}
    BUILD.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        # told to stop, leave no server and no mount behind
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-", dir=BUILD)))
        with console.status("two replicas start"):
            replicas = [stack.enter_context(Replica(arguments.repository, directory / name)) for name in ("a", "b")]
            for replica in replicas:
                replica.until_healthy(time.monotonic())
        client = stack.enter_context(EmotionClient([replica.endpoint for replica in replicas]))
        with console.status("what they answer"):
            began = time.monotonic()
            client.analyze_many(utterances, USERS)
            capacity = len(utterances) / (time.monotonic() - began)
        load = stack.enter_context(Steady(client, utterances, SHARE * capacity))
        with console.status("the load without a fault"):
            time.sleep(CALM)
            calm = _outcome(load, time.monotonic() - CALM)
        for number, name in enumerate(arguments.only):
            with console.status(f"{name} ({number + 1} of {len(arguments.only)})"):
                outcomes[name] = _injected(FAULTS[name], replicas[number % 2], load)
                with contextlib.suppress(Broken):  # then the next fault finds it so
                    for replica in replicas:
                        replica.until_healthy(time.monotonic())
                time.sleep(SETTLING)
            console.print(f"{name}: {_verdict(outcomes[name])}")
    print(f"{SHARE * capacity:.1f} requests/s, half of what both answer; without a fault p99 {calm.p99:.0f} ms")
    Console(width=150).print(_table(outcomes))
    broken = [f"{name}: {_verdict(one)}" for name, one in outcomes.items() if one.broken or one.failures]
    total = sum(one.requests for one in outcomes.values())
    print(
        f"FAIL: {'; '.join(broken)}" if broken else f"PASS: none of {total} requests was lost, every promise was kept"
    )
    return int(bool(broken))


def _injected(fault: Fault, replica: Replica, load: Steady) -> Outcome:
    """Inject a fault, and see what became of the requests."""
    began, recovery, broken = time.monotonic(), None, []
    known = len(replica.said())
    try:
        recovery = fault.inject(replica)
    except Skipped as reason:
        return Outcome(skipped=str(reason))
    except Broken as reason:
        broken.append(str(reason))
    if recovery and recovery > fault.within:
        broken.append(f"back after {recovery:.1f} s, not within {fault.within:.0f} s")
    if any(line.startswith("Traceback") for line in replica.said()[known:]):
        broken.append("it ended with a traceback")
    time.sleep(max(0.0, began + SHORTEST - time.monotonic()))
    return replace(_outcome(load, began), recovery=recovery, broken=tuple(broken))


def _outcome(load: Steady, began: float) -> Outcome:
    """Of the requests since then."""
    found = load.between(began, time.monotonic())
    answered = [latency for latency, failure in found if failure is None]
    failures = Counter(f"{type(failure).__name__}: {failure}" for _, failure in found if failure)
    return Outcome(len(found), failures, 1e3 * float(np.percentile(answered, 99)) if answered else math.nan)


def _verdict(outcome: Outcome) -> str:
    """In a phrase."""
    lost = [f"{outcome.failures.total()} of {outcome.requests} lost ({', '.join(outcome.failures)})"]
    said = [*(lost if outcome.failures else []), *outcome.broken]
    return f"skipped: {outcome.skipped}" if outcome.skipped else "; ".join(said) or "as promised"


def _table(outcomes: dict[str, Outcome]) -> Table:
    table = Table(box=SIMPLE)
    for heading in ("fault", "promise"):
        table.add_column(heading)
    for heading in ("requests", "lost", "back after", "p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in outcomes.items():
        if one.skipped:
            table.add_row(name, f"skipped: {one.skipped}")
            continue
        back = "never away" if one.recovery is None else f"{one.recovery:.1f} s"
        table.add_row(
            name, FAULTS[name].promise, str(one.requests), str(one.failures.total()), back, f"{one.p99:.0f} ms"
        )
    return table


@contextlib.contextmanager
def _filled(place: Path) -> Iterator[None]:
    """A file system with room for 64 KiB: with less, Python would take another for temporary files."""
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
    """A file with something wrong while the block runs; other links to it stay whole."""
    whole = path.with_suffix(".whole")
    path.rename(whole)
    try:
        shutil.copy(whole, path)
        damage(path)
        yield
    finally:
        whole.replace(path)


def _full(replica: Replica, place: Path, meanwhile: Callable[[], None]) -> float | None:
    """A file system of its own is full for 10 s, and as long as something is done."""
    if not replica.mounted:
        raise Skipped(NO_MOUNTS)
    last = replica.launcher.pid
    with _filled(place):
        meanwhile()
        time.sleep(10)
    freed = time.monotonic()
    took = replica.until_healthy(freed)
    return took if replica.launcher.pid != last else None


def _same(replica: Replica, last: int) -> None:
    """It was not started anew, and answers."""
    if replica.launcher.pid != last:
        raise Broken(f"it was started anew: {replica.last_line()}")
    if not replica.is_healthy():
        raise Broken("it does not answer")


def _request(audio: bytes = b"", text: bytes = b"") -> service_pb2.ModelInferRequest:
    """One utterance."""
    request = service_pb2.ModelInferRequest(model_name="emotion")
    for name, value in (("AUDIO", audio), ("TEXT", text)):
        request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
        request.raw_input_contents.append(struct.pack("<I", len(value)) + value)
    return request


def _silent(over: threading.Event) -> Iterator[service_pb2.ModelInferRequest]:
    """No requests, until it is over."""
    over.wait()
    yield from ()


def _until(condition: Callable[[], bool], limit: float) -> None:
    """Wait until it holds, but for so many seconds at most."""
    end = time.monotonic() + limit
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
