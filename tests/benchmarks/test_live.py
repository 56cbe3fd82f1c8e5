"""Test the measurement of live streams."""

import argparse
import re
from pathlib import Path

import pytest

from benchmarks.speed import live


def test_live_run_of_two_speakers_prints_its_figures(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = argparse.Namespace(repository=repository, speakers=2, seconds=8.0)
    assert live.run(arguments) == 0
    updates, lag, utterances, difference = capsys.readouterr().out.splitlines()
    assert (found := re.match(r"updates: (\d\.\d\d) a second and speaker, the first after \d\.\d\d s ", updates))
    assert 0.2 < float(found[1]) < 2.2
    assert re.fullmatch(r"lag behind the audio: median \d+ ms, p95 \d+ ms", lag)
    assert re.fullmatch(r"utterances answered: [2-9], failures: none", utterances)
    assert (found := re.fullmatch(r"answers to whole streams against uploads: largest difference (\S+)", difference))
    assert float(found[1]) < 1e-5
