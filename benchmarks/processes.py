"""Starts the servers that benchmarks measure, waits until they answer, and stops them."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from benchmarks.errors import BenchmarkError
from serving.triton import free_ports

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0  # the full-size model takes seconds to load
EXIT_TIMEOUT_S = 60.0  # a Triton answers its requests first


def free_port() -> int:
    """Return a free TCP port of this machine."""
    return free_ports(HOST, {"server": 0})["server"]


def http_ready(url: str, json: object = None) -> Callable[[], bool]:
    """Return a function that tells whether a URL answers with status 200; with `json` it sends a POST."""

    def ready() -> bool:
        with contextlib.suppress(httpx.TransportError):  # not listening yet
            return httpx.request("GET" if json is None else "POST", url, json=json, timeout=30).is_success
        return False

    return ready


@contextmanager
def running(
    name: str, command: Sequence[str], ready: Callable[[], bool], environment: Mapping[str, str] | None = None
) -> Iterator[psutil.Popen]:
    """Run a server while the block lasts, from its first answer on.

    The command is run in the root of the repository and leads a process group, of which nothing is left afterwards.
    `ready` tells whether the server answers. Raises BenchmarkError, with `name` and the last lines of its output, if
    the server ends or does not answer in time.
    """
    with tempfile.TemporaryFile() as log:
        process = psutil.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not ready():
                status = process.poll()
                if status is not None or time.monotonic() > deadline:
                    log.seek(0)
                    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
                    what = "did not answer in time" if status is None else f"ended with exit status {status}"
                    raise BenchmarkError(f"{name} {what}; its last lines: {' | '.join(lines[-5:]) or '(none)'}")
                time.sleep(0.1)
            yield process
        finally:
            children: list[psutil.Process] = []
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
                children = process.children(recursive=True)
                process.terminate()
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(EXIT_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):  # nothing is left
                os.killpg(process.pid, signal.SIGKILL)
            psutil.wait_procs([process, *children], EXIT_TIMEOUT_S)
