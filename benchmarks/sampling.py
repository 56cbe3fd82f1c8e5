"""The server's side of a run: Triton's own statistics, and what its processes use of the machine."""

import contextlib
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import psutil

from benchmarks.errors import BenchmarkError
from stages.triton_metrics import PENDING, REQUESTS, WAIT_SECONDS, WAITING, WORK_SECONDS, Values, parse

ENSEMBLE = "emotion"  # the model that clients call; its requests are the server's
PREPROCESS, QUEUE = "preprocess", "queue"  # Python stages; what is admitted and not yet running waits in `queue`
TIMEOUT = 10.0  # s for an answer over HTTP, also from a server that is busy
SETTLING = 0.25  # s: Triton counts a request after its answer has left
MEMORY_INTERVAL = 5.0  # s: to share out shared pages, Linux walks through all of them, 15 ms for a GiB
MIB = 1 << 20
_REGION = re.compile(r"/dev/shm/\S+")
_GPU = re.compile(r"(?m)^(nv_gpu_\w+){.*} (\S+)")


class Server(Protocol):
    """What is needed of a server; a serving.Triton has it."""

    @property
    def http_url(self) -> str:
        """host:port of HTTP."""

    @property
    def metrics_url(self) -> str:
        """host:port of metrics."""

    @property
    def admin_headers(self) -> dict[str, str]:
        """That open statistics."""

    @property
    def pid(self) -> int:
        """Of the process that leads the server's process group."""


@dataclass(frozen=True)
class ModelStatistics:
    """What one model did during a run; times are means per answered request, in ms.

    Attributes:
        executions: batches that ran.
        busy_seconds: the durations of all executions, input and output included; of several instances, their sum.
        batch_sizes: executions by batch size.
    """

    requests: int
    executions: int
    busy_seconds: float
    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    batch_sizes: dict[int, int]

    @property
    def mean_batch(self) -> float:
        """Requests in an execution."""
        return self.requests / max(1, self.executions)


@dataclass(frozen=True)
class ServerSide:
    """A run as its server saw it.

    Attributes:
        models: by name.
        timeline: one row an interval: "seconds" since the start, "cpu_cores" in use by all its processes, "rss_mib"
            (proportional where readable, so that shared pages count once; looked at every 5 s), "requests_per_s"
            answered, "queued" requests over all models at that moment, and where there is a GPU "gpu_utilization" (0 to
            1, the mean of several) and "gpu_memory_mib" (the sum).
        cpu_seconds: by process: "tritonserver", and each model that has a process of its own.
    """

    models: dict[str, ModelStatistics]
    timeline: list[dict[str, float]]
    cpu_seconds: dict[str, float]


@dataclass(frozen=True)
class Holdings:
    """What the processes of a server hold at a moment, all of them together.

    Attributes:
        time: s, on the clock of time.time().
        uss_mib: memory that is no other process's; regions that processes share are not in it, once two have used them.
        pss_mib: all memory, a page shared by n processes as 1/n for each.
        region_mib: the sizes of the regions in /dev/shm that they share.
    """

    time: float
    uss_mib: float
    pss_mib: float
    region_mib: float
    descriptors: int
    threads: int


@dataclass(frozen=True)
class _Snapshot:
    time: float  # s, time.monotonic()
    cpu: dict[int, float]  # s since it started, by process
    memory: float  # MiB
    metrics: Values = field(repr=False)  # of the models
    gpu: dict[str, list[float]] = field(repr=False)  # by metric, for each GPU


class Sampler:
    """Samples a server while the `with` block runs; `result` is there after it.

    Raises:
        BenchmarkError: the server did not answer, at the start or later.
    """

    result: ServerSide

    def __init__(self, server: Server, interval: float = 1.0) -> None:
        """
        Args:
            interval: seconds from one row of the timeline to the next.
        """
        self._server = server
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._names: dict[int, str] = {}  # by process
        self._memory, self._memory_time = 0.0, -MEMORY_INTERVAL  # MiB, and when that was
        self._error: BenchmarkError | None = None

    def __enter__(self) -> Self:
        self._before = self._statistics()
        self._snapshots = [self._snapshot()]
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is not None:
            return
        if self._error is not None:
            raise self._error
        after = self._statistics()
        self._snapshots.append(self._snapshot())
        models = {name: _difference(self._before.get(name), after[name]) for name in after}
        first, last = self._snapshots[0].metrics, self._snapshots[-1].metrics
        self.result = ServerSide(
            models={name: _with_own_queue(model, name, first, last) for name, model in models.items()},
            timeline=self._timeline(),
            cpu_seconds=self._cpu_seconds(),
        )

    def _sample(self) -> None:
        while not self._stop.wait(self._snapshots[-1].time + self._interval - time.monotonic()):
            try:
                self._snapshots.append(self._snapshot())
            except BenchmarkError as error:
                self._error = error
                return

    def _statistics(self) -> dict[str, Any]:
        """Triton's statistics by model, with every request whose answer has arrived."""
        time.sleep(SETTLING)
        url = f"http://{self._server.http_url}/v2/models/stats"
        answer = json.loads(_get(url, self._server.admin_headers))
        return {model["name"]: model for model in answer["model_stats"]}

    def _snapshot(self) -> _Snapshot:
        text = _get(f"http://{self._server.metrics_url}/metrics")
        gpu = defaultdict(list)
        for name, value in _GPU.findall(text):
            gpu[name].append(float(value))
        now = time.monotonic()
        look_at_memory = now - self._memory_time >= MEMORY_INTERVAL
        cpu, memory = {}, 0.0
        for pid in _group(self._server.pid):
            try:
                process = psutil.Process(pid)
                self._names.setdefault(pid, _name(process))
                times = process.cpu_times()
                cpu[pid] = times.user + times.system
                if look_at_memory:
                    memory += _memory(process) / MIB
            except psutil.NoSuchProcess:
                continue
        if look_at_memory:
            self._memory, self._memory_time = memory, now
        return _Snapshot(now, cpu, self._memory, parse(text), gpu)

    def _timeline(self) -> list[dict[str, float]]:
        snapshots = self._snapshots
        if len(snapshots) > 2 and snapshots[-1].time - snapshots[-2].time < self._interval / 2:
            snapshots = [*snapshots[:-2], snapshots[-1]]  # too short for a rate of its own
        return [_row(earlier, later, later.time - snapshots[0].time) for earlier, later in pairwise(snapshots)]

    def _cpu_seconds(self) -> dict[str, float]:
        latest: dict[int, float] = {}
        for snapshot in self._snapshots:
            latest |= snapshot.cpu
        seconds: dict[str, float] = defaultdict(float)
        for pid, cpu in latest.items():
            seconds[self._names[pid]] += cpu - self._snapshots[0].cpu.get(pid, 0.0)
        return dict(seconds)


def cpu_seconds(leader: int) -> float:
    """Return the CPU seconds that the processes of the group that `leader` leads have used since they started."""
    used = 0.0
    for pid in _group(leader):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            used += times.user + times.system
    return used


def holdings(leader: int) -> Holdings:
    """Of the process group that `leader` leads.

    Raises:
        BenchmarkError: it has no processes.
    """
    uss = pss = descriptors = threads = 0
    regions: dict[str, int] = {}
    for pid in _group(leader):
        try:
            process = psutil.Process(pid)
            memory = process.memory_full_info()
            uss, pss = uss + memory.uss, pss + memory.pss
            descriptors += process.num_fds()
            threads += process.num_threads()
            for region in _REGION.findall(Path(f"/proc/{pid}/maps").read_text()):
                regions[region] = Path(region).stat().st_size
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue
    if not threads:
        raise BenchmarkError("the server has ended")
    return Holdings(time.time(), uss / MIB, pss / MIB, sum(regions.values()) / MIB, descriptors, threads)


def _get(url: str, headers: dict[str, str] | None = None) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=TIMEOUT) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise BenchmarkError(f"no statistics from the server at {url} ({reason}): is it still running?") from None


def _group(leader: int) -> list[int]:
    """The processes of a process group."""
    pids = []
    for pid in psutil.pids():
        try:
            if os.getpgid(pid) == leader:
                pids.append(pid)
        except (ProcessLookupError, PermissionError):
            continue
    return pids


def _memory(process: psutil.Process) -> float:
    """Bytes; a page shared by n processes counts 1/n where the system tells."""
    try:
        return float(process.memory_full_info().pss)
    except (psutil.AccessDenied, AttributeError):
        return float(process.memory_info().rss)


def _name(process: psutil.Process) -> str:
    """The program's name, or the model's that a stub of the Python backend runs: REPOSITORY/MODEL/VERSION/FILE."""
    program, *arguments = process.cmdline() or [process.name()]
    if Path(program).name == "triton_python_backend_stub" and arguments:
        return Path(arguments[0]).parent.parent.name
    return Path(program).name


def _row(earlier: _Snapshot, later: _Snapshot, seconds: float) -> dict[str, float]:
    passed = later.time - earlier.time
    answered = [snapshot.metrics.get(("request_success", ENSEMBLE), 0.0) for snapshot in (earlier, later)]
    used = sum(cpu - earlier.cpu.get(pid, 0.0) for pid, cpu in later.cpu.items())
    row = {
        "seconds": seconds,
        "cpu_cores": used / passed,
        "rss_mib": later.memory,
        "requests_per_s": (answered[1] - answered[0]) / passed,
        "queued": sum(value for (name, _), value in later.metrics.items() if name in (PENDING, WAITING)),
    }
    if utilization := later.gpu.get("nv_gpu_utilization"):
        row["gpu_utilization"] = sum(utilization) / len(utilization)
    if memory := later.gpu.get("nv_gpu_memory_used_bytes"):
        row["gpu_memory_mib"] = sum(memory) / MIB
    return row


def _difference(before: dict[str, Any] | None, after: dict[str, Any]) -> ModelStatistics:
    """From Triton's statistics of a model at two moments."""

    def changed(name: str, figure: str) -> int:
        earlier = before["inference_stats"][name].get(figure, 0) if before else 0
        return int(after["inference_stats"][name].get(figure, 0)) - int(earlier)

    def mean_ms(name: str) -> float:
        return changed(name, "ns") / 1e6 / max(1, changed(name, "count"))

    sizes = _batch_sizes(after)
    for size, executions in _batch_sizes(before).items():
        sizes[size] -= executions
    return ModelStatistics(
        requests=changed("success", "count"),
        executions=int(after["execution_count"]) - int(before["execution_count"] if before else 0),
        busy_seconds=_busy_seconds(after) - _busy_seconds(before),
        queue_ms=mean_ms("queue"),
        compute_input_ms=mean_ms("compute_input"),
        compute_infer_ms=mean_ms("compute_infer"),
        compute_output_ms=mean_ms("compute_output"),
        batch_sizes={size: executions for size, executions in sorted(sizes.items()) if executions},
    )


def _with_own_queue(model: ModelStatistics, name: str, before: Values, after: Values) -> ModelStatistics:
    """Return the statistics of a stage with a queue of its own, which takes each request from Triton at once."""
    if (REQUESTS, name) not in after:
        return model

    def changed(metric: str) -> float:
        return after.get((metric, name), 0.0) - before.get((metric, name), 0.0)

    requests = max(1.0, changed(REQUESTS))
    waited_ms, worked_ms = (1e3 * changed(metric) / requests for metric in (WAIT_SECONDS, WORK_SECONDS))
    return replace(
        model,
        busy_seconds=changed(WORK_SECONDS),
        queue_ms=model.queue_ms + waited_ms,
        compute_infer_ms=model.compute_infer_ms + worked_ms,
    )


def _busy_seconds(model: dict[str, Any] | None) -> float:
    """The durations of all executions since the model was loaded, which Triton sums by batch size."""
    batches = model["batch_stats"] if model else []
    parts = ("compute_input", "compute_infer", "compute_output")
    return sum(int(batch[part].get("ns", 0)) for batch in batches for part in parts) / 1e9


def _batch_sizes(model: dict[str, Any] | None) -> dict[int, int]:
    """Executions by batch size, since the model was loaded."""
    return {int(row["batch_size"]): int(row["compute_infer"]["count"]) for row in model["batch_stats"]} if model else {}
