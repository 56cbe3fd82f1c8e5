"""How many cores a container may use: what counts is its limit, not the node's number."""

import math
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2, as a container sees its own


def limit(cpu_max: Path = CPU_MAX) -> int | None:
    """The cores that the container's CPU limit grants, rounded up; None without one."""
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
