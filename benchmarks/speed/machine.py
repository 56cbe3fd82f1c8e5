"""Describes what a benchmark ran on, without the name of a host or a path."""

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import psutil
import torch
from threadpoolctl import threadpool_info

from benchmarks.processes import ROOT

# instruction sets that decide how fast fp32 and int8 matrix products are, as /proc/cpuinfo spells them
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
PACKAGES = ("numpy", "onnxruntime", "tritonclient", "torch", "locust", "nvidia-pytriton", "litserve", "fastapi")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Hardware and system."""

    cpu: str  # model name
    cores: float  # that this process may use, by its affinity and the cgroup's quota
    memory_gib: float  # of the machine, or the cgroup's limit if that is less
    instructions: list[str]  # those of INSTRUCTIONS that the CPU has
    kernel: str  # name and release
    python: str  # version


def describe() -> Machine:
    """Return this machine, as this process sees it."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    quotas = [int(quota) / int(period) for quota, period in map(str.split, _limits("cpu.max")) if quota != "max"]
    memory = [int(limit) for limit in _limits("memory.max") if limit != "max"]
    return Machine(
        cpu=facts.get("model name") or platform.processor() or platform.machine(),
        cores=round(min(len(os.sched_getaffinity(0)), *quotas, float("inf")), 2),
        memory_gib=round(min(psutil.virtual_memory().total, *memory, float("inf")) / 2**30, 1),
        instructions=[name for name in INSTRUCTIONS if name in flags],
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def versions() -> dict[str, str]:
    """Return the versions of those PACKAGES that are installed, their kernels, and variables that select others."""
    found = {one.metadata["Name"]: one.version for one in distributions()}
    # numpy and scipy each bring an OpenBLAS of their own, in folders such as numpy.libs
    libraries = {Path(one["filepath"]).parent.name.split(".")[0]: one for one in threadpool_info()}
    kernels = {f"{name} kernels": one["architecture"] for name, one in libraries.items() if "architecture" in one}
    kernels["torch kernels"] = torch.backends.cpu.get_cpu_capability()
    pins = {k: v for k, v in os.environ.items() if k.startswith(("OPENBLAS_", "MKL_", "OMP_", "ONEDNN_", "ATEN_CPU_"))}
    return {package: found[package] for package in PACKAGES if package in found} | kernels | pins


def revision() -> str | None:
    """Return the commit of this code, with "-dirty" if files differ from it; None outside a git checkout."""
    if not (ROOT / ".git").exists():  # or git would answer for a repository further up
        return None
    command = ["git", "--no-optional-locks", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run([*command, "--abbrev=12"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _limits(name: str) -> list[str]:
    """Return a limit of our cgroup v2 and of those above it, each of which limits us; empty without cgroup v2."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    groups = [_CGROUP / own, *(_CGROUP / parent for parent in Path(own).parents)]
    return [file.read_text().strip() for group in groups if (file := group / name).is_file()]
