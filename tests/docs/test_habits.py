"""CI, `make lint` and pre-commit run the same commands, and workflows are valid."""

import os
import shutil
import subprocess

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def actionlint() -> str | None:
    """Return the path of actionlint, if `make build/actionlint/installed` or the system has it."""
    return shutil.which("actionlint", path=f"{ROOT / 'build' / 'actionlint' / 'bin'}:{os.environ['PATH']}")


def test_workflows_pass_actionlint() -> None:
    program = actionlint()
    if program is None:  # its package fetches the program from GitHub, which not every machine reaches
        pytest.skip("actionlint is not here; run: make build/actionlint/installed")
    done = subprocess.run([program, *map(str, WORKFLOWS)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_workflow_commands_are_targets_or_scripts() -> None:
    targets = (ROOT / "Makefile").read_text()
    for workflow in WORKFLOWS:
        for job in yaml.safe_load(workflow.read_text())["jobs"].values():
            for command in (step["run"] for step in job["steps"] if "run" in step):
                name = command.removeprefix("make ")
                assert f"\n{name}:" in targets if command.startswith("make ") else (ROOT / command).is_file(), command


def test_every_workflow_limits_permissions_and_time() -> None:
    for workflow in WORKFLOWS:
        content = yaml.safe_load(workflow.read_text())
        assert content["permissions"] == {"contents": "read"}, workflow.name
        assert all("timeout-minutes" in job for job in content["jobs"].values()), workflow.name


def test_precommit_runs_what_lint_runs() -> None:
    plan = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--old-file=.venv/installed-dev", "lint"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for hook in repository["hooks"]]
    for line in plan.splitlines():
        program = line.removeprefix("nice ").removesuffix(" --check")
        assert any(entry.startswith(program) for entry in entries), f"no hook runs: {line}"
