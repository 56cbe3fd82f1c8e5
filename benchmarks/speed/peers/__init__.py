"""Servers that users would build instead of emoserve, with the same weights and front-end, hence the same answers.

Each HTTP peer is one short file that follows its framework's own documentation; `export` writes the padded Triton.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import HOST, free_port, http_ready, running
from serving import Triton

PEERS = {  # name -> title
    "fastapi_pytorch": "FastAPI + PyTorch",
    "fastapi_onnxruntime": "FastAPI + ONNX Runtime",
    "litserve_onnxruntime": "LitServe + ONNX Runtime",
    "padded_triton": "Triton, padded",
}


@contextmanager
def start(name: str, checkpoint: Path, directory: Path) -> Iterator[tuple[str, int]]:
    """Run a peer of PEERS with the weights of a checkpoint directory, while the block lasts.

    Yields "http://HOST:PORT" or "grpc://HOST:PORT", and the leader of its process group. `directory` keeps exports for
    the next start. Raises BenchmarkError or TritonError if the peer does not start, with the end of its output, and
    CheckpointError if the checkpoint cannot be read.
    """
    from benchmarks.speed.peers.export import export  # takes seconds to import

    files = export(checkpoint, directory)
    if name == "padded_triton":
        with Triton(files / name, http_port=0, grpc_port=0, metrics_port=0, host=HOST) as server:
            yield f"grpc://{server.grpc_url}", server.pid
        return
    port = free_port()
    command = [sys.executable, "-m", f"benchmarks.speed.peers.{name}", "--checkpoint", str(checkpoint.resolve())]
    command += ["--files", str(files), "--port", str(port)]
    ready = http_ready(f"http://{HOST}:{port}/analyze", json={"audio": "", "text": "is anybody there?"})
    with (
        tempfile.TemporaryDirectory(prefix="emoserve-") as scratch,  # LitServe leaves its workers' sockets behind
        running(f"the peer {name}", command, ready, os.environ | {"TMPDIR": scratch}) as process,
    ):
        yield f"http://{HOST}:{port}", process.pid
