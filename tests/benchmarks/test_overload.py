"""What is made of an overload's figures, and a small one for real."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import load, overload
from benchmarks.load import Load
from benchmarks.sampling import ModelStatistics, ServerSide

KINDS = {"": 300.0, "Unavailable": 20.0, "DeadlineExceeded": 5000.0}  # ms that each takes


def found(*failures: str) -> Load:
    """Ten requests a second with these outcomes, in turns, for 20 s."""
    outcomes = [failures[number % len(failures)] for number in range(200)]
    return Load(
        start=1e9 + 0.1 * np.arange(200),
        latency=np.array([KINDS[outcome] for outcome in outcomes]),
        kind=["both"] * 200,
        failure=outcomes,
        offered=10.0,
    )


def server(computed: int, cpu: float) -> ServerSide:
    """Return a server whose first model computed so many utterances, and that used so many seconds of its cores."""
    model = ModelStatistics(computed, 1, 0.0, 0.0, 0.0, 0.0, 0.0, {})
    return ServerSide({"vggish": model}, [], {"tritonserver": cpu / 4, "vggish": 3 * cpu / 4})


def test_level() -> None:
    outcomes = found("", "Unavailable", "Unavailable", "DeadlineExceeded")
    level = overload._level(5.0, outcomes, server(computed=100, cpu=20), seconds=20)
    assert level.goodput == pytest.approx(2.5, abs=0.1)
    assert (level.p50, level.p99, level.refusal) == (300, 300, 20)
    assert (level.refused, level.late) == pytest.approx((0.5, 0.25), abs=0.01)
    assert level.wasted == 0.5  # 50 of the 200 were answered
    assert level.per_core == 2.5


def test_a_level_that_refuses_nobody() -> None:
    level = overload._level(1.0, found(""), server(computed=200, cpu=30), seconds=20)
    assert level.goodput == pytest.approx(10, abs=0.3)
    assert level.refused == level.late == level.wasted == 0
    assert np.isnan(level.refusal)


def test_turns_have_medians() -> None:
    levels = [overload._level(5.0, found(""), server(computed=200, cpu=cpu), seconds=20) for cpu in (20, 40, 25)]
    median = overload._median(levels)
    assert (median.factor, median.per_core) == (5, 8)
    assert np.isnan(median.refusal)
    assert overload._median([*levels[:2], replace(levels[2], refusal=30.0)]).refusal == 30


def test_recovery_is_counted_from_the_end_of_the_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 s in all, the flood takes those from 20 to 40, and it takes 5 s more until latencies are what they were."""
    start = 1e9 + 0.1 * np.arange(600)
    seconds = start - start[0]
    latency = np.where((seconds > 20) & (seconds < 45), 2000.0, 200.0)
    interactive = Load(start, latency, ["both"] * 600, [""] * 600, 10.0)
    poured = Load(start[200:400], latency[200:400], ["both"] * 200, [""] * 200, 10.0)

    def run(host: str, tokenizer: Path, *, priority: str = "interactive", **options: object) -> Load:
        return poured if priority == "bulk" else interactive

    monkeypatch.setattr(load, "run", run)
    flood = overload._flood("", Path(), 10.0, "bulk", argparse.Namespace(seconds=0.01, deadline=5.0))
    assert (flood.before, flood.during, flood.p99, flood.failed) == (200, 2000, 2000, 0)
    assert flood.recovery == pytest.approx(5, abs=0.7)


def test_a_real_one(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overload, "CAPACITY_REQUESTS", 32)
    monkeypatch.setattr(overload, "LEVELS", (5.0,))
    monkeypatch.setattr(overload, "FLOODS", ("bulk",))
    plot = tmp_path / "overload.png"
    overload.run(argparse.Namespace(repository=repository, seconds=3.0, rounds=1, deadline=2.0, plot=plot))
    printed = capsys.readouterr().out
    assert "5 x bulk for 3 s beside 0.5 x interactive" in printed
    assert printed.splitlines()[-1].startswith(("PASS: at 5 x, a core's goodput 1.00 of the best", "FAIL: "))
    assert plot.stat().st_size > 10_000
