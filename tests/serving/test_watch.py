"""`python -m serving` ends when Triton can't answer any more, so that its supervisor starts it anew."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving import Triton, TritonError, triton
from tests.conftest import launched, stage


@pytest.fixture
def launcher(repository: Path) -> Iterator[psutil.Popen]:
    """The command, ready; none of its family may be left after the test, nor shared memory."""
    with launched(repository) as (process, _):
        family = process.children(recursive=True)
        regions = set(re.findall(r"/dev/shm/triton_\S+", Path(f"/proc/{family[0].pid}/maps").read_text()))
        assert len(regions) >= 3  # one for each Python stage
        try:
            yield process
            assert not psutil.wait_procs(family, timeout=30)[1]
            assert not any(Path(region).exists() for region in regions)
        finally:
            for one in family:
                if one.is_running():
                    one.kill()


@pytest.mark.parametrize("model", ["preprocess_text", "preprocess_audio", "classifier"])
def test_stage_that_died(launcher: psutil.Popen, model: str) -> None:
    started = time.monotonic()
    stage(launcher, model).kill()
    assert launcher.wait(30) == 1
    assert time.monotonic() - started < 10
    assert (
        launcher.stderr.read()
        == f"error: a process of model '{model}' died, so that requests fail; start the server again\n"
    )


def test_stage_that_is_stopped(launcher: psutil.Popen) -> None:
    stage(launcher, "classifier").suspend()
    assert launcher.wait(30) == 1
    assert (
        launcher.stderr.read()
        == "error: a process of model 'classifier' is stopped, so that requests fail; start the server again\n"
    )


def test_stage_that_stops_for_a_moment_is_forgiven(launcher: psutil.Popen) -> None:
    process = stage(launcher, "preprocess_text")
    process.suspend()
    time.sleep(0.2)  # less than from one look to the next
    process.resume()
    time.sleep(4 * triton.LOOK)
    assert launcher.poll() is None
    launcher.terminate()
    assert launcher.wait(30) == 0


def test_triton_that_is_stopped(launcher: psutil.Popen) -> None:
    launcher.children()[0].suspend()
    assert launcher.wait(30) == 1
    assert launcher.stderr.read() == "error: Triton is stopped, so that requests fail; start the server again\n"


def test_triton_does_not_outlive_a_launcher_that_is_killed(launcher: psutil.Popen) -> None:
    launcher.kill()  # the fixture sees to the rest


def test_triton_that_does_not_answer(server: Triton, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setitem(server._ports, "HTTP", silent.getsockname()[1])
        monkeypatch.setattr(server, "_exit_timeout", server._exit_timeout)  # watching shortens it
        monkeypatch.setattr(triton, "SILENCES", 2)
        with pytest.raises(TritonError, match="Triton did not answer 2 times in a row"):
            server.watch()
