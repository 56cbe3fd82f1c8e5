"""Describe the hardware and the package versions that a run used, for its report."""

import os
import platform
from importlib.metadata import version

import torch

PACKAGES = ("torch", "transformers", "lightning", "librosa", "scikit-learn", "numpy")  # metrics depend on these


def versions() -> dict[str, str]:
    """Return the versions of Python and of PACKAGES by name."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def hardware() -> str:
    """Return the name of the GPU, or the number of CPU cores and their architecture."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{len(os.sched_getaffinity(0))} CPU cores ({platform.machine()})"
