"""What users would put together instead of emoserve, with the same weights, the same front-end and so the same answers.

Each peer is one short file (or directory of configurations) that is set up as its own documentation advises. `start`
runs one of them in processes of its own, on this machine.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from benchmarks.errors import BenchmarkError
from serving import Triton, TritonError
from serving.triton import free_ports

HOST = "127.0.0.1"
START_TIMEOUT = 120.0  # s; the full-size model takes seconds
EXIT_TIMEOUT = 10.0  # s for the request in flight


@dataclass(frozen=True)
class Peer:
    """How a table names and describes a peer."""

    title: str
    setup: str


@dataclass(frozen=True)
class RunningPeer:
    """A peer that answers.

    Attributes:
        host: "http://127.0.0.1:PORT" (POST /analyze) or "grpc://127.0.0.1:PORT" (EmotionClient).
        pid: of its first process, which leads a process group of its own.
    """

    host: str
    pid: int


PEERS: dict[str, Peer] = {
    "fastapi_pytorch": Peer(
        "FastAPI + PyTorch", "eager, one request at a time on all cores, text padded to 128 tokens"
    ),
    "fastapi_onnxruntime": Peer("FastAPI + ONNX Runtime", "each request on its own on all cores, nothing padded"),
    "litserve_onnxruntime": Peer(
        "LitServe + ONNX Runtime", "dynamic batches on all cores, text padded to the longest of the batch"
    ),
    "padded_triton": Peer(
        "Triton, padded", "a conventional ensemble: dynamic batches of equal shapes, text padded to 128 tokens"
    ),
}


@contextmanager
def start(name: str, checkpoint: Path, directory: Path) -> Iterator[RunningPeer]:
    """Run a peer for as long as the block lasts.

    Args:
        name: a key of PEERS.
        checkpoint: the checkpoint directory whose weights it serves.
        directory: where exports are kept for the next start, as `benchmarks.peers.export.export` lays them out.

    Raises:
        BenchmarkError: no such peer, or it did not come up; with the end of what it said.
        CheckpointError: the checkpoint can't be read.
    """
    if name not in PEERS:
        raise BenchmarkError(f"there is no peer {name!r}; the peers are {', '.join(PEERS)}")
    from benchmarks.peers.export import export  # takes seconds to import

    files = export(checkpoint, directory)
    running = _triton(files) if name == "padded_triton" else _http(name, checkpoint, files)
    with running as peer:
        yield peer


@contextmanager
def _triton(files: Path) -> Iterator[RunningPeer]:
    server = Triton(files / "padded_triton", http_port=0, grpc_port=0, metrics_port=0, host=HOST)
    try:
        server.start()
    except TritonError as error:
        raise BenchmarkError(f"the peer padded_triton did not start: {error}") from None
    try:
        yield RunningPeer(f"grpc://{server.grpc_url}", server.pid)
    finally:
        server.stop()


@contextmanager
def _http(name: str, checkpoint: Path, files: Path) -> Iterator[RunningPeer]:
    host = f"http://{HOST}:{(port := free_ports(HOST, {'HTTP': 0})['HTTP'])}"
    arguments = ["--checkpoint", str(checkpoint.resolve()), "--files", str(files), "--port", str(port)]
    with tempfile.TemporaryDirectory(prefix="emoserve-") as scratch, Path(scratch, "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.peers.{name}", *arguments],
            cwd=Path(__file__).parents[2],  # where the packages are
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": scratch},  # LitServe leaves the sockets of its workers behind
            start_new_session=True,  # so that LitServe's workers can be ended with it
        )
        try:
            _wait(name, process, host, log)
            yield RunningPeer(host, process.pid)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a peer with its whole process group, and return when nothing of it is left."""
    workers = []
    with contextlib.suppress(psutil.NoSuchProcess):
        workers = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(EXIT_TIMEOUT)
    with contextlib.suppress(ProcessLookupError):  # nothing was left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(workers, EXIT_TIMEOUT)


def _wait(name: str, process: subprocess.Popen[bytes], host: str, log: IO[bytes]) -> None:
    """Return when the peer answers; BenchmarkError where it ends, refuses, or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT
    body = json.dumps({"audio": "", "text": "is anybody there?"}).encode()
    request = urllib.request.Request(f"{host}/analyze", body, {"Content-Type": "application/json"})
    what = f"did not answer within {START_TIMEOUT:.0f} s"
    while time.monotonic() < deadline:
        if (status := process.poll()) is not None:
            what = f"ended with exit status {status}"
            break
        try:
            with urllib.request.urlopen(request, timeout=30):
                return
        except urllib.error.HTTPError as error:
            what = f"answered with HTTP status {error.code}"
            break
        except OSError:  # not listening yet
            time.sleep(0.1)
    log.seek(0)
    said = log.read().decode(errors="replace").split("\n")
    last = " | ".join([line.strip() for line in said if line.strip()][-5:])
    raise BenchmarkError(f"the peer {name} {what}; it said: {last or '(nothing)'}")
