"""Servers that users would build instead of emoserve, with the same weights and front-end, hence the same answers.

Each HTTP peer is one short file that follows its framework's own documentation; `export` writes the padded Triton.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.processes import HOST, free_port, http_ready, running
from serving import Triton, TritonError

PEERS = {  # name -> title
    "fastapi_pytorch": "FastAPI + PyTorch",
    "fastapi_onnxruntime": "FastAPI + ONNX Runtime",
    "litserve_onnxruntime": "LitServe + ONNX Runtime",
    "padded_triton": "Triton, padded",
}


@dataclass(frozen=True)
class RunningPeer:
    """A peer that answers: "http://HOST:PORT" or "grpc://HOST:PORT", and the leader of its process group."""

    host: str
    pid: int


@contextmanager
def start(name: str, checkpoint: Path, directory: Path) -> Iterator[RunningPeer]:
    """Run a peer of PEERS with the weights of a checkpoint directory, while the block lasts.

    `directory` keeps exports for the next start. Raises BenchmarkError if there is no such peer or it does not start,
    with the end of its output, and CheckpointError if the checkpoint cannot be read.
    """
    if name not in PEERS:
        raise BenchmarkError(f"there is no peer {name!r}; the peers are {', '.join(PEERS)}")
    from benchmarks.speed.peers.export import export  # takes seconds to import

    files = export(checkpoint, directory)
    if name == "padded_triton":
        try:
            with Triton(files / name, http_port=0, grpc_port=0, metrics_port=0, host=HOST) as server:
                yield RunningPeer(f"grpc://{server.grpc_url}", server.pid)
        except TritonError as error:
            raise BenchmarkError(f"the peer {name} did not start: {error}") from None
        return
    port = free_port()
    command = [sys.executable, "-m", f"benchmarks.speed.peers.{name}", "--checkpoint", str(checkpoint.resolve())]
    command += ["--files", str(files), "--port", str(port)]
    ready = http_ready(f"http://{HOST}:{port}/analyze", json={"audio": "", "text": "is anybody there?"})
    with (
        tempfile.TemporaryDirectory(prefix="emoserve-") as scratch,  # LitServe leaves its workers' sockets behind
        running(f"the peer {name}", command, ready, os.environ | {"TMPDIR": scratch}) as process,
    ):
        yield RunningPeer(f"http://{HOST}:{port}", process.pid)
