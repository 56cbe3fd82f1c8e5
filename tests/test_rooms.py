"""Each package of the tree can be imported with only its own requirements and the allowed packages of this project.

The requirements are the extras of pyproject.toml and those of clients/pyproject.toml. Each test runs in a process that
hides all other installed packages from `import`, importlib.util.find_spec and importlib.metadata.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

OURS = {"benchmarks", "emotion", "emotion_client", "export", "fuzz", "serving", "stages", "training", "web"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
CLIENT = tomllib.loads((ROOT / "clients" / "pyproject.toml").read_text())["project"]
FRONT_ENDS = [
    f"emotion/{name}.py"
    for name in (
        "labels",
        "audio",
        "decoding",
        "loudness",
        "text",
        "annotations",
        "emoticons",
        "masking",
        "sniffing",
        "containers/*",
        "errors",
        "ragged",
        "hashing",
    )
]


@dataclass(frozen=True)
class Room:
    """A package of the tree, or a group of modules.

    Attributes:
        files: glob patterns of its modules, relative to the root.
        extras: extras of pyproject.toml with its requirements.
        ours: packages of this project that it may import.
        client: whether it may import the client and the requirements of the client.
    """

    files: list[str]
    extras: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    client: bool = False


ROOMS = {
    "front-ends": Room(FRONT_ENDS, ("stages",), ("emotion",)),
    "stages": Room(["stages/*.py", "model_repository/*/1/model.py"], ("stages",), ("stages", "emotion")),
    "speech": Room(["speech_repository/*/1/model.py"], ("speech",), ("stages", "emotion")),
    "backend": Room(["serving/backends/*/model.py"], ("stages", "backend"), ("stages", "emotion")),
    "serving": Room(["serving/*.py"], ("serving",), ("serving", "stages", "emotion")),
    "clients": Room(["clients/emotion_client/*.py"], client=True),
    "gateway": Room(["web/__init__.py", "web/gateway/*.py"], ("web",), ("web", "emotion"), client=True),
    "export": Room(["export/*.py", "emotion/**/*.py"], ("export",), ("export", "emotion")),
    "training": Room(["training/**/*.py"], ("training",), ("training", "emotion"), client=True),
}
# modules that need another extra than their package, and one that runs a command when it is imported
ELSEWHERE = {"stages/asr.py", "clients/emotion_client/radar.py", "clients/emotion_client/__main__.py"}

# Imports FILES as if HIDDEN (top-level modules) and FORGOTTEN (distributions) are not installed; prints sys.modules.
# A dotted name is imported as a module, and another file is loaded from its path, as Triton does.
PROGRAM = """
import importlib, importlib.util, json, re, sys, types
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *context):
        for one in super().find_distributions(*context):
            if re.sub("[-_.]+", "-", one.metadata["Name"]).lower() not in FORGOTTEN:
                yield one

PATH, FILES, HIDDEN, FORGOTTEN = json.load(sys.stdin)
sys.path[:0] = PATH
sys.meta_path[:] = [one for one in sys.meta_path if "editable" not in repr(one)]
sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")  # Triton brings its own
for number, name in enumerate(FILES):
    if name.endswith(".py"):
        spec = importlib.util.spec_from_file_location(f"model_{number}", name)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    else:
        importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def normalised(name: str) -> str:
    """Return the normalised name of a distribution, as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(lines: Iterable[str]) -> set[str]:
    """Return the distributions that requirements install, including dependencies; extras of emoserve are expanded."""
    seen: set[tuple[str, str]] = set()
    todo = [(Requirement(line), "") for line in lines]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = normalised(requirement.name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            needed = EXTRAS.get(wanted, []) if name == "emoserve" else metadata.requires(name) or []
            todo += [(Requirement(line), wanted) for line in needed]
    return {name for name, _ in seen} - {"emoserve"}


def import_in_process(files: Iterable[str], hidden: Iterable[str] = (), forgotten: Iterable[str] = ()) -> set[str]:
    """Import files in a new process, modules of packages by name and others by path, and return its loaded modules."""
    names = []
    for file in files:
        parts = Path(file).with_suffix("").parts[file.startswith("clients/") :]
        package = parts[0] in OURS and not file.startswith("serving/backends/")
        names.append(".".join(parts).removesuffix(".__init__") if package else str(ROOT / file))
    task = [[str(ROOT), str(ROOT / "clients")], names, sorted(hidden), sorted(forgotten)]
    command = [sys.executable, "-I", "-c", PROGRAM]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def modules(patterns: Iterable[str]) -> list[str]:
    """Return the paths of the files that match a pattern, relative to the root."""
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


@pytest.mark.parametrize("name", ROOMS)
def test_package_imports_with_only_its_own_requirements(name: str) -> None:
    room = ROOMS[name]
    lines = [f"emoserve[{','.join(room.extras)}]"] if room.extras else []
    allowed = distributions(lines + CLIENT["dependencies"] * room.client)
    top_level = metadata.packages_distributions()
    hidden = {module for module, owners in top_level.items() if allowed.isdisjoint(map(normalised, owners))}
    ours = {*room.ours, *(["emotion_client"] if room.client else [])}
    hidden = (hidden | OURS) - ours
    forgotten = {normalised(one.metadata["Name"]) for one in metadata.distributions()} - allowed
    files = [file for file in modules(room.files) if file not in ELSEWHERE]
    assert files
    import_in_process(files, hidden, forgotten)


def test_hidden_package_cannot_be_imported() -> None:
    with pytest.raises(AssertionError, match="No module named 'soxr'"):
        import_in_process(["emotion/decoding.py"], {"soxr"}, {"soxr"})


def test_stages_import_neither_the_launcher_nor_psutil() -> None:
    stages = ["stages/*.py", "model_repository/*/1/model.py", "speech_repository/*/1/model.py"]
    files = modules([*stages, "serving/backends/onnxruntime/model.py"])
    assert len([file for file in files if file.endswith("/model.py")]) >= 3
    top_level = {module.partition(".")[0] for module in import_in_process(files)}
    assert {"stages", "emotion", "numpy", "onnxruntime", "faster_whisper"} <= top_level
    assert top_level.isdisjoint({"psutil", "serving", "torch", "transformers"})
