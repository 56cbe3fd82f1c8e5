"""Check the Dockerfiles as far as possible without building them; `hadolint` is a linter for Dockerfiles."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.test_rooms import FRONT_ENDS

ROOT = Path(__file__).parent.parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
CAPTURED: dict[str, Any] = {"capture_output": True, "text": True}

# Imports modules from two directories and prints the path of `emotion`. Removes the finders of an editable
# installation, because they would find this working tree.
IMPORTER = """
import importlib, sys, types
sys.meta_path[:] = [one for one in sys.meta_path if "editable" not in repr(one)]
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")  # Triton provides it
sys.path[:0] = sys.argv[1:3]
for name in sys.argv[3:]:
    importlib.import_module(name)
print(importlib.import_module("emotion").__file__)
"""


def run_program(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", "-c", source, *arguments], check=False, **CAPTURED)


def file_name(path: Path) -> str:
    return path.name


every_file = pytest.mark.parametrize("path", DOCKERFILES, ids=file_name)


@every_file
def test_hadolint_finds_nothing(path: Path) -> None:
    command = [Path(sys.executable).parent / "hadolint", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@every_file
def test_copied_files_exist_and_are_not_ignored(path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.*)$", path.read_text(), re.MULTILINE):
        for source in [word for word in line.split() if not word.startswith(("--", "$"))][:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == one or source.startswith(f"{one}/") or one.startswith(source) for one in allowed), (
                source
            )


@every_file
def test_images_have_a_user_a_health_check_and_a_license(path: Path) -> None:
    last = path.read_text().rpartition("\nFROM ")[2]
    assert "\nUSER 1000\n" in last
    assert "\nHEALTHCHECK " in last
    assert "org.opencontainers.image.licenses" in last


@every_file
def test_base_images_have_a_fixed_tag(path: Path) -> None:
    for image in re.findall(r"^(?:FROM |ARG (?!REPOSITORY)\w+=)([\w./-]+/[\w./:-]+)", path.read_text(), re.MULTILINE):
        assert ":" in image and not image.endswith(":latest"), image


@pytest.mark.parametrize("path", [path for path in DOCKERFILES if "COPY emotion" in path.read_text()], ids=file_name)
def test_packages_copied_into_an_image_are_all_that_it_imports(path: Path, tmp_path: Path) -> None:
    dockerfile = path.read_text()
    for source in re.findall(r"^COPY ((?!clients|web/ui|examples)[\w/.]+) \1$", dockerfile, re.MULTILINE):
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        (tmp_path / source).parent.mkdir(exist_ok=True)
        copy(ROOT / source, tmp_path / source)
    (entry,) = re.findall(r'^ENTRYPOINT .*"-m", "([\w.]+)"', dockerfile, re.MULTILINE)
    stages = (f"stages.{file.stem}" for file in sorted((tmp_path / "stages").glob("[a-z]*.py")))
    done = run_program(IMPORTER, str(tmp_path), str(ROOT / "clients"), f"{entry}.__main__", *stages)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


@pytest.mark.parametrize("extras", [("server", "speech"), ("stages", "serving"), ("web",)], ids="+".join)
def test_requirements_are_those_of_the_project(extras: tuple[str, ...]) -> None:
    command = [sys.executable, "docker/requirements.py", *extras]
    printed = subprocess.run(command, cwd=ROOT, check=True, **CAPTURED).stdout.splitlines()
    lists = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {line for extra in extras for line in lists[extra] if not line.startswith("emoserve[")} <= set(printed)
    assert "numpy>=1.26,<3" in printed
    assert len(set(printed)) == len(printed)
    assert not any(line.startswith(("emoserve", "torch", "transformers")) for line in printed)


def test_gpu_image_installs_neither_the_wheel_nor_a_second_onnx_runtime() -> None:
    dockerfile = (ROOT / "docker" / "gpu.Dockerfile").read_text()
    (extras,) = re.findall(r"requirements\.py ([\w ]+) >", dockerfile)
    command = [sys.executable, "docker/requirements.py", *extras.split()]
    printed = subprocess.run(command, cwd=ROOT, check=True, **CAPTURED).stdout
    assert "psutil" in printed and "tokenizers" in printed
    assert "onnxruntime" not in printed and "pytriton" not in printed


LDD_LINES = {
    "\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f0000000000)": False,
    "\tlibcuda.so.1 => not found": False,
    "\tlibnvidia-ml.so.1 => not found": False,
    "\tlibcudart.so.13 => not found": True,
    "\tlibarchive.so.13 => not found": True,
}


@pytest.mark.parametrize(("line", "stops"), LDD_LINES.items())
def test_gpu_image_build_fails_if_libraries_except_the_drivers_are_missing(line: str, stops: bool) -> None:
    [pattern] = re.findall(r'! grep --perl-regexp "(.*)"', (ROOT / "docker" / "gpu.Dockerfile").read_text())
    done = subprocess.run(["grep", "--perl-regexp", pattern], input=line, check=False, **CAPTURED)
    assert done.returncode == (0 if stops else 1), done.stderr


def test_code_of_the_images_runs_on_python_3_10() -> None:
    """NVIDIA's image 24.10 has Python 3.10, 26.09 has 3.12."""
    front_ends = [str(path.relative_to(ROOT)) for pattern in FRONT_ENDS for path in ROOT.glob(pattern)]
    repositories = ["model_repository", "speech_repository"]
    vermin = [str(Path(sys.executable).parent / "vermin"), "--target=3.10-", "--no-tips"]
    command = [*vermin, *front_ends, "stages", "serving", *repositories, "docker/requirements.py"]
    done = subprocess.run(command, cwd=ROOT, check=False, **CAPTURED)
    assert done.returncode == 0, done.stdout
