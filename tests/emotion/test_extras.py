"""Test that a command with a missing package names the command that installs it."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("module", "package", "command"),
    [
        ("training", "rich", "make install-training"),
        ("training.demo", "numpy", "make install-training"),
        ("benchmarks", "rich", "make install-bench"),
        ("web", "uvicorn", "make install-web"),
        ("web.gateway", "uvicorn", "make install-web"),
        ("fuzz", "rich", "make fuzz"),
        ("export", "rich", "make install"),
    ],
)
def test_command_without_a_package_names_what_installs_it(module: str, package: str, command: str) -> None:
    code = f"import runpy, sys; sys.modules[{package!r}] = None; runpy.run_module({module!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: the package {package} is not installed; run: {command}"
    assert "Traceback" not in done.stderr
