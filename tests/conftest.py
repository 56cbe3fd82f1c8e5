"""What tests share: one exported repository and one real Triton for the whole session."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
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
from serving.installation import find_triton
from tests.narrow import narrow_vggish, write_bert

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "examples" / "speech"
MAKE = ("make", "--old-file=.venv/installed")  # a test does not install anew the environment that it runs in
HAS_NATIVE_ONNXRUNTIME = find_triton().has_native_onnxruntime  # NVIDIA's backend serves the ONNX models, not ours


def run(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """A module of ours in a process of its own, as a user starts it: run("-m", "export", ...)."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


_STOPPERS = ThreadPoolExecutor()
_stops: list[Future[object]] = []


@pytest.fixture(scope="session", autouse=True)
def every_server_stops() -> Iterator[None]:
    """Wait for the servers that are still stopping; the session fails if one did not stop."""
    yield
    for stop in _stops:
        stop.result()


def copy_repository(repository: Path, target: Path, loadable: bool = True) -> Path:
    """Copy a model repository with hard links: tests replace its files, and never write into them.

    Args:
        repository: the model repository.
        target: the directory to create.
        loadable: whether its models can be loaded. ONNX Runtime accepts no links for the files with the weights, so
            these are copied if it is true, and are symbolic links otherwise.
    """

    def copy(source: str, copied: str) -> None:
        if not source.endswith(".data"):
            os.link(source, copied)
        elif loadable:
            shutil.copyfile(source, copied)
        else:
            Path(copied).symlink_to(source)

    return shutil.copytree(repository, target, copy_function=copy)


def stop_later(stop: Callable[[], object]) -> None:
    """Stop a server while the next tests run: Triton takes 4 s, in which it mostly sleeps."""
    _stops.append(_STOPPERS.submit(stop))


@contextmanager
def running_triton(repository: Path, **options: Any) -> Iterator[Triton]:
    """Triton on any free ports; it may still be stopping when the next test begins."""
    server = Triton(repository, http_port=0, grpc_port=0, metrics_port=0, **options)
    server.start()
    try:
        yield server
    finally:
        stop_later(server.stop)


@contextmanager
def launching(
    repository: Path, module: str = "serving", *arguments: str
) -> Iterator[tuple[psutil.Popen, Iterator[str]]]:
    """`python -m serving` on any free ports (or another module), and the lines with which it says that it is ready.

    It is told to stop in the end, where it still runs, and may still be stopping when the next test begins.
    """
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    command = [sys.executable, "-m", module, "--repository", str(repository), *(arguments or ports)]
    pipe = subprocess.PIPE
    process = psutil.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process, (line for line in process.stdout if line.startswith(("ready: ", "open ")))
    finally:
        if process.poll() is None:
            process.terminate()
        stop_later(partial(process.communicate, timeout=90))  # reads what it still says, or its pipes could fill up


@contextmanager
def launched(repository: Path, module: str = "serving", *arguments: str) -> Iterator[tuple[psutil.Popen, str]]:
    """`launching`, once the process is ready, and the line that says so."""
    with launching(repository, module, *arguments) as (process, ready):
        line = next(ready, None)
        if line is None:
            pytest.fail(f"{module} ended before it was ready: {process.communicate(timeout=30)[1]}")
        yield process, line


def errors(launcher: psutil.Popen) -> Iterator[str]:
    """Yield the lines of its standard error, apart from those that say how far a slow start is."""
    return (line for line in launcher.stderr if not line.startswith("starting Triton: "))


def stage(launcher: psutil.Popen, model: str) -> psutil.Process:
    """A process of a model that is served by Triton's Python backend."""
    family = launcher.children(recursive=True)
    return next(one for one in family if f"{model}/1/" in " ".join(one.cmdline()))


SERVED = {"repository", "demo_checkpoint"}  # fixtures that export or expand a checkpoint


@pytest.hookimpl(tryfirst=True)  # before pytest reads -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a checkpoint, and order the files.

    One test process exports `repository` while the others run what does not need it. Files that take long come first,
    because the last ones leave processes without work: those of the benchmarks, then those of many tests.
    """
    for item in items:
        if isinstance(item, pytest.Function) and not SERVED.isdisjoint(item.fixturenames):
            item.add_marker("served")
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)

    def waits(path: Path) -> bool:
        return any("repository" in item.fixturenames for item in files[path] if isinstance(item, pytest.Function))

    by_time = sorted(files, key=lambda path: (path.parent.name != "benchmarks", -len(files[path])))
    exporting, others = [path for path in by_time if waits(path)], [path for path in by_time if not waits(path)]
    items[:] = [item for path in [*exporting[:1], *others, *exporting[1:]] for item in files[path]]


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


@pytest.fixture
def narrow_models() -> Iterator[None]:
    """Make VGGish narrow in this process, but not in the commands that tests start."""
    with narrow_vggish():
        yield


@pytest.fixture(scope="session")
def small_checkpoint(once: Once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkpoint with a narrow VGGish and a BERT of two layers. Tests leave it as it is."""

    def make(directory: Path) -> None:
        with narrow_vggish():
            checkpoints.create(directory, str(write_bert(tmp_path_factory.mktemp("bert"))), vggish=None, seed=0)

    return once("small-checkpoint", make)


@pytest.fixture(scope="session")
def demo_checkpoint(once: Once) -> Path:
    """The demo checkpoint, expanded as `make demo` does."""

    def make(directory: Path) -> None:
        done = run("-m", "emotion.checkpoint", "expand", "checkpoints/demo", directory)
        assert done.returncode == 0, done.stderr

    return once("demo-checkpoint", make)


@pytest.fixture(scope="session")
def checkpoint(demo_checkpoint: Path) -> Checkpoint:
    """The demo checkpoint, loaded."""
    return checkpoints.load(demo_checkpoint)


@pytest.fixture(scope="session")
def repository(demo_checkpoint: Path, once: Once) -> Path:
    """A model repository exported from the demo checkpoint by the command that users type. Tests leave it as it is."""

    def make(directory: Path) -> None:
        command = [*MAKE, "export", f"CHECKPOINT={demo_checkpoint}", f"REPOSITORY={directory}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr

    return once("repository", make)


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Triton]:
    """Triton serving `repository`."""
    with running_triton(repository) as triton:
        yield triton


class Administrator(InferenceServerClientPlugin):  # type: ignore[misc]
    """Lets a tritonclient ask for statistics."""

    def __init__(self, server: Triton) -> None:
        self._headers = server.admin_headers

    def __call__(self, request: Any) -> None:
        """tritonclient's interface: change the request's headers."""
        request.headers.update(self._headers)


@pytest.fixture(scope="session")
def speech_server(repository: Path) -> Iterator[Triton]:
    """Triton serving `repository` with speech recognition."""
    with running_triton(repository, speech=True) as triton:
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
