"""Test that the soak finds leaks and ends with a verdict."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks.__main__ import main
from benchmarks.load import runner
from benchmarks.load.runner import Load
from benchmarks.load.sampling import ResourceUsage, resource_usage
from benchmarks.resilience import soak
from serving import Triton
from stages.triton_metrics import MetricsReader

# allocates each resource, then, twenty times a second, more of the one named by its first argument
LEAKING = """
import mmap, sys, threading, time
what = sys.argv[1]
region = open(f"/dev/shm/emoserve-test-{sys.argv[2]}", "w+b")
region.truncate(1 << 20)
mapped = mmap.mmap(region.fileno(), 0)
kept = [bytearray(b"x" * (50 << 20))]
print("ready", flush=True)
while True:
    time.sleep(0.05)
    if what == "memory":
        kept.append(bytearray(b"x" * (1 << 18)))
    elif what == "descriptors":
        kept.append(open("/dev/null"))
    elif what == "threads":
        kept.append(threading.Thread(target=time.sleep, args=(1000,), daemon=True))
        kept[-1].start()
    elif what == "shared memory":
        region.truncate(region.seek(0, 2) + (1 << 20))
"""


@pytest.fixture
def leaking(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run a process that leads a process group and leaks a resource, and yield its id."""
    name = str(os.getpid())
    command = [sys.executable, "-c", LEAKING, request.param, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()
    Path(f"/dev/shm/emoserve-test-{name}").unlink()


def record_usage(leader: int, seconds: float) -> list[ResourceUsage]:
    end = time.monotonic() + seconds
    held = []
    while time.monotonic() < end:
        held.append(resource_usage(leader))
        time.sleep(0.02)
    return held


@pytest.mark.parametrize("leaking", ["nothing", "memory", "descriptors", "threads", "shared memory"], indirect=True)
def test_compare_with_a_leak_finds_only_this_leak(leaking: int, request: pytest.FixtureRequest) -> None:
    held = record_usage(leaking, 2.0)
    while len(held) < 12:  # on a busy machine, 2 s give too few measurements
        held += record_usage(leaking, 1.0)
    figures = soak.check_usage(held, held[0].time, held[-1].time)
    wanted = request.node.callspec.params["leaking"]
    found = {figure.name.partition(",")[0].removesuffix(" (USS)") for figure in figures if figure.violated}
    assert found - {"memory"} == {wanted} - {"memory", "nothing"}, [str(figure) for figure in figures]
    # threads need memory for their stacks
    assert ("memory" in found) == (wanted == "memory") or wanted == "threads"
    said = soak.violations(figures)
    assert len(said) == len(found)


def answers(latency: np.ndarray[tuple[int], np.dtype[np.float64]], failure: str = "") -> Load:
    """Return a load whose last but one request has this failure, if any."""
    failures = [""] * len(latency)
    failures[-2] = failure
    return Load(np.arange(len(latency), dtype=float), latency, ["both"] * len(latency), failures)


def test_violations_name_failed_requests_and_slower_answers() -> None:
    steady = ResourceUsage(0.0, 100.0, 110.0, 3.0, 200, 100)
    held = [replace(steady, time=float(second)) for second in range(300)]
    latency = np.random.default_rng(1).gamma(2.0, 50.0, 300)

    def violations(found: Load) -> list[str]:
        checks = soak.check_usage(held, 60.0, 299.0) + soak.check_latency(found, 60.0, 299.0)
        return soak.violations(checks, found)

    assert violations(answers(latency)) == []
    assert violations(answers(latency, "Unavailable")) == ["1 of 300 requests failed (1 Unavailable)"]
    rising = latency * np.linspace(1, 3, 300)
    (said,) = violations(answers(rising))
    assert said.startswith("latency, median, ms: ")
    # latency in the settling time does not count, and one outlier does not move a median
    early = latency.copy()
    early[:60] *= 10
    early[-10] = 1e5
    assert violations(answers(early)) == []
    held[200:] = [replace(one, uss_mib=101.1) for one in held[200:]]
    assert violations(answers(latency)) == ["memory (USS), MiB: 101.1 after 100.0 (at most 101.0)"]


@pytest.fixture
def short(repository: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the command of a soak with a short preparation, which may run for a few seconds."""
    monkeypatch.setattr(soak, "MIN_MINUTES", 0.0)
    monkeypatch.setattr(soak, "INTERVAL_S", 0.2)
    monkeypatch.setattr(runner, "CAPACITY_REQUESTS", 16)
    monkeypatch.setattr(runner, "CAPACITY_USERS", 4)
    monkeypatch.setattr(soak, "LARGE_BATCH_USERS", 8)
    monkeypatch.setattr(soak, "LONGEST", (2.0, 8))
    return ["benchmarks", "soak", "--repository", str(repository)]


def test_soak_run_ends_with_a_verdict(
    short: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*short, "--minutes", "0.1"])
    status = main()
    shown = capsys.readouterr().out
    last = shown.splitlines()[-1]
    assert "failed" not in shown
    # such a short run may report growing memory
    assert (status, last.partition(":")[0]) in {(0, "PASS"), (1, "FAIL")}, shown
    figures = dict(re.findall(r"(?m)^(.+?)  +(\d+\.\d) ", shown))
    assert list(figures) == [
        "memory (USS), MiB",
        "memory (PSS), MiB",
        "descriptors",
        "threads",
        "shared memory, MiB",
        "latency, median, ms",
        "latency, p99, ms",
    ]
    assert 300 < float(figures["memory (USS), MiB"]) < 4000
    assert float(figures["threads"]) > 10 and float(figures["descriptors"]) > 20
    assert float(figures["shared memory, MiB"]) >= 4  # a region for each process of a model


@pytest.mark.parametrize(
    ("enough", "last_line"),
    [(0.0, "(PASS|FAIL): "), (1.0, "interrupted after 0.[0-9] minutes; 1 are needed for a verdict")],
)
def test_soak_run_when_interrupted_judges_what_was_measured_and_leaves_no_process(
    enough: float,
    last_line: str,
    short: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    servers: list[Triton] = []

    def triton(*arguments: Any, **options: Any) -> Triton:
        servers.append(Triton(*arguments, **options))
        return servers[-1]

    def interrupt_under_load(leader: int) -> ResourceUsage:
        metrics = MetricsReader(f"http://{servers[0].metrics_url}/metrics")()
        if metrics["request_success", "emotion"] > soak.LARGE_BATCH_USERS + 4:
            os.kill(os.getpid(), signal.SIGINT)
        return resource_usage(leader)

    monkeypatch.setattr(soak, "MIN_MINUTES", enough)
    monkeypatch.setattr(soak, "Triton", triton)
    monkeypatch.setattr(soak, "resource_usage", interrupt_under_load)
    monkeypatch.setattr(runner, "capacity", lambda *_: 10.0)
    monkeypatch.setattr(sys, "argv", [*short, "--minutes", "2"])
    before = set(psutil.Process().children(recursive=True))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may ignore SIGINT
    try:
        assert main() == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert re.match(last_line, capsys.readouterr().out.splitlines()[-1])
    assert set(psutil.Process().children(recursive=True)) <= before


def test_soak_run_that_is_too_short_is_an_error(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "soak", "--repository", str(repository), "--minutes", "3"])
    assert main() == 1
    assert "error: --minutes is 3, over which noise decides: give 4 or more" in capsys.readouterr().err
