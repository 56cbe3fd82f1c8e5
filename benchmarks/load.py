"""Loads one server from a Locust process of its own and returns what became of every request."""

import csv
import math
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from emotion_client import Priority
from numpy.typing import NDArray

from benchmarks.errors import BenchmarkError

ROOT = Path(__file__).parent.parent
CONNECT_TIMEOUT = 5.0  # s


@dataclass(frozen=True)
class Load:
    """Every request of a run, in the order in which they were sent.

    Attributes:
        start: float64 [n], s on the clock of time.time(): when each was sent, or due in an open loop.
        latency: float64 [n], ms from then to its answer or failure.
        kind: [n], "both", "audio" or "text".
        failure: [n], "" for an answer, else the exception's class, such as "Unavailable".
        offered: arrivals per s asked for in an open loop; None for a closed one.
    """

    start: NDArray[np.float64]
    latency: NDArray[np.float64]
    kind: list[str]
    failure: list[str]
    offered: float | None

    @property
    def answered(self) -> NDArray[np.bool_]:
        """bool [n]: which were answered."""
        return np.array([not failure for failure in self.failure], bool)

    @property
    def failures(self) -> Counter[str]:
        """How many failed, by the exception's class."""
        return Counter(failure for failure in self.failure if failure)

    @property
    def throughput(self) -> float:
        """Answers per second, from the first request to the last answer."""
        if not self.answered.any():
            return 0.0
        last = (self.start + self.latency / 1e3)[self.answered].max()
        return float(self.answered.sum() / (last - self.start[0]))

    def percentile(self, percent: float) -> float:
        """Latency in ms that so many percent of the answered requests stay under; NaN where none was answered."""
        return float(np.percentile(self.latency[self.answered], percent)) if self.answered.any() else float("nan")


def run(
    host: str,
    tokenizer: Path,
    *,
    users: int = 32,
    requests: int | None = None,
    seconds: float | None = None,
    rate: float | None = None,
    arrivals: str = "poisson",
    uniform: tuple[float, int] | None = None,
    seed: int = 4,
    retries: bool = False,
    deadline: float = 30.0,
    priority: Priority = "interactive",
) -> Load:
    """Load a server, in a closed loop unless `rate` is given.

    Args:
        host: grpc://HOST:PORT of a Triton, http://HOST:PORT of a peer.
        tokenizer: tokenizer.json that the workload's texts are measured with.
        users: callers of the closed loop, all there from the start.
        requests: the number of utterances, each sent once: two servers get the very same work.
        seconds: how long to send, in whole ones, utterances over and over; what is under way then is awaited.
        rate: arrivals per second of the open loop.
        arrivals: "poisson" or "constant".
        uniform: seconds and tokens of all utterances, rather than mixed lengths.
        retries: whether the client tries again when the server is busy.
        deadline: seconds that a caller of a Triton waits.
        priority: "bulk" gives way to "interactive", in a Triton.

    Raises:
        BenchmarkError: the server can't be reached, the options make no run, or Locust failed.
    """
    if not requests and not seconds:
        raise BenchmarkError("a load without an end: give requests or seconds")
    check_host(host)
    command = [sys.executable, "-m", "locust", "--locustfile", str(ROOT / "benchmarks" / "locustfile.py")]
    command += ["--headless", "--only-summary", "--loglevel", "ERROR", "--exit-code-on-error", "0", "--host", host]
    command += ["--users", str(users), "--spawn-rate", str(users), "--tokenizer", str(tokenizer), "--seed", str(seed)]
    if requests:
        command += ["--requests", str(requests)]
    if seconds:
        command += ["--run-time", f"{math.ceil(seconds)}s"]  # Locust takes whole ones
    if rate:
        command += ["--rate", str(rate), "--arrivals", arrivals]
    if uniform:
        command += ["--uniform", *map(str, uniform)]
    if retries:
        command += ["--retries"]
    command += ["--deadline", str(deadline), "--priority", priority]
    with tempfile.TemporaryDirectory() as directory:
        samples = Path(directory, "samples.csv")
        done = subprocess.run(
            [*command, "--samples", str(samples)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode or not samples.is_file():
            lines = done.stderr.strip().splitlines()
            reason = lines[-1].removeprefix("error: ") if lines else f"exit status {done.returncode}"
            raise BenchmarkError(f"Locust failed: {reason}")
        found = _read(samples, rate)
    if not len(found.start):
        raise BenchmarkError("no request was due within the run: make it longer, or the rate higher")
    return found


def check_host(host: str) -> str:
    """Whether something listens there.

    Returns:
        the protocol to call it with, "grpc" or "http".

    Raises:
        BenchmarkError: the host is none, or can't be reached.
    """
    parts = urlsplit(host)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("grpc", "http") or not parts.hostname or not port:
        raise BenchmarkError(f"host {host!r} is neither grpc://HOST:PORT (a Triton) nor http://HOST:PORT (a peer)")
    try:
        socket.create_connection((parts.hostname, port), CONNECT_TIMEOUT).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BenchmarkError(f"no server could be reached at {host} ({reason}); start it first") from None
    return parts.scheme


def _read(samples: Path, rate: float | None) -> Load:
    with samples.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["start"]))
    return Load(
        start=np.array([float(row["start"]) for row in rows]),
        latency=np.array([float(row["latency"]) for row in rows]),
        kind=[row["kind"] for row in rows],
        failure=[row["failure"] for row in rows],
        offered=rate,
    )
