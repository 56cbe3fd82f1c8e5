"""Compare the exported files on the ONNX Runtime versions of Triton with the installed version.

Versions differ most in their handling of small and empty inputs, so the comparison has every combination of absent
modalities. Each other version is installed once, in its own environment.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from emotion.audio import PATCH_SHAPE
from export import chain
from export.parity import TOLERANCES, Comparison, Utterance, model_inputs
from export.repository import ONNX_MODELS, model_file

# version: where it runs
RUNTIMES = {
    "1.19.2": "the native backend of Triton 24.10",
    "1.28.0": "the native backend of Triton 26.09",
}
NUMPY = "1.26.4"  # works with all of them
ENVIRONMENTS = Path(__file__).parent.parent / "build" / "runtimes"
SEED = 11


class RuntimeUnavailable(Exception):
    """The environment of a version can't be created; the message has the reason."""


def batches() -> Iterator[list[Utterance]]:
    """Yield 16 batches of two utterances, with every combination of audio, text, both and neither."""
    random = np.random.default_rng(SEED)
    modalities = list(itertools.product((True, False), repeat=2))
    for pair in itertools.product(modalities, repeat=2):
        yield [
            Utterance(
                random.normal(-2, 2, (has_audio * (1 + row), *PATCH_SHAPE)).astype(np.float32),
                random.integers(1000, 20_000, has_text * (4 + 3 * row)),
            )
            for row, (has_audio, has_text) in enumerate(pair)
        ]


def environment(version: str) -> Path:
    """Return the Python of an environment with an ONNX Runtime version; the first call creates the environment.

    Args:
        version: version of the package onnxruntime.

    Raises:
        RuntimeUnavailable: the version can't be installed, for example without a package index.
    """
    tag = f"{sys.version_info.major}.{sys.version_info.minor}"
    directory = ENVIRONMENTS / f"onnxruntime-{version}-python-{tag}"
    if not directory.is_dir():
        part = directory.with_name(f"{directory.name}.{os.getpid()}")
        packages = (f"onnxruntime=={version}", f"numpy=={NUMPY}")
        install = ("-m", "pip", "--quiet", "--python", part / "bin" / "python", "install", "--no-deps", *packages)
        try:
            for arguments in (("-m", "venv", "--without-pip", part), install):
                done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
                if done.returncode:
                    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                    raise RuntimeUnavailable(f"ONNX Runtime {version} cannot be installed ({reason})")
            with contextlib.suppress(OSError):  # another process has created it
                part.rename(directory)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return directory / "bin" / "python"


def compare(repository: Path, precision: str, version: str) -> Comparison:
    """Return the largest difference between the answers of another ONNX Runtime and of the installed one.

    Args:
        repository: directory with NAME/1/FILE of vggish, bert and fusion.
        precision: fp32, fp16 or int8.
        version: a key of RUNTIMES.

    Raises:
        RuntimeUnavailable: the version can't be installed.
        subprocess.CalledProcessError: the version fails on a file; `stderr` has the reason.
    """
    python = environment(version)
    files = [str(model_file(repository, name, precision)) for name in ONNX_MODELS]
    sessions = [chain.open_session(file) for file in files]
    name = f"ONNX Runtime {version} against {onnxruntime.__version__}"
    worst = Comparison(name, 0.0, TOLERANCES[precision].eager, "", "")
    with tempfile.TemporaryDirectory(prefix="emoserve-") as scratch:
        source, target = Path(scratch, "inputs.npz"), Path(scratch, "outputs.npz")
        asked = dict(enumerate(batches()))
        inputs = {number: model_inputs(utterances) for number, utterances in asked.items()}
        np.savez(source, **{f"{number}/{key}": array for number, each in inputs.items() for key, array in each.items()})
        command = [str(python), "-I", chain.__file__, str(source), str(target), *files]
        subprocess.run(command, capture_output=True, text=True, check=True)
        found = np.load(target)
        for number, each in inputs.items():
            for tensor, expected in chain.run(sessions, each).items():
                scale = max(1.0, float(np.abs(expected).max())) if tensor.endswith("EMBEDDING") else 1.0
                difference = float(np.abs(found[f"{number}/{tensor}"] - expected).max()) / scale
                if not difference <= worst.difference or not worst.tensor:  # also true for NaN
                    utterances = " and ".join(map(str, asked[number]))
                    worst = Comparison(name, difference, worst.tolerance, tensor, f"a batch of {utterances}")
    return worst
