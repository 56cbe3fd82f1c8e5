"""Test that `make web` starts Triton, the gateway and the page, and stops them again."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import MAKE, launched, stage

ROOT = Path(__file__).parent.parent.parent


def test_make_web_starts_everything_and_stops_it_at_ctrl_c(repository: Path, page_files: Path) -> None:
    process = subprocess.Popen(
        [*MAKE, "web", f"REPOSITORY={repository}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("open http://localhost:8080"):
            break
    else:
        pytest.fail(process.communicate()[1])
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("tritonserver" in one.name() for one in family)
    assert httpx.get("http://localhost:8080/api/health").json()["speech"] is True
    page = httpx.get("http://localhost:8080/")
    assert page.status_code == 200 and '<div id="root">' in page.text
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    assert "Traceback" not in process.communicate(timeout=40)[1]
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_web_with_a_taken_port_prints_one_line(repository: Path, page_files: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "web", "--repository", str(repository), "--port", port]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and f"page port {port}" in done.stderr


def test_web_with_a_broken_triton_exits_with_1(repository: Path, page_files: Path) -> None:
    with launched(repository, "web", "--port", "0") as (process, _):
        stage(process, "preprocess").kill()
        assert process.wait(30) == 1
        output = process.stderr.read()
    assert output.endswith("a process of model 'preprocess' died, so that requests fail; start the server again\n")


def test_web_api_only_answers_without_the_page(repository: Path) -> None:
    with launched(repository, "web", "--port", "0", "--api-only") as (_, line):
        found = re.fullmatch(r"ready: (http://localhost:\d+)/api \(Ctrl-C stops everything\)\n", line)
        assert found, line
        assert httpx.get(f"{found[1]}/api/health").json()["speech"] is True
        assert httpx.get(f"{found[1]}/").status_code == 404
