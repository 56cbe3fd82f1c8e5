"""Failure detection: `python -m serving` ends when Triton can't answer, so that its supervisor restarts it."""

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from emotion_client import EmotionClient

from serving import Triton, TritonError, stalls, triton
from serving.triton import free_ports
from tests.conftest import copy_repository, errors, launched, running_triton, stage


@pytest.fixture
def launcher(repository: Path) -> Iterator[psutil.Popen]:
    """Yield the running command; after the test, none of its processes and no shared memory may be left."""
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


@pytest.mark.parametrize("model", ["preprocess", "queue", "vggish"])
def test_watch_of_a_killed_stage_ends_the_command(launcher: psutil.Popen, model: str) -> None:
    started = time.monotonic()
    stage(launcher, model).kill()
    assert launcher.wait(30) == 1
    assert time.monotonic() - started < 10
    assert (
        "".join(errors(launcher))
        == f"error: a process of model '{model}' died, so that requests fail; start the server again\n"
    )


def test_watch_of_a_stopped_stage_ends_the_command(launcher: psutil.Popen) -> None:
    stage(launcher, "vggish").suspend()
    assert launcher.wait(30) == 1
    assert (
        "".join(errors(launcher))
        == "error: a process of model 'vggish' is stopped, so that requests fail; start the server again\n"
    )


def test_watch_of_a_briefly_stopped_stage_continues(launcher: psutil.Popen) -> None:
    process = stage(launcher, "preprocess")
    process.suspend()
    time.sleep(0.2)  # less than the interval between two checks
    process.resume()
    time.sleep(4 * triton.POLL_INTERVAL_S)
    assert launcher.poll() is None
    launcher.terminate()
    assert launcher.wait(30) == 0


def test_watch_of_a_stopped_triton_ends_the_command(launcher: psutil.Popen) -> None:
    launcher.children()[0].suspend()
    assert launcher.wait(30) == 1
    assert "".join(errors(launcher)) == "error: Triton is stopped, so that requests fail; start the server again\n"


def test_launcher_killed_with_sigkill_leaves_no_process(launcher: psutil.Popen) -> None:
    launcher.kill()  # the fixture checks that no process is left


def test_watch_of_a_stage_in_an_endless_loop_fails(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "MAX_STALLED_READINGS", 3)
    looping = copy_repository(repository, tmp_path / "looping")
    stage_file = looping / "preprocess/1/model.py"
    source, line = stage_file.read_text(), "        patches, ids = zip("
    assert line in source
    stage_file.unlink()
    stage_file.write_text(source.replace(line, f'        while utterances[0][1] == b"loop": pass\n{line}'))
    with (
        ThreadPoolExecutor(3) as callers,
        running_triton(looping) as server,
        EmotionClient(server.grpc_url, retries=False) as client,
    ):
        for _ in range(3):  # one is being processed, two wait
            callers.submit(client.analyze, text="loop")
        with pytest.raises(TritonError, match=r"^model 'preprocess' has ended no batch for minutes while"):
            server.watch()


def test_stall_detector_reports_a_model_with_waiting_requests_and_no_ended_batch() -> None:

    def metrics(waiting: int, batches: int) -> str:
        return "".join(
            f'nv_inference_{name}{{model="vggish",version="1"}} {value}\n'
            for name, value in (("pending_request_count", waiting), ("exec_count", batches))
        )

    detector = stalls.StallDetector()
    assert not any(detector.stuck_model(metrics(0, 5)) for _ in range(2 * stalls.MAX_STALLED_READINGS))
    assert not any(detector.stuck_model(metrics(3, number)) for number in range(2 * stalls.MAX_STALLED_READINGS))
    assert not any(
        detector.stuck_model(metrics(3, 7)) for _ in range(stalls.MAX_STALLED_READINGS)
    )  # the first of them is the reference
    assert not detector.stuck_model("")  # Triton did not answer
    assert detector.stuck_model(metrics(3, 7)) == "vggish"


def test_stall_detector_reports_a_stage_whose_own_queue_does_not_move() -> None:
    def metrics(waiting: int, answered: int) -> str:
        labels = 'model="queue",process="queue_0_0"'
        taken = f'nv_inference_exec_count{{model="queue",version="1"}} {time.monotonic_ns()}\n'  # ignored
        held = f"emoserve_stage_waiting_requests{{{labels}}} {waiting}\n"
        return taken + held + f"emoserve_stage_requests_total{{{labels}}} {answered}\n"

    detector = stalls.StallDetector()
    assert not any(detector.stuck_model(metrics(3, number)) for number in range(2 * stalls.MAX_STALLED_READINGS))
    assert not any(detector.stuck_model(metrics(0, 7)) for _ in range(2 * stalls.MAX_STALLED_READINGS))
    found = [detector.stuck_model(metrics(3, 7)) for _ in range(stalls.MAX_STALLED_READINGS)]
    assert found[-1] == "queue" and not any(found[:-1])


def test_start_removes_shared_memory_of_a_killed_server(repository: Path) -> None:
    ports = free_ports("127.0.0.1", {"http": 0, "grpc": 0, "metrics": 0})
    arguments = [part for name, port in ports.items() for part in (f"--{name}-port", str(port))]
    regions = [set[Path](), set[Path]()]
    for found in regions:
        with launched(repository, "serving", *arguments) as (process, _):
            found |= set(Path("/dev/shm").glob(f"triton_*_{ports['grpc']}_*"))
            assert len(found) >= 3  # one for each Python stage
            killed = [process, *process.children(recursive=True)]
            for one in killed:
                one.kill()
            psutil.wait_procs(killed, timeout=30)  # until then, they hold the ports
    assert not any(region.exists() for region in regions[0])
    for region in regions[1]:
        region.unlink()


def test_watch_of_a_triton_that_does_not_answer_fails(server: Triton, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setitem(server._ports, "HTTP", silent.getsockname()[1])
        monkeypatch.setattr(
            server, "_exit_timeout", server._exit_timeout
        )  # watch() shortens it; restored after the test
        monkeypatch.setattr(triton, "MAX_FAILED_PROBES", 2)
        with pytest.raises(TritonError, match="Triton failed 2 health probes in a row"):
            server.watch()
