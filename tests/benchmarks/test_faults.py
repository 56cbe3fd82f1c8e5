"""Test the fault benchmark: two faults with real replicas, and the verdict."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.load import runner
from benchmarks.load.runner import Load
from benchmarks.resilience import faults
from benchmarks.resilience.faults import BrokenPromise, Fault, Injection, Replica

ROOT = Path(__file__).parents[2]


def test_faults_run_with_two_faults_prints_a_row_for_each(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, less in {"CALM_S": 1.0, "MIN_WINDOW_S": 2.0, "SETTLING_S": 0.2}.items():
        monkeypatch.setattr(faults, name, less)
    monkeypatch.setattr(runner, "capacity", lambda *_: 8.0)
    only = ("kill-vggish", "damaged-while-serving")
    command = ["benchmarks", "faults", "--repository", str(repository), "--only", *only]
    monkeypatch.setattr("sys.argv", command)
    status = main()
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.strip().startswith(only)}
    for row in rows.values():  # times vary on a busy machine
        assert re.search(r" [1-9]\d* +0 +(never away|\d+\.\d s) +\d+ ms", row), lines
    assert list(rows) == list(only), printed.err
    assert "never away" in rows["damaged-while-serving"]
    assert "never away" not in rows["kill-vggish"]
    assert lines[-1].startswith("FAIL: " if status else "PASS: none of ")


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    """Return a replica that is not started."""
    return Replica(tmp_path, tmp_path / "replica")


def test_judge_counts_failures_of_requests_that_were_due_during_the_fault() -> None:
    failure = ["Unavailable" if 40 <= number < 60 and number % 2 else "" for number in range(100)]
    load = Load(1e9 + np.arange(100.0), np.full(100, 50.0), ["both"] * 100, failure)
    injection = Injection(1e9 + 30, 1e9 + 50)
    outcome = faults.judge(injection, load)
    assert (outcome.requests, outcome.failures, outcome.p99) == (20, {"Unavailable": 5}, 50.0)
    assert faults.verdict(injection, outcome) == "5 of 20 lost (Unavailable)"
    calm = faults.judge(Injection(1e9, 1e9 + 30), load)
    assert (calm.requests, faults.verdict(injection, calm)) == (30, "")


def test_inject_with_a_promise_that_is_not_kept_names_it(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "MIN_WINDOW_S", 0.1)

    def broken(_: Replica) -> float:
        raise BrokenPromise("it did not even try")

    assert faults.inject(Fault(broken, "all is well"), replica).broken == ("it did not even try",)
    slow = faults.inject(Fault(lambda _: 11.0, "all is well"), replica)
    assert (slow.recovery, slow.broken) == (11.0, ("back after 11.0 s, not within 10 s",))
    assert slow.ended - slow.began >= 0.1
    nothing = Load(np.array([0.0]), np.array([1.0]), ["both"], [""])
    outcome = faults.judge(slow, nothing)
    assert outcome.requests == 0 and math.isnan(outcome.p99)
    assert faults.verdict(slow, outcome) == "back after 11.0 s, not within 10 s"


def test_serving_code_does_not_wait_by_the_wall_clock() -> None:
    """The wall clock can jump, so servers and clients must not use it for waiting."""
    rooms = ("serving", "stages", "clients", "model_repository")
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 15
    used = re.compile(r"\btime\.time\b|\bfrom time import\b|\bdatetime\b")
    assert [str(file) for file in files if used.search(file.read_text())] == []
