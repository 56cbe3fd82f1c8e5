"""Read the CPU limit of a container, because libraries count the cores of the node."""

import math
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2, as seen inside a container


def limit(cpu_max: Path = CPU_MAX) -> int | None:
    """Return the container's CPU limit in cores, rounded up, or None without a limit.

    Args:
        cpu_max: file with the quota and the period in microseconds.
    """
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
