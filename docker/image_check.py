"""Install the packages of the images without Docker, serve with them, and compare the answers: `make image-check`.

For each image, an environment with its Python version and the output of docker/requirements.py is created. It serves
the model repository with the Triton of the nvidia-pytriton wheel, which replaces NVIDIA's Triton of the GPU image, and
must answer as the environment of this program does. If the wheel can't serve (numpy 2), the Python stages run without
Triton (run_stages.py). The environments are kept in build/image-check.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from emotion_client import EmotionClient
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig

DOCKER = Path(__file__).parent
ROOT = DOCKER.parent
CACHE = ROOT / "build" / "image-check"
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
SPEECH = ROOT / "examples" / "speech" / "austen-0890.flac"
SENTENCE = "Unless to be rather selfish is to be ill-disposed."
UTTERANCES = {"both": (SPEECH, SENTENCE), "audio": (SPEECH, None), "text": (None, SENTENCE)}
TOLERANCE = 1e-5  # largest difference of probabilities and log-mel values
START_TIMEOUT_S = 300  # time until a server is ready
PYTHON_CHECK = "import ensurepip, venv, sys; sys.exit('%d.%d' % sys.version_info[:2] != sys.argv[1])"


Results = dict[str, NDArray[Any]]  # arrays by name


class CheckError(Exception):
    """An environment can't be created, can't serve, or answers differently."""


@dataclass(frozen=True)
class Environment:
    """The packages of an image, in a virtual environment.

    Attributes:
        name: name of the image, or of what is tested.
        python: the Python version, such as "3.12".
        requirements: requirements in pip's format.
        constrained: whether requirements/constraints.txt applies.
        serves: whether the wheel's Triton runs in it; otherwise only the stages run.
    """

    name: str
    python: str
    requirements: tuple[str, ...]
    constrained: bool
    serves: bool

    @property
    def directory(self) -> Path:
        """The directory of the environment; its name depends on the Python version, requirements and constraints."""
        constraints = CONSTRAINTS.read_text() if self.constrained else ""
        key = hashlib.sha256(repr((self.python, self.requirements, constraints)).encode()).hexdigest()
        return CACHE / f"{self.python}-{key[:12]}"

    @property
    def interpreter(self) -> Path:
        return self.directory / "bin" / "python"


def environments() -> list[Environment]:
    """Return the environments of the images, of Python 3.10, and of the stages with numpy 2."""
    cpu, gpu = ((DOCKER / f"{name}.Dockerfile").read_text() for name in ("cpu", "gpu"))
    (cpu_extras,) = re.findall(r"^ARG EXTRAS=(.+)$", cpu, re.MULTILINE)
    (cpu_python,) = re.findall(r"libpython(3\.\d+)", cpu)
    (gpu_extras,) = re.findall(r"requirements\.py (.+) > ", gpu)
    (gpu_python,) = re.findall(r"libpython(3\.\d+)", gpu)
    wheel = [line for line in requirements("server") if line.startswith("nvidia-pytriton")]  # replaces NVIDIA's Triton
    gpu_lines = requirements(*gpu_extras.split())
    stages = requirements("stages")
    numpy_2 = ["numpy>=2" if line.startswith("numpy") else line for line in stages]
    return [
        Environment("CPU image", cpu_python, (*requirements(*cpu_extras.split()),), True, True),
        Environment("GPU image", gpu_python, (*gpu_lines, *wheel, *requirements("backend")), True, True),
        Environment("Python 3.10", "3.10", (*gpu_lines, *wheel, "onnxruntime"), False, True),
        Environment("stages with numpy 2", gpu_python, (*numpy_2,), False, False),
    ]


def requirements(*extras: str) -> list[str]:
    """Return the lines that docker/requirements.py prints for extras."""
    command = [sys.executable, str(DOCKER / "requirements.py"), *extras]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def find_python(version: str) -> Path | None:
    """Return a working Python of a version with venv, from PATH or pyenv; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which(f"python{version}")
    candidates = [Path(sys.base_prefix, "bin", f"python{version}"), *([Path(on_path)] if on_path else [])]
    for python in [*candidates, *sorted(pyenv.glob(f"versions/{version}.*/bin/python3"))]:
        if python.is_file() and run(python, "-c", PYTHON_CHECK, version).returncode == 0:
            return python
    return None


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with additional environment variables, and return its output."""
    return subprocess.run(command, cwd=ROOT, env=environ() | variables, capture_output=True, text=True, check=False)


def environ() -> dict[str, str]:
    """Return the environment variables of this process without those that name its Python packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def pip_install(python: Path, environment: Environment, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pip install for the requirements of an environment, from wheels only, because an image has no compiler."""
    command = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--only-binary=:all:", "--no-compile"]
    constraints = ["--constraint", str(CONSTRAINTS)] if environment.constrained else []
    return run(python, *command, *constraints, *options, *environment.requirements)


def install(environment: Environment, python: Path) -> None:
    """Create the environment if it does not exist.

    Args:
        environment: the environment.
        python: Python that creates it.

    Raises:
        CheckError: pip failed; the message has its last lines.
    """
    complete = environment.directory / "complete"
    if complete.exists():
        return
    print(f"  installing into {environment.directory.relative_to(ROOT)}", flush=True)
    shutil.rmtree(environment.directory, ignore_errors=True)
    done = run(python, "-m", "venv", environment.directory)
    if done.returncode == 0:
        done = pip_install(environment.interpreter, environment)
    if done.returncode:
        raise CheckError(f"it can't be installed: {last_lines(done.stderr)}")
    complete.touch()


def resolve(environment: Environment) -> None:
    """Check that every requirement has a wheel for a Python version that is not installed on this machine.

    Raises:
        CheckError: pip failed; the message has its last lines.
    """
    other = ["--dry-run", "--python-version", environment.python, "--target", str(environment.directory)]
    done = pip_install(Path(sys.executable), environment, *other)
    if done.returncode:
        raise CheckError(f"its requirements can't be satisfied: {last_lines(done.stderr)}")


def last_lines(text: str) -> str:
    """Return the last 10 lines of a text."""
    return "\n".join(text.strip().splitlines()[-10:])


def served_answers(python: Path, repository: Path) -> Results:
    """Return the probabilities [views, emotions] of each utterance, answered by `python -m serving`.

    Args:
        python: Python that runs the server.
        repository: the model repository.

    Raises:
        CheckError: the server does not start.
    """
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    command = [python, "-m", "serving", "--repository", repository, *ports]
    options = {"cwd": ROOT, "env": environ(), "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options) as server:  # type: ignore[call-overload]
        lines: list[str] = []
        deadline = threading.Timer(START_TIMEOUT_S, server.kill)
        deadline.start()
        try:
            for line in server.stdout:
                lines.append(line)
                if found := re.match(r"ready: gRPC (\S+),", line):
                    deadline.cancel()
                    with EmotionClient(found[1]) as client:
                        return {name: ask(client, *utterance) for name, utterance in UTTERANCES.items()}
            raise CheckError(f"it does not serve: {last_lines(''.join(lines))}")
        finally:
            deadline.cancel()
            server.terminate()
            server.stdout.close()


def ask(client: EmotionClient, audio: Path | None, text: str | None) -> NDArray[np.float64]:
    """Return the probabilities [views, emotions] of an utterance; a view without its modality is zero."""
    answer = client.analyze(audio, text)
    views = (answer.probabilities, answer.audio_probabilities, answer.text_probabilities)
    return np.array([list(view.values()) if view else [0.0] * len(answer.probabilities) for view in views])


def python_steps(repository: Path) -> list[dict[str, object]]:
    """Return the Python stages at the beginning of the ensemble `emotion` in the format of run_stages.py.

    Stages that need the output of an ONNX model are omitted.
    """

    def config(model: str) -> ModelConfig:
        return text_format.Parse((repository / model / "config.pbtxt").read_text(), ModelConfig())

    steps, known = [], {"AUDIO", "TEXT"}
    for step in config("emotion").ensemble_scheduling.step:
        model = config(step.model_name)
        if model.backend == "python" and known.issuperset(step.input_map.values()):
            known.update(step.output_map.values())
            steps.append(
                {
                    "model": str(repository / step.model_name),
                    "config": json_format.MessageToDict(model, preserving_proto_field_name=True),
                    "inputs": dict(step.input_map),
                    "outputs": dict(step.output_map),
                }
            )
    return steps


def stage_tensors(python: Path, repository: Path) -> Results:
    """Run the Python stages without Triton, and return their output tensors by utterance and name.

    Args:
        python: Python that runs the stages.
        repository: the model repository.

    Raises:
        CheckError: a stage fails.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    task, result = CACHE / "task.json", CACHE / "tensors.npz"
    utterances = {name: [str(audio or ""), text or ""] for name, (audio, text) in UTTERANCES.items()}
    task.write_text(json.dumps({"steps": python_steps(repository), "utterances": utterances, "result": str(result)}))
    done = run(python, DOCKER / "run_stages.py", task, PYTHONPATH=str(ROOT))
    if done.returncode:
        raise CheckError(f"its stages fail: {last_lines(done.stderr)}")
    print(f"  {done.stdout.strip()}", flush=True)
    with np.load(result) as tensors:
        return dict(tensors)


def compare(found: Results, wanted: Results) -> str:
    """Compare results with those of this environment, and return a sentence with the largest difference.

    Raises:
        CheckError: names, shapes or types differ, or a difference is above the tolerance.
    """
    if found.keys() != wanted.keys():
        raise CheckError(f"it gives {sorted(found)}, not {sorted(wanted)}")
    largest = 0.0
    for name, expected in wanted.items():
        tensor = found[name]
        if (tensor.shape, tensor.dtype) != (expected.shape, expected.dtype):
            raise CheckError(f"{name} is {tensor.dtype} {tensor.shape}, not {expected.dtype} {expected.shape}")
        if not np.issubdtype(expected.dtype, np.floating):
            if not np.array_equal(tensor, expected):
                raise CheckError(f"{name} is not what this environment gives")
        elif tensor.size:
            difference = float(np.abs(tensor - expected).max())
            if not difference <= TOLERANCE:  # also true for NaN
                raise CheckError(f"{name} differs by {difference:.1e} (tolerance {TOLERANCE:g})")
            largest = max(largest, difference)
    return f"{len(wanted)} results equal to this environment's, largest difference {largest:.1e}"


def check(environment: Environment, repository: Path, reference: Callable[[bool], Results]) -> str:
    """Check an environment, and return the result in one line.

    Args:
        environment: the environment.
        repository: the model repository.
        reference: returns the results of this environment; its argument says whether they are served.

    Raises:
        CheckError: the image would not work.
    """
    python = find_python(environment.python)
    if python is None:
        resolve(environment)
        return f"its requirements can be satisfied; not run: there is no Python {environment.python} with venv here"
    install(environment, python)
    answers = served_answers if environment.serves else stage_tensors
    return compare(answers(environment.interpreter, repository), reference(environment.serves))


def main() -> int:
    """Check all environments that can be created on this machine.

    Returns:
        The exit status: 0 if all answer as this environment does, else 1.
    """
    parser = argparse.ArgumentParser(
        description="Install the packages of the images, serve with them, and compare the answers."
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=ROOT / "build" / "model_repository",
        metavar="DIR",
        help="exported model repository (default: build/model_repository)",
    )
    parser.add_argument("--quick", action="store_true", help="only run the stages with numpy 2, without Triton")
    arguments = parser.parse_args()
    known: dict[bool, Results] = {}

    def reference(serves: bool) -> Results:
        if serves not in known:
            answers = served_answers if serves else stage_tensors
            known[serves] = answers(Path(sys.executable), arguments.repository)
        return known[serves]

    failed = False
    for environment in environments():
        if arguments.quick and environment.serves:
            continue
        print(f"{environment.name} (Python {environment.python}): {', '.join(environment.requirements)}", flush=True)
        start = time.monotonic()
        try:
            result = check(environment, arguments.repository.resolve(), reference)
        except CheckError as error:
            failed, result = True, f"FAILED: {error}"
        print(f"  {result} ({time.monotonic() - start:.0f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
