"""Tests of the Makefile: which Python it uses, and how it repairs a broken environment; a fake pip installs nothing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# A fake Python of any version: venv copies this file as the environment's Python, and pip logs its arguments.
PYTHON = f"""#!/bin/sh
case "$1 $2" in
"-m venv")
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "venv VERSION" >> LOG;;
"-m pip")
    echo "pip $*" >> LOG
    test ! -e FAILS || kill -9 $PPID;;
*)
    exec {sys.executable} -c "import sys; sys.version_info = (3, MINOR, 0, 'final', 0); $2";;
esac
"""
# The command that a version manager puts on PATH for a version that is installed but not active.
SHIM = "#!/bin/sh\necho 'the command exists in these Python versions: 3.11.7' >&2\nexit 127\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the files that the Makefile reads, with a folder `bin` for PATH whose Pythons fail."""
    for name in ("Makefile", "pyproject.toml", "clients/pyproject.toml", "requirements"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for name in ("python3.11", "python3.12", "python3"):
        put(tmp_path, name, SHIM)
    return tmp_path


def put(tree: Path, name: str, content: str) -> None:
    (tree / "bin" / name).write_text(content)
    (tree / "bin" / name).chmod(0o755)


def put_python(tree: Path, name: str, minor: int) -> None:
    content = PYTHON.replace("LOG", str(tree / "log")).replace("FAILS", str(tree / "fails"))
    put(tree, name, content.replace("VERSION", f"3.{minor}").replace("MINOR", str(minor)))


def make(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PATH": f"{tree / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    for name in ("PYTHON", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        environ.pop(name, None)
    return subprocess.run(["make", *arguments], cwd=tree, env=environ, capture_output=True, text=True, check=False)


def made(tree: Path, *arguments: str) -> list[str]:
    """Run a `make` that succeeds; return the environments that it made and the lists that it installed, in order."""
    (tree / "log").unlink(missing_ok=True)
    done = make(tree, *arguments)
    assert done.returncode == 0, done.stderr
    log = (tree / "log").read_text().splitlines() if (tree / "log").exists() else []
    return [re.sub(r"^pip .* \.\[([\w,]+)\].*", r"\1", line) for line in log if "--require-hashes" not in line]


@pytest.mark.parametrize(
    ("pythons", "taken"),
    [
        ({"python3.11": 11, "python3.12": 12, "python3": 12}, "3.11"),
        ({"python3.12": 12, "python3": 13}, "3.12"),
        ({"python3": 12}, "3.12"),
        ({"python3.11": 10, "python3": 11}, "3.11"),
    ],
    ids=["both", "3.12", "python3", "misnamed"],
)
def test_install_uses_the_first_python_that_runs(tree: Path, pythons: dict[str, int], taken: str) -> None:
    for name, minor in pythons.items():
        put_python(tree, name, minor)
    assert made(tree, "install") == [f"venv {taken}", "server,export"]


def test_install_with_a_named_python_uses_it(tree: Path) -> None:
    put_python(tree, "python3.11", 11)
    put_python(tree, "mine", 12)
    assert made(tree, "install", f"PYTHON={tree / 'bin' / 'mine'}") == ["venv 3.12", "server,export"]


@pytest.mark.parametrize("named", [False, True])
def test_install_without_usable_python_prints_one_sentence(tree: Path, named: bool) -> None:
    put_python(tree, "python3", 13)
    done = make(tree, "install", *(["PYTHON=python3"] if named else []))
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make: ")]
    who = "python3 is not" if named else "none of python3.11, python3.12 and python3 is"
    assert line.startswith(f"error: {who} a Python 3.11 or 3.12 with venv; install one")
    assert "make PYTHON=/path/to/python3.12" in line
    assert not (tree / ".venv").exists()


def test_installed_environment_is_not_changed(tree: Path) -> None:
    put_python(tree, "python3.12", 12)
    assert made(tree, "install-web") == ["venv 3.12", "server,export", "server,export,speech,web"]
    put_python(tree, "python3.11", 11)
    assert made(tree, "install-web") == []


def test_development_environment_has_all_lists_except_fuzzing(tree: Path) -> None:
    put_python(tree, "python3.12", 12)
    (venv, lists) = made(tree, ".venv/installed-dev")
    assert venv == "venv 3.12" and lists.endswith(",dev")
    assert made(tree, "install", "install-training", "install-bench", "install-web") == []


def vanished(tree: Path) -> None:
    (tree / ".venv" / "bin" / "python").unlink()
    (tree / ".venv" / "bin" / "python").symlink_to(tree / "gone")


def unsupported(tree: Path) -> None:
    put_python(tree, "old", 10)
    shutil.copy(tree / "bin" / "old", tree / ".venv" / "bin" / "python")


def without_pip(tree: Path) -> None:
    python = tree / ".venv" / "bin" / "python"
    python.write_text(
        python.read_text().replace("import sys; sys.version", "import sys; sys.modules['pip'] = None; sys.version")
    )


def interrupted(tree: Path) -> None:
    (tree / ".venv" / "installed-web").unlink()
    (tree / "fails").touch()
    assert make(tree, "install-web").returncode != 0
    (tree / "fails").unlink()


@pytest.mark.parametrize("damage", [vanished, unsupported, without_pip, interrupted])
def test_broken_environment_is_recreated_with_the_same_lists(tree: Path, damage: object) -> None:
    put_python(tree, "python3.11", 11)
    made(tree, "install-web")
    (tree / ".venv" / "left-over").touch()
    assert callable(damage)
    damage(tree)
    assert made(tree, "install-web") == ["venv 3.11", "server,export", "server,export,speech,web"]
    assert not (tree / ".venv" / "left-over").exists()
    assert made(tree, "install-web") == []


def test_interrupted_first_installation_is_repeated(tree: Path) -> None:
    put_python(tree, "python3.11", 11)
    (tree / "fails").touch()
    assert make(tree, "install").returncode != 0
    (tree / "fails").unlink()
    assert not (tree / ".venv" / "installed").exists()
    assert made(tree, "install") == ["venv 3.11", "server,export"]


def test_newer_requirements_are_installed_into_the_existing_environment(tree: Path) -> None:
    put_python(tree, "python3.11", 11)
    made(tree, "install")
    os.utime(tree / ".venv" / "installed", (0, 0))
    assert made(tree, "install") == ["server,export"]


def test_installed_lists_are_in_pyproject() -> None:
    named = {
        extra
        for group in re.findall(r'"\.\[([\w,]+)\]"', (ROOT / "Makefile").read_text())
        for extra in group.split(",")
    }
    written = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert named <= set(written)
