"""Faults: two of them for real, and what the verdict is made of."""

import re
import time
from pathlib import Path

import pytest
from emotion_client import EmotionClient, Utterance

from benchmarks import faults
from benchmarks.__main__ import main
from benchmarks.replicas import Broken, Replica, Steady

ROOT = Path(__file__).parents[2]


def test_two_faults_lose_nothing(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, less in {"CALM": 3.0, "SETTLING": 1.0, "CAPACITY_REQUESTS": 48}.items():
        monkeypatch.setattr(faults, name, less)
    only = ("kill-vggish", "damaged-while-serving")
    command = ["benchmarks", "faults", "--repository", str(repository), "--only", *only]
    monkeypatch.setattr("sys.argv", command)
    status = main()
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.strip().startswith(only)}
    for row in rows.values():  # how fast, depends on what else the machine does
        assert re.search(r" \d+ +0 +(never away|\d+\.\d s) +\d+ ms", row), lines
    assert list(rows) == list(only)
    assert "never away" in rows["damaged-while-serving"]
    assert "never away" not in rows["kill-vggish"]
    assert lines[-1].startswith("FAIL: " if status else "PASS: none of ")


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    """One that is not started."""
    return Replica(tmp_path, tmp_path / "replica")


def test_what_is_lost_is_counted(replica: Replica) -> None:
    with EmotionClient(replica.endpoint, retries=False) as client:
        began = time.monotonic()
        with Steady(client, [Utterance(text="hello there")], rate=50) as load:
            time.sleep(1)
        outcome = faults._outcome(load, began)
    assert outcome.failures.total() == outcome.requests > 10
    assert "no server could be reached" in faults._verdict(outcome)


def test_a_promise_that_is_not_kept(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "SHORTEST", 0.1)

    def inject(_: Replica) -> float:
        raise Broken("it did not even try")

    with EmotionClient(replica.endpoint) as client:
        load = Steady(client, [], rate=1)
        outcome = faults._injected(faults.Fault(inject, "all is well"), replica, load)
    assert outcome.broken == ("it did not even try",)
    slow = faults._injected(faults.Fault(lambda _: 11.0, "all is well"), replica, load)
    assert slow.broken == ("back after 11.0 s, not within 10 s",)


def test_wall_clock_is_no_measure() -> None:
    """It jumps, so nothing that serves or calls waits by it."""
    rooms = ("serving", "stages", "clients", "model_repository")
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 15
    used = re.compile(r"\btime\.time\b|\bfrom time import\b|\bdatetime\b")
    assert [str(file) for file in files if used.search(file.read_text())] == []
