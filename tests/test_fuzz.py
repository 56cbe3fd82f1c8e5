"""The kept inputs of fuzzing pass; `fuzz/README.md` describes how to find more."""

import subprocess
import sys

import pytest

from emotion.checkpoint import Checkpoint
from fuzz.__main__ import KEPT
from fuzz.targets import TARGETS
from tests.conftest import ROOT


@pytest.mark.parametrize("target", TARGETS)
def test_replay_of_kept_inputs_passes(target: str, checkpoint: Checkpoint) -> None:
    files = sorted((KEPT / target).iterdir())
    assert len(files) > 3
    command = [sys.executable, "-m", "fuzz.replay", target, *map(str, files)]
    command += ["--tokenizer", str(checkpoint.tokenizer)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1]}: {done.stderr[-2000:]}"
    assert f"{len(files)} inputs passed" in done.stdout
