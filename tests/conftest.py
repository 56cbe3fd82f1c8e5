"""What tests share: one exported repository and one real Triton for the whole session."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's threads would spin, on cores that test processes share

import psutil
import pytest
from filelock import FileLock
from tritonclient.grpc import InferenceServerClientPlugin

from emotion import checkpoint as checkpoints
from emotion.checkpoint import Checkpoint
from serving import Triton

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "examples" / "speech"


def run(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """A module of ours in a process of its own, as a user starts it: run("-m", "export", ...)."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


@contextmanager
def launched(repository: Path, module: str = "serving", *arguments: str) -> Iterator[tuple[psutil.Popen, str]]:
    """`python -m serving` on any free ports (or another module), and the line with which it says that it is ready.

    It is told to stop in the end, where it still runs.
    """
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    command = [sys.executable, "-m", module, "--repository", str(repository), *(arguments or ports)]
    pipe = subprocess.PIPE
    with psutil.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            ready = (line for line in process.stdout if line.startswith(("ready: ", "open ")))
            yield process, next(ready)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


def errors(launcher: psutil.Popen) -> Iterator[str]:
    """Yield the lines of its standard error, apart from those that say how far a slow start is."""
    return (line for line in launcher.stderr if not line.startswith("starting Triton: "))


def stage(launcher: psutil.Popen, model: str) -> psutil.Process:
    """A process of a model that is served by Triton's Python backend."""
    family = launcher.children(recursive=True)
    return next(one for one in family if f"{model}/1/" in " ".join(one.cmdline()))


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once(name, make)`: a directory that make(directory) fills, made by the first test process that asks for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Callable[[Path], None]) -> Path:
        directory = shared / name
        with FileLock(f"{directory}.lock"):
            if not directory.exists():
                make(shared / f"{name}.part")
                (shared / f"{name}.part").rename(directory)
        return directory

    return get


@pytest.fixture(scope="session")
def checkpoint_directory(once: Once) -> Path:
    """A fresh one: MiniLM, a seeded VGGish and a seeded head, untrained. Most tests need no more."""

    def make(directory: Path) -> None:
        done = run("-m", "emotion.checkpoint", "new", directory)
        assert done.returncode == 0, done.stderr

    return once("checkpoint", make)


@pytest.fixture(scope="session")
def checkpoint(checkpoint_directory: Path) -> Checkpoint:
    """The same, loaded."""
    return checkpoints.load(checkpoint_directory)


@pytest.fixture(scope="session")
def repository(checkpoint_directory: Path, once: Once) -> Path:
    """A model repository exported from it by the command that users type. Tests leave it as it is."""

    def make(directory: Path) -> None:
        command = ["make", "export", f"CHECKPOINT={checkpoint_directory}", f"REPOSITORY={directory}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr

    return once("repository", make)


@pytest.fixture(scope="session")
def demo_repository(once: Once) -> Path:
    """What `make demo` serves: the demo checkpoint, expanded and exported."""

    def make(directory: Path) -> None:
        done = run("-m", "emotion.checkpoint", "expand", "checkpoints/demo", directory / "checkpoint")
        assert done.returncode == 0, done.stderr
        done = run("-m", "export", directory / "checkpoint", "--repository", directory / "model_repository")
        assert done.returncode == 0, done.stderr

    return once("demo", make) / "model_repository"


@pytest.fixture(scope="session", autouse=True)
def exports_side_by_side(request: pytest.FixtureRequest, worker_id: str) -> None:
    """The second test process makes the demo's export while the first makes the other: both would wait for either."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    if worker_id == "gw1" and any("demo_repository" in test.fixturenames for test in tests):
        request.getfixturevalue("demo_repository")


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Triton]:
    """Triton serving it."""
    with Triton(repository, http_port=0, grpc_port=0, metrics_port=0) as triton:
        yield triton


class Administrator(InferenceServerClientPlugin):  # type: ignore[misc]
    """Lets a tritonclient ask for statistics."""

    def __init__(self, server: Triton) -> None:
        self._headers = server.admin_headers

    def __call__(self, request: Any) -> None:
        """tritonclient's interface: change the request's headers."""
        request.headers.update(self._headers)


@pytest.fixture(scope="session")
def speech_server(demo_repository: Path) -> Iterator[Triton]:
    """Triton serving the demo checkpoint with speech recognition."""
    with Triton(demo_repository, http_port=0, grpc_port=0, metrics_port=0, speech=True) as triton:
        yield triton


@pytest.fixture(scope="session")
def transcripts() -> dict[str, str]:
    """Sentence by file name of examples/speech."""
    with (SPEECH / "transcripts.tsv").open(newline="") as file:
        return dict(csv.reader(file, delimiter="\t"))


@pytest.fixture(scope="session")
def recordings(transcripts: dict[str, str]) -> dict[str, bytes]:
    """Encoded file by file name of examples/speech."""
    return {name: (SPEECH / name).read_bytes() for name in transcripts}
