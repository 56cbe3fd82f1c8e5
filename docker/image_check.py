"""Build what the images install without Docker, serve with it, and compare answers: `make image-check`.

For each image an environment of its Python version is made from what docker/requirements.py prints for it. It serves
the model repository with the Triton of the nvidia-pytriton wheel, which stands in for NVIDIA's in the GPU image, and
has to answer as the environment does that runs this program. Where the wheel can't serve (numpy 2), the Python stages
run without Triton (run_stages.py). Environments stay in build/image-check.
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
TOLERANCE = 1e-5  # of probabilities and log-mel values, against the environment that runs this program
START_TIMEOUT = 300  # s until a server is ready
RUNS = "import ensurepip, venv, sys; sys.exit('%d.%d' % sys.version_info[:2] != sys.argv[1])"


Results = dict[str, NDArray[Any]]  # by name


class CheckError(Exception):
    """An environment can't be made, can't serve or answers differently."""


@dataclass(frozen=True)
class Environment:
    """What one image installs, or what stands in for it.

    Attributes:
        name: what it stands for.
        python: the Python version, such as "3.12".
        requirements: one a line, as pip reads them.
        constrained: whether requirements/constraints.txt applies.
        serves: whether the wheel's Triton runs in it; else only the stages do.
    """

    name: str
    python: str
    requirements: tuple[str, ...]
    constrained: bool
    serves: bool

    @property
    def directory(self) -> Path:
        """Where it lies: the same for the same Python version, requirements and constraints."""
        constraints = CONSTRAINTS.read_text() if self.constrained else ""
        key = hashlib.sha256(repr((self.python, self.requirements, constraints)).encode()).hexdigest()
        return CACHE / f"{self.python}-{key[:12]}"

    @property
    def interpreter(self) -> Path:
        return self.directory / "bin" / "python"


def environments() -> list[Environment]:
    """Those of the images, the oldest Python that the stages run on, and the stages with numpy 2."""
    cpu, gpu = ((DOCKER / f"{name}.Dockerfile").read_text() for name in ("cpu", "gpu"))
    (cpu_extras,) = re.findall(r"^ARG EXTRAS=(.+)$", cpu, re.MULTILINE)
    (cpu_python,) = re.findall(r"libpython(3\.\d+)", cpu)
    (gpu_extras,) = re.findall(r"requirements\.py (.+) > ", gpu)
    (gpu_python,) = re.findall(r"libpython(3\.\d+)", gpu)
    wheel = [line for line in requirements("server") if line.startswith("nvidia-pytriton")]  # NVIDIA's Triton otherwise
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
    """What docker/requirements.py prints."""
    command = [sys.executable, str(DOCKER / "requirements.py"), *extras]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def find_python(version: str) -> Path | None:
    """A Python of this version that runs and has venv: on PATH, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which(f"python{version}")
    candidates = [Path(sys.base_prefix, "bin", f"python{version}"), *([Path(on_path)] if on_path else [])]
    for python in [*candidates, *sorted(pyenv.glob(f"versions/{version}.*/bin/python3"))]:
        if python.is_file() and run(python, "-c", RUNS, version).returncode == 0:
            return python
    return None


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environ() | variables, capture_output=True, text=True, check=False)


def environ() -> dict[str, str]:
    """This process's environment without what points to its own packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def pip_install(python: Path, environment: Environment, *options: str) -> subprocess.CompletedProcess[str]:
    """Install what the environment needs, from wheels alone: an image has no compiler."""
    command = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--only-binary=:all:", "--no-compile"]
    constraints = ["--constraint", str(CONSTRAINTS)] if environment.constrained else []
    return run(python, *command, *constraints, *options, *environment.requirements)


def install(environment: Environment, python: Path) -> None:
    """Make the environment, unless it is there.

    Raises:
        CheckError: with the end of what pip said.
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
    """Find out whether every requirement has a wheel for a Python version that is not here.

    Raises:
        CheckError: with the end of what pip said.
    """
    other = ["--dry-run", "--python-version", environment.python, "--target", str(environment.directory)]
    done = pip_install(Path(sys.executable), environment, *other)
    if done.returncode:
        raise CheckError(f"its requirements can't be satisfied: {last_lines(done.stderr)}")


def last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-10:])


def served_answers(python: Path, repository: Path) -> Results:
    """The probabilities that `python -m serving` answers with: of both modalities, and of each view, [views, emotions].

    Raises:
        CheckError: it does not start or does not answer.
    """
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    command = [python, "-m", "serving", "--repository", repository, *ports]
    options = {"cwd": ROOT, "env": environ(), "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options) as server:  # type: ignore[call-overload]
        lines: list[str] = []
        deadline = threading.Timer(START_TIMEOUT, server.kill)
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
    answer = client.analyze(audio, text)
    views = (answer.probabilities, answer.audio_probabilities, answer.text_probabilities)
    return np.array([list(view.values()) if view else [0.0] * len(answer.probabilities) for view in views])


def python_steps(repository: Path) -> list[dict[str, object]]:
    """The Python stages at the beginning of the ensemble `emotion`, in its order, as run_stages.py takes them.

    A stage that takes what an ONNX model gives is left out.
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
    """What the Python stages make of each utterance, without Triton: tensors by utterance and name.

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
    """The largest difference, in words.

    Raises:
        CheckError: other names, shapes or types, or a difference above the tolerance.
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
            if not difference <= TOLERANCE:  # also where it is not a number
                raise CheckError(f"{name} differs by {difference:.1e} ({TOLERANCE:g} allowed)")
            largest = max(largest, difference)
    return f"{len(wanted)} results equal to this environment's, largest difference {largest:.1e}"


def check(environment: Environment, repository: Path, reference: Callable[[bool], Results]) -> str:
    """What was found, in one line.

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
    """Exit status 0 when every environment that could be made here answers as this one does."""
    parser = argparse.ArgumentParser(description="Build what the images install, serve with it and compare answers.")
    parser.add_argument("--repository", type=Path, default=ROOT / "build" / "model_repository", metavar="DIR", help="exported")
    parser.add_argument("--quick", action="store_true", help="run the stages with numpy 2 alone, without Triton")
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
