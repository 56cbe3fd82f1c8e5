"""Fixtures for the hostile tests: a separate server, and a gateway in front of it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serving import Triton
from serving.triton import free_ports
from tests.conftest import ROOT, running_triton
from tests.hostile.corpus import Case, utterances


@pytest.fixture(scope="module")  # one for each file, so that memory of hostile requests is freed
def target(repository: Path) -> Iterator[Triton]:
    """Yield a Triton with the exported repository that no other tests use."""
    with running_triton(repository, log_level="error") as triton:
        yield triton


@pytest.fixture(scope="module")
def front(target: Triton) -> Iterator[tuple[psutil.Popen, str]]:
    """Yield the process of a gateway and its address."""
    port = free_ports("127.0.0.1", {"gateway": 0})["gateway"]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "web.gateway", "--port", str(port), "--metrics-port", "0"]
    command += ["--endpoints", f'["{target.grpc_url}"]']
    with psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 60
            while True:
                try:
                    httpx.get(f"{address}/api/health").raise_for_status()
                    break
                except httpx.HTTPError:
                    assert time.monotonic() < end and process.is_running()
                    time.sleep(0.1)
            yield process, address
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def corpus() -> list[Case]:
    """Return all invalid and unusual utterances."""
    return list(utterances())
