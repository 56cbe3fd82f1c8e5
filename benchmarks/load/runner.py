"""Loads a server from a Locust process and returns what became of every request."""

import csv
import math
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from emotion_client import Priority
from numpy.typing import NDArray

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.processes import ROOT

CONNECT_TIMEOUT_S = 5.0
CAPACITY_USERS = 32
CAPACITY_REQUESTS = 160  # requests of a capacity measurement


class LoadOptions(TypedDict, total=False):
    """A load needs `requests` or `seconds`, except in `start`. It is a closed loop unless `rate` is given."""

    users: int  # callers of the closed loop (32)
    requests: int  # number of utterances, each sent once
    seconds: float  # duration, rounded up to whole seconds; requests in flight are awaited after it
    rate: float | None  # arrivals per second of the open loop
    uniform: tuple[float, int] | None  # seconds and tokens of every utterance; None: mixed lengths
    seed: int  # of the utterances and arrivals (4)
    retries: bool  # whether the client retries (no)
    deadline: float  # seconds that a caller of a Triton waits (30)
    priority: Priority  # of the requests to a Triton (interactive)


@dataclass(frozen=True)
class Load:
    """Every request of a load, in the order in which they were sent."""

    start: NDArray[np.float64]  # float64 [n], s on the clock of time.time(): when each was sent, or due in an open loop
    latency: NDArray[np.float64]  # float64 [n], ms from then to its answer or failure
    kind: list[str]  # [n], "both", "audio" or "text"
    failure: list[str]  # [n], "" for an answer, else the exception's class, such as "Unavailable"

    @property
    def answered(self) -> NDArray[np.bool_]:
        """bool [n]: which requests were answered."""
        return np.array([not failure for failure in self.failure], bool)

    @property
    def failures(self) -> Counter[str]:
        """The number of failed requests by exception class."""
        return Counter(failure for failure in self.failure if failure)

    @property
    def throughput(self) -> float:
        """Answers per second, from the first request to the last answer."""
        if not self.answered.any():
            return 0.0
        last = (self.start + self.latency / 1e3)[self.answered].max()
        return float(self.answered.sum() / (last - self.start[0]))

    def percentile(self, percent: float) -> float:
        """Return a percentile of the answered requests' latency in ms; NaN if none was answered."""
        return percentile(self.latency[self.answered], percent)

    def where(self, chosen: NDArray[np.bool_]) -> "Load":
        """Return the requests that a mask [n] chooses."""
        kind, failure = (list(np.array(values, object)[chosen]) for values in (self.kind, self.failure))
        return Load(self.start[chosen], self.latency[chosen], kind, failure)


def percentile(values: NDArray[np.float64], percent: float) -> float:
    """Return a percentile of values; NaN if there are none."""
    return float(np.percentile(values, percent)) if values.size else math.nan


class RunningLoad:
    """A Locust process that sends requests."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process, self._directory = process, directory

    def is_running(self) -> bool:
        """Return whether the load has not ended yet."""
        return self._process.poll() is None

    def stop(self) -> Load:
        """End the load, wait for requests in flight, and return all requests."""
        self._process.terminate()
        return self.result()

    def result(self) -> Load:
        """Wait for the end of the load and return its requests. Raises BenchmarkError if Locust failed or sent none."""
        status = self._process.wait()
        samples = self._directory / "samples.csv"
        if status or not samples.is_file():
            lines = (self._directory / "log").read_text().strip().splitlines()
            reason = lines[-1].removeprefix("error: ") if lines else f"exit status {status}"
            raise BenchmarkError(f"Locust failed: {reason}")
        with samples.open(newline="") as file:
            written = list(csv.reader(file))[1:]
        rows = sorted((float(start), float(latency), kind, failure) for start, latency, kind, failure in written)
        if not rows:
            raise BenchmarkError("no request was due within the run: make it longer, or the rate higher")
        starts, latencies, kinds, failures = zip(*rows, strict=True)
        return Load(np.array(starts), np.array(latencies), list(kinds), list(failures))


def run(host: str, tokenizer: Path, **options: Unpack[LoadOptions]) -> Load:
    """Load a server and return what became of every request.

    The host is grpc://HOST:PORT of a Triton (several separated by commas) or http://HOST:PORT of a peer; tokenizer.json
    counts the lengths of texts. Raises BenchmarkError if the server cannot be reached, the options have no end, or
    Locust fails.
    """
    if not options.get("requests") and not options.get("seconds"):
        raise BenchmarkError("a load without an end: give requests or seconds")
    with start(host, tokenizer, **options) as load:
        return load.result()


@contextmanager
def start(host: str, tokenizer: Path, **options: Unpack[LoadOptions]) -> Iterator[RunningLoad]:
    """Load a server in the background while the block lasts. Arguments and errors are those of `run`."""
    check_host(host)
    with tempfile.TemporaryDirectory(prefix="emoserve-load-") as name:
        directory = Path(name)
        command = [sys.executable, "-m", "locust", "--locustfile", str(ROOT / "benchmarks/load/locustfile.py")]
        command += ["--headless", "--only-summary", "--loglevel", "ERROR", "--exit-code-on-error", "0", "--host", host]
        command += ["--tokenizer", str(tokenizer), "--samples", str(directory / "samples.csv"), *_flags(options)]
        with (directory / "log").open("w") as log:
            # in a session of its own, so that Ctrl-C in a terminal does not end it
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log, text=True, start_new_session=True
            )
        try:
            yield RunningLoad(process, directory)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def capacity(host: str, tokenizer: Path, uniform: tuple[float, int] | None = None) -> float:
    """Return the answers/s of a closed loop, after a warm-up. Arguments and errors are those of `run`."""
    with output.console.status("capacity"):
        run(host, tokenizer, users=CAPACITY_USERS, requests=CAPACITY_USERS, uniform=uniform)
        return run(host, tokenizer, users=CAPACITY_USERS, requests=CAPACITY_REQUESTS, uniform=uniform).throughput


def _flags(options: LoadOptions) -> list[str]:
    """Return the options as Locust's command line has them."""
    users = 1 if options.get("rate") else options.get("users", 32)  # one sends all arrivals of an open loop
    flags: dict[str, object] = {"users": users, "spawn-rate": users}
    flags |= {name: options.get(name) for name in ("requests", "rate", "seed", "deadline", "priority")}
    if seconds := options.get("seconds"):
        flags["run-time"] = f"{math.ceil(seconds)}s"  # Locust takes whole seconds
    parts = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    parts += ["--uniform", *map(str, uniform)] if (uniform := options.get("uniform")) else []
    return [*parts, "--retries"] if options.get("retries") else parts


def check_host(host: str) -> str:
    """Return the protocol of a host, "grpc" or "http". Raises BenchmarkError if it is malformed or not listening."""
    scheme, _, addresses = host.partition("://")
    for address in addresses.split(","):
        name, _, port = address.rpartition(":")
        if scheme not in ("grpc", "http") or not name or not port.isdecimal():
            raise BenchmarkError(f"host {host!r} is neither grpc://HOST:PORT (a Triton) nor http://HOST:PORT (a peer)")
        try:
            socket.create_connection((name.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise BenchmarkError(f"no server could be reached at {host} ({reason}); start it first") from None
    return scheme
