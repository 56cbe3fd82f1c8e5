"""Callers who leave: what is made of the figures, and a small run for real."""

import argparse
from pathlib import Path

import pytest

from benchmarks import leavers
from benchmarks.leavers import Outcome


@pytest.mark.parametrize(
    ("answered", "computed", "wasted"), [(50, 100, 0.5), (100, 100, 0.0), (0, 100, 1.0), (0, 0, 0.0), (3, 2, 0.0)]
)
def test_wasted_is_the_share_of_what_was_computed_for_callers_who_had_left(
    answered: int, computed: int, wasted: float
) -> None:
    assert Outcome(200, answered, 0, computed).wasted == wasted


def test_a_small_run_answers_callers_who_wait_and_counts_those_who_leave(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, less in {
        "CAPACITY_REQUESTS": 32,
        "USERS": 8,
        "BURST": 12,
        "BURST_PATIENCE_S": 0.001,
        "QUIET_S": 0.4,
    }.items():
        monkeypatch.setattr(leavers, name, less)
    arguments = argparse.Namespace(repository=repository, seconds=1.0, factor=0.3, patience=10.0, rounds=1)
    assert leavers.run(arguments) == 0
    burst, overload = capsys.readouterr().out.split("\n\n")[1:]
    for table, patient in ((burst, False), (overload, True)):
        rows = {title: row.removeprefix(title).split() for row in table.splitlines()[2:] for title in [row[:36]]}
        assert [title.rstrip() for title in rows] == list(leavers.TITLES.values())
        for sent, answered, rejected, _, wasted in rows.values():
            assert int(sent) > 0 and int(rejected) == 0
            assert (int(answered), wasted) == (int(sent), "0.0%") if patient else int(answered) == 0
