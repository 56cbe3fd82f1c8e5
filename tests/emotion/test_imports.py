"""Test in a new interpreter that the stages import no training packages."""

from tests.conftest import run

SERVED = """
import importlib, pkgutil, sys, types

import numpy as np

import emotion.decoding, emotion.labels, emotion.text
import stages
from emotion import audio

# Triton provides this module to its Python processes
backend = sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
names = [module.name for module in pkgutil.iter_modules(stages.__path__)]
for name in names:
    importlib.import_module("stages." + name)
audio.sound_patches(np.zeros(16000, np.float32))
assert "admission" in names, names
print(sorted({"librosa", "matplotlib", "numba", "optimum", "sklearn", "torch"} & set(sys.modules)))
"""


def test_stages_import_nothing_of_training() -> None:
    """Importing librosa would cost each stage process 3 s of CPU time and 180 MiB (docs/training.md)."""
    done = run("-c", SERVED)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
