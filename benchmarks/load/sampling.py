"""What a server does during a run: Triton's metrics, and the CPU time, memory and descriptors of its processes."""

import contextlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.errors import BenchmarkError
from serving import Triton
from stages.triton_metrics import REQUESTS, WAIT_SECONDS, WORK_SECONDS, MetricsReader, Values

ENSEMBLE = "emotion"  # the model that clients call
PREPROCESS, QUEUE = "preprocess", "queue"  # Python stages; admitted requests wait in `queue`
SETTLING_S = 0.25  # Triton counts a request after its answer has left
MIB = 1 << 20
_COMPUTE = ("compute_input_duration_us", "compute_infer_duration_us", "compute_output_duration_us")
_REGION = re.compile(r"/dev/shm/\S+")


@dataclass(frozen=True)
class ModelStatistics:
    """What one model did during a run; queue and compute times are means per request."""

    requests: int
    executions: int
    queue_ms: float
    compute_ms: float

    @property
    def mean_batch(self) -> float:
        """Requests per execution."""
        return self.requests / max(1, self.executions)


@dataclass(frozen=True)
class ResourceUsage:
    """What the processes of a server hold at a moment, all of them together."""

    time: float  # s on the clock of time.time()
    uss_mib: float  # memory of one process alone, without shared regions
    pss_mib: float  # all memory; a page shared by n processes counts 1/n for each
    region_mib: float  # their regions in /dev/shm
    descriptors: int
    threads: int


@dataclass
class ServerUsage:
    """What a server did during the block of `sampled`."""

    models: dict[str, ModelStatistics] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)  # of "tritonserver", and of models with own processes


@contextlib.contextmanager
def sampled(server: Triton) -> Iterator[ServerUsage]:
    """Compare a server before and after the block. Raises BenchmarkError if it does not answer."""
    read = MetricsReader(f"http://{server.metrics_url}/metrics")

    def snapshot() -> tuple[Values, dict[str, float]]:
        time.sleep(SETTLING_S)
        try:
            return read(), cpu_seconds(server.pid)
        except OSError as error:
            url = server.metrics_url
            raise BenchmarkError(f"no metrics from the server at {url} ({error}): is it still running?") from None

    before, usage = snapshot(), ServerUsage()
    yield usage
    metrics, used = snapshot()
    loaded = [model for name, model in metrics if name == "exec_count"]
    usage.models = {model: _statistics(model, before[0], metrics) for model in loaded}
    usage.cpu_seconds = {name: seconds - before[1].get(name, 0.0) for name, seconds in used.items()}


def cpu_seconds(leader: int) -> dict[str, float]:
    """Return the CPU seconds of a process group since its processes started: by program, a stage by its model."""
    used: dict[str, float] = defaultdict(float)
    for process in _group(leader):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used[_name(process)] += times.user + times.system
    return used


def resource_usage(leader: int) -> ResourceUsage:
    """Return what the process group of `leader` holds. Raises BenchmarkError if the group has no process."""
    uss = pss = descriptors = threads = 0
    regions: dict[str, int] = {}
    for process in _group(leader):
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            memory = process.memory_full_info()
            uss, pss = uss + memory.uss, pss + memory.pss
            descriptors += process.num_fds()
            threads += process.num_threads()
            for region in _REGION.findall(Path(f"/proc/{process.pid}/maps").read_text()):
                regions[region] = Path(region).stat().st_size
    if not threads:
        raise BenchmarkError("the server has ended")
    return ResourceUsage(time.time(), uss / MIB, pss / MIB, sum(regions.values()) / MIB, descriptors, threads)


def _group(leader: int) -> list[psutil.Process]:
    """Return the processes of a process group."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            processes += [process] if os.getpgid(process.pid) == leader else []
    return processes


def _name(process: psutil.Process) -> str:
    """Return the program's name, or the model that a stub of the Python backend runs: REPOSITORY/MODEL/VERSION/FILE."""
    program, *arguments = process.cmdline() or [process.name()]
    if Path(program).name == "triton_python_backend_stub" and arguments:
        return Path(arguments[0]).parent.parent.name
    return Path(program).name


def _statistics(model: str, before: Values, after: Values) -> ModelStatistics:
    """Return what a model did from one reading of the metrics to another.

    A stage with a queue of its own takes each request from Triton at once; its metrics say how long it waits there.
    """

    def grown(*names: str) -> float:
        return sum(after.get((name, model), 0.0) - before.get((name, model), 0.0) for name in names)

    requests, handled = max(1.0, grown("request_success")), max(1.0, grown(REQUESTS))
    return ModelStatistics(
        requests=round(grown("request_success")),
        executions=round(grown("exec_count")),
        queue_ms=grown("queue_duration_us") / requests / 1e3 + 1e3 * grown(WAIT_SECONDS) / handled,
        compute_ms=grown(*_COMPUTE) / requests / 1e3 + 1e3 * grown(WORK_SECONDS) / handled,
    )
