"""What a benchmark ran on. Figures mean little without it; it names no host and no path."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent
# the instruction sets that decide how fast fp32 and int8 matrix products are, as /proc/cpuinfo spells them
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
PACKAGES = (
    "numpy",
    "onnxruntime",
    "tritonclient",
    "torch",
    "locust",
    "nvidia-pytriton",
    "litserve",
    "fastapi",
)
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Hardware and system.

    Attributes:
        cpu: its model.
        cores: that this process may use: its affinity, or the cgroup's quota where that is less (then fractional).
        memory_gib: of the machine, or the cgroup's limit where that is less.
        instructions: those of `INSTRUCTIONS` that the CPU has.
        gpu: its name, several joined by ", "; None without one.
        kernel: name and release.
        python: version.
    """

    cpu: str
    cores: float
    memory_gib: float
    instructions: list[str]
    gpu: str | None
    kernel: str
    python: str


def describe() -> Machine:
    """This machine, as this process sees it."""
    facts = _cpu_facts()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=facts.get("model name") or platform.processor() or platform.machine(),
        cores=round(min(len(os.sched_getaffinity(0)), _quota()), 2),
        memory_gib=round(min(memory, _memory_limit()) / 2**30, 1),
        instructions=[name for name in INSTRUCTIONS if name in flags],
        gpu=_gpu(),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def versions() -> dict[str, str]:
    """Package -> version, of those `PACKAGES` that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def revision() -> str | None:
    """The commit that this code is, "-dirty" where files differ from it; None outside a git checkout."""
    if not (ROOT / ".git").exists():  # else git would answer for a repository further up
        return None
    return _output(
        "git", "--no-optional-locks", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"
    )


def _cpu_facts() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _quota() -> float:
    """CPUs that the cgroup grants; infinite without a quota."""
    grants = [float("inf")]
    for text in _limits("cpu.max"):
        quota, period = text.split()
        if quota != "max":
            grants.append(int(quota) / int(period))
    try:  # cgroup v1
        quota_us = int((_CGROUP / "cpu/cpu.cfs_quota_us").read_text())
        if quota_us > 0:
            grants.append(quota_us / int((_CGROUP / "cpu/cpu.cfs_period_us").read_text()))
    except OSError:
        pass
    return min(grants)


def _memory_limit() -> float:
    """Bytes that the cgroup grants; infinite without a limit."""
    return min((int(text) for text in _limits("memory.max") if text != "max"), default=float("inf"))


def _limits(name: str) -> list[str]:
    """A file of our cgroup v2 and of those above it, each of which limits us too; empty without cgroup v2."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    groups = [_CGROUP / own, *(_CGROUP / parent for parent in Path(own).parents)]
    return [file.read_text().strip() for group in groups if (file := group / name).is_file()]


def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return ", ".join(names.splitlines()) if names else None


def _output(*command: str) -> str | None:
    """What a command says; None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
