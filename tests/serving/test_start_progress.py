"""Progress reports of a start without a terminal; test_launch.py tests the terminal."""

import io
import time
from pathlib import Path

import pytest

from serving import Triton, start_progress
from serving.start_progress import StartProgress
from tests.conftest import ROOT


def test_report_without_a_terminal_is_a_line() -> None:
    stream, triton = io.StringIO(), Triton(ROOT / "model_repository", speech=True)
    progress = StartProgress(triton, stream)
    progress.report(10.2)
    triton.loaded |= {"emotion", "emotion_speech"}
    progress.report(20.4)
    models = len([*ROOT.glob("model_repository/*/config.pbtxt"), *ROOT.glob("speech_repository/*/config.pbtxt")])
    assert stream.getvalue() == (
        f"starting Triton: 0 of {models} models loaded, 10 s\nstarting Triton: 2 of {models} models loaded, 20 s\n"
    )


def test_reports_repeat_until_the_start_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_progress, "INTERVAL_S", 0.01)
    stream = io.StringIO()
    with StartProgress(Triton(tmp_path), stream):
        deadline = time.monotonic() + 10
        while stream.getvalue().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    written = stream.getvalue()
    time.sleep(0.05)
    assert stream.getvalue() == written


def test_fast_start_is_not_reported(tmp_path: Path) -> None:
    stream = io.StringIO()
    with StartProgress(Triton(tmp_path), stream):
        pass
    assert stream.getvalue() == ""
