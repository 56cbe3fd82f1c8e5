"""Test the benchmark of callers that abandon their requests: its calculation, and a small run."""

import argparse
import re
from pathlib import Path

import pytest

from benchmarks.load import runner
from benchmarks.resilience import leavers
from benchmarks.resilience.leavers import Outcome


@pytest.mark.parametrize(
    ("answered", "computed", "wasted"), [(50, 100, 0.5), (100, 100, 0.0), (0, 100, 1.0), (0, 0, 0.0), (3, 2, 0.0)]
)
def test_wasted_is_the_share_of_computed_utterances_without_an_answer(
    answered: int, computed: int, wasted: float
) -> None:
    assert Outcome(200, answered, 0, computed).wasted == wasted


def test_leavers_run_answers_callers_who_wait_and_counts_those_who_leave(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "CAPACITY_REQUESTS", 32)
    monkeypatch.setattr(runner, "CAPACITY_USERS", 8)
    # A call that is canceled within about 1 ms may end Triton 24.10 (docs/architecture.md). QUIET_S is longer than a
    # batch, because nothing waits while the last one runs.
    for name, less in {"BURST": 12, "BURST_PATIENCE_S": 0.02, "QUIET_S": 1.5}.items():
        monkeypatch.setattr(leavers, name, less)
    arguments = argparse.Namespace(repository=repository, seconds=1.0, factor=0.3, patience=10.0, rounds=1)
    assert leavers.run(arguments) == 0
    burst, overload = re.split(r"\n\n(?=\d)", capsys.readouterr().out)[1:]  # each begins with a number
    for table, patient in ((burst, False), (overload, True)):
        lines = [line.strip() for line in table.splitlines()]
        rows = {
            title: line.removeprefix(title).split()
            for line in lines
            for title in leavers.WAYS.values()
            if line.startswith(f"{title}  ")
        }
        assert list(rows) == list(leavers.WAYS.values())
        for sent, answered, rejected, _, wasted in rows.values():
            assert int(sent) > 0 and int(rejected) == 0
            if patient:
                assert (answered, wasted) == (sent, "0.0%")
            else:  # some requests may be answered before their callers leave
                assert int(answered) < int(sent)
