"""Test the number of pods for a load: the calculation, and the command."""

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.errors import BenchmarkError
from benchmarks.speed import machine, results
from benchmarks.speed.capacity import needed
from benchmarks.speed.results import Results, SweepPoint

SWEEP = [
    SweepPoint(1, 8.0, 120, 130, 140),
    SweepPoint(16, 20.0, 700, 800, 900),
    SweepPoint(64, 24.0, 2500, 2800, 3000),
    SweepPoint(256, 25.0, 9000, 9500, 9900),
    SweepPoint(512, 30.0, 500, 600, 700, failures=90),
]


@pytest.mark.parametrize(
    ("rate", "p99_ms", "spare", "pods"),
    [
        (18, 4000, 0, 1),  # 0.75 of 24
        (18.1, 4000, 0, 2),
        (100, 4000, 1, 7),  # 100 / 18 = 5.6
        (100, 1000, 1, 8),  # 100 / 15 = 6.7
        (100, math.inf, 0, 6),  # 100 / 18.75 = 5.3: a point with failures never counts
    ],
)
def test_needed_rounds_up_and_adds_spare_pods(rate: float, p99_ms: float, spare: int, pods: int) -> None:
    assert needed(rate, SWEEP, p99_ms, 0.75, spare)[1] == pods


def test_needed_without_a_load_within_the_objective_raises() -> None:
    with pytest.raises(BenchmarkError, match=r"no load kept p99 within 100 ms; the lowest p99 measured was 140 ms"):
        needed(10, SWEEP, 100, 0.75, 1)


def test_capacity_command_prints_a_row_for_each_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Results(
        started=datetime(2026, 1, 2, tzinfo=UTC),
        minutes=30.0,
        command="make bench",
        revision=None,
        machine=machine.describe(),
        versions={},
        settings={},
        checkpoint={"digest": "d" * 64, "text_encoder": "bert-base"},
        systems={},
        sweep=SWEEP,
    )
    path = results.write(found, tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks", "capacity", "--rate", "100", "--results", str(path)])
    assert main() == 0
    shown = capsys.readouterr().out
    assert "measured 2026-01-02 with make bench" in shown
    (row,) = (line.split() for line in shown.splitlines() if line.strip().startswith("fp32"))
    assert row == ["fp32", "24.0", "7", "60%", "69%"]  # 100 / (7 x 24), 100 / (6 x 24)
    monkeypatch.setattr("sys.argv", ["benchmarks", "capacity", "--rate", "0", "--results", str(path)])
    assert main() == 1
    assert "--rate must be above 0" in capsys.readouterr().err
