"""Test the calculations of the overload benchmark, and a small run."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load import runner
from benchmarks.load.runner import Load
from benchmarks.load.sampling import ModelStatistics, ServerUsage
from benchmarks.resilience import overload

LATENCY_MS = {"": 300.0, "Unavailable": 20.0, "DeadlineExceeded": 5000.0}  # by outcome; "" is an answer


def load_with(*failures: str) -> Load:
    """Return a load of ten requests a second for 20 s, which have these outcomes in turn."""
    outcomes = [failures[number % len(failures)] for number in range(200)]
    return Load(
        start=1e9 + 0.1 * np.arange(200),
        latency=np.array([LATENCY_MS[outcome] for outcome in outcomes]),
        kind=["both"] * 200,
        failure=outcomes,
    )


def server(computed: int, cpu: float) -> ServerUsage:
    """Return the usage of a server whose first model computed some utterances in `cpu` CPU seconds."""
    models = {"vggish": ModelStatistics(computed, 1, 0.0, 0.0)}
    return ServerUsage(models, {"tritonserver": cpu / 4, "vggish": 3 * cpu / 4})


def test_judge_level_counts_outcomes_after_the_first_fifth() -> None:
    outcomes = load_with("", "Unavailable", "Unavailable", "DeadlineExceeded")
    level = overload.judge_level(5.0, outcomes, server(computed=100, cpu=20), seconds=20)
    assert level.goodput == pytest.approx(2.5, abs=0.1)
    assert (level.p50, level.p99, level.rejection) == (300, 300, 20)
    assert (level.rejected, level.late) == pytest.approx((0.5, 0.25), abs=0.01)
    assert level.wasted == 0.5  # 100 utterances were computed and 50 requests answered
    assert level.per_core == 2.5


def test_judge_level_without_rejections_has_no_rejection_time() -> None:
    level = overload.judge_level(1.0, load_with(""), server(computed=200, cpu=30), seconds=20)
    assert level.goodput == pytest.approx(10, abs=0.3)
    assert level.rejected == level.late == level.wasted == 0
    assert np.isnan(level.rejection)


def test_median_level_leaves_out_missing_figures() -> None:
    levels = [
        overload.judge_level(5.0, load_with(""), server(computed=200, cpu=cpu), seconds=20) for cpu in (20, 40, 25)
    ]
    median = overload.median_level(levels)
    assert (median.factor, median.per_core) == (5, 8)
    assert np.isnan(median.rejection)
    assert overload.median_level([*levels[:2], replace(levels[2], rejection=30.0)]).rejection == 30


def test_judge_flood_counts_recovery_from_the_end_of_the_flood() -> None:
    """The flood lasts from second 20 to 40 of 60, and the latency is back to normal 5 s after its end."""
    start = 1e9 + 0.1 * np.arange(600)
    seconds = start - start[0]
    latency = np.where((seconds > 20) & (seconds < 45), 2000.0, 200.0)
    interactive = Load(start, latency, ["both"] * 600, [""] * 600)
    bulk = Load(start[200:400], latency[200:400], ["both"] * 200, [""] * 200)
    flood = overload.judge_flood("bulk", interactive, bulk)
    assert (flood.before, flood.during, flood.p99, flood.failed) == (200, 2000, 2000, 0)
    assert flood.recovery == pytest.approx(5, abs=0.7)


def test_overload_run_ends_with_a_verdict(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "capacity", lambda *_: 20.0)
    monkeypatch.setattr(overload, "LEVELS", (5.0,))
    monkeypatch.setattr(overload, "FLOODS", ("bulk",))
    overload.run(Namespace(repository=repository, seconds=2.0, rounds=1, deadline=2.0))
    printed = capsys.readouterr().out
    assert "5 x bulk for 2 s beside 0.5 x interactive" in printed
    assert printed.splitlines()[-1].startswith(("PASS: at 5 x, a core's goodput 1.00 of the best", "FAIL: "))
