"""The client can be released: its wheel is complete, installs alone, and has the repository's version."""

import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


def version(file: str) -> str:
    """Return the version that a pyproject.toml names."""
    return str(tomllib.loads((ROOT / file).read_text())["project"]["version"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the client's wheel, built as CONTRIBUTING.md says."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "./clients"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_repository_and_client_have_one_version() -> None:
    assert version("pyproject.toml") == version("clients/pyproject.toml")


def test_changelog_has_the_version_or_unreleased() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{version('pyproject.toml')}]" in changelog


def test_wheel_holds_every_module_and_its_types(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    modules = {f"emotion_client/{path.name}" for path in (ROOT / "clients" / "emotion_client").glob("*.py")}
    assert modules | {"emotion_client/py.typed"} <= packed


def test_wheel_installs_and_its_command_runs(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies come from the running environment, so that no package index is needed."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = str(tmp_path / "env" / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    program = "import emotion_client; print(emotion_client.__file__)"
    found = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert found.stdout.startswith(str(site)), found.stderr
    command = [str(tmp_path / "env" / "bin" / "emotion-client"), "--help"]
    helped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert helped.returncode == 0 and helped.stdout.startswith("usage: emotion-client"), helped.stderr
