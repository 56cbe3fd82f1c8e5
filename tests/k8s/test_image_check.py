"""Tests of `make image-check`; they create one environment, and only the command itself creates the others."""

import os
import sys
from pathlib import Path

import image_check
import numpy as np
import pytest
from image_check import CheckError, Environment

from tests.conftest import run

STAGES = Environment("stages", f"3.{sys.version_info[1]}", ("numpy",), True, False)


def test_environments_are_those_that_the_dockerfiles_install() -> None:
    cpu, gpu, oldest, numpy_2 = image_check.environments()
    assert (cpu.python, gpu.python, oldest.python) == ("3.11", "3.12", "3.10")
    assert {line.split("==")[0] for line in cpu.requirements} >= {"nvidia-pytriton", "onnxruntime", "numpy>=1.26,<3"}
    assert set(gpu.requirements) == set(cpu.requirements)  # the wheel's Triton stands in for NVIDIA's
    assert cpu.serves and gpu.serves and oldest.serves
    assert "numpy>=2" in numpy_2.requirements and not numpy_2.serves
    assert len({one.directory for one in (cpu, gpu, oldest, numpy_2)}) == 4


def test_stages_give_the_same_tensors_with_numpy_2(repository: Path) -> None:
    done = run("docker/image_check.py", "--quick", "--repository", repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "numpy 2." in done.stdout
    assert "results equal to this environment's" in done.stdout


def test_check_with_missing_python_reports_it_and_resolves_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_check, "find_python", lambda version: None)
    report = image_check.check(STAGES, Path(), lambda serves: {})
    assert report == f"its requirements can be satisfied; not run: there is no Python {STAGES.python} with venv here"


def test_check_with_unsatisfiable_requirement_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_check, "find_python", lambda version: None)
    impossible = Environment("stages", STAGES.python, ("numpy==0.0.1",), False, False)
    with pytest.raises(CheckError, match=r"requirements can't be satisfied: (.|\n)*numpy==0\.0\.1"):
        image_check.check(impossible, Path(), lambda serves: {})


def test_find_python_ignores_commands_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version manager's command for an inactive version exists, but fails."""
    (tmp_path / "python3.99").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python3.99").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert image_check.find_python("3.99") is None
    found = image_check.find_python(STAGES.python)
    assert found is not None and found.is_file()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "it gives"),
        ({"ids": np.array([1, 2]), "patches": np.array([0.5, 1])}, "patches differs by 2.5e-01"),
        ({"ids": np.array([1, 2]), "patches": np.array([0.5, np.nan])}, "patches differs by nan"),
        ({"ids": np.array([1, 3]), "patches": np.array([0.5, 0.75])}, "ids is not what"),
        ({"ids": np.array([1, 2]), "patches": np.array([0.5], np.float32)}, r"patches is float32 \(1,\), not float64"),
    ],
    ids=["missing", "different", "nan", "integers", "type"],
)
def test_compare_with_different_results_raises(found: image_check.Results, message: str) -> None:
    wanted = {"ids": np.array([1, 2]), "patches": np.array([0.5, 0.75])}
    assert image_check.compare(wanted, wanted).startswith("2 results equal")
    with pytest.raises(CheckError, match=message):
        image_check.compare(found, wanted)


def test_served_answers_of_server_that_does_not_start_raises(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"it does not serve: error: .* holds no models"):
        image_check.served_answers(Path(sys.executable), tmp_path)
