"""The Dockerfiles, as far as they can be checked without building them; `hadolint` is a linter for them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
every_file = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


@every_file
def test_hadolint_finds_nothing(path: Path) -> None:
    command = [Path(sys.executable).parent / "hadolint", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@every_file
def test_what_is_copied_is_there_and_not_ignored(path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.*)$", path.read_text(), re.MULTILINE):
        for source in [word for word in line.split() if not word.startswith(("--", "$"))][:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == one or source.startswith(f"{one}/") or one.startswith(source) for one in allowed), (
                source
            )


@every_file
def test_images_run_as_a_user_and_say_how_they_are(path: Path) -> None:
    last = path.read_text().rpartition("\nFROM ")[2]
    assert "\nUSER 1000\n" in last
    assert "\nHEALTHCHECK " in last
    assert "org.opencontainers.image.licenses" in last


@every_file
def test_bases_have_a_tag(path: Path) -> None:
    for image in re.findall(r"^(?:FROM|ARG (?:BASE|NODE)=) ?([\w./-]+/[\w./:-]+)", path.read_text(), re.MULTILINE):
        assert ":" in image and not image.endswith(":latest"), image


def test_requirements_are_those_of_the_project() -> None:
    command = [sys.executable, "docker/requirements.py", "server", "speech"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert printed == project["dependencies"] + extras["server"] + extras["speech"]
    assert not any("torch" in line for line in printed)


def test_the_gpu_image_can_run_what_is_copied_into_it() -> None:
    """NVIDIA's image 24.10 has Python 3.10."""
    packages = re.findall(r"^COPY (\w+) \1$", (ROOT / "docker" / "gpu.Dockerfile").read_text(), re.MULTILINE)
    assert packages == ["emotion", "stages", "serving", "speech_repository"]
    vermin = [Path(sys.executable).parent / "vermin", "--target=3.10-", "--no-tips"]
    excepted = ["--exclude", "tomllib"]  # docker/requirements.py has pip's own copy for Python 3.10
    command = [*vermin, *excepted, *packages, "model_repository", "docker/requirements.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
