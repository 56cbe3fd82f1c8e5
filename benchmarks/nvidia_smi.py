"""GPU utilisation and memory, as NVIDIA's `nvidia-smi` samples them."""

import csv
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from benchmarks.errors import BenchmarkError

INTERVAL_MS = 500  # from one sample to the next
FIELDS = ("timestamp", "index", "utilization.gpu", "memory.used", "memory.total")
TIMEOUT_S = 20.0  # for a call that lists the GPUs


@dataclass(frozen=True)
class GpuSample:
    """One line of nvidia-smi: one GPU at one moment.

    Attributes:
        time: s, on the clock of time.time().
        index: of the GPU.
        utilization: 0 to 1, the share of the last sampling period in which a kernel ran; None where it is not known.
        memory_mib: memory in use, by all processes; None where it is not known.
        memory_total_mib: memory that there is; None where it is not known.
    """

    time: float
    index: int
    utilization: float | None
    memory_mib: float | None
    memory_total_mib: float | None


def find_gpus() -> list[str]:
    """Return the names of the GPUs.

    Raises:
        BenchmarkError: No driver, or no GPU; one sentence that says what is missing.
    """
    if shutil.which("nvidia-smi") is None:
        raise BenchmarkError(
            "no NVIDIA GPU can be used here: nvidia-smi, which comes with NVIDIA's driver, is not on PATH; run this on "
            "a machine with a GPU and its driver"
        )
    try:
        done = subprocess.run(
            [*_query("name"), "--format=csv,noheader"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchmarkError(f"nvidia-smi does not work ({error}); reinstall NVIDIA's driver") from None
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not names:
        reason = " ".join((done.stdout + done.stderr).split()) or f"exit status {done.returncode}"
        raise BenchmarkError(f"nvidia-smi finds no GPU ({reason}); look at the driver, and at CUDA_VISIBLE_DEVICES")
    return names


def parse(line: str) -> GpuSample | None:
    """Return the sample in a line of `--format=csv,noheader,nounits` with `FIELDS`; None where the line is no sample.

    A value that the GPU can't tell is in brackets, such as "[N/A]" or "[Not Supported]": utilisation with MIG, for one.
    """
    row = next(csv.reader([line], skipinitialspace=True), [])
    if len(row) != len(FIELDS):
        return None
    try:
        time = datetime.strptime(row[0], "%Y/%m/%d %H:%M:%S.%f").timestamp()
        index = int(row[1])
    except ValueError:
        return None
    percent, used, total = map(_number, row[2:])
    return GpuSample(time, index, None if percent is None else percent / 100, used, total)


class GpuSampler:
    """Samples the GPUs while the `with` block runs.

    Attributes:
        samples: so far, in the order in which nvidia-smi wrote them.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        """
        Args:
            command: writes the lines; None is nvidia-smi, one process that goes on until it is stopped.
        """
        self._command = command or [
            *_query(",".join(FIELDS)),
            "--format=csv,noheader,nounits",
            f"--loop-ms={INTERVAL_MS}",
        ]
        self.samples: list[GpuSample] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._thread = threading.Thread(target=self._read, name="nvidia-smi", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._thread.join()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if sample := parse(line):
                self.samples.append(sample)


def between(samples: Sequence[GpuSample], start: float, end: float) -> tuple[float | None, float | None]:
    """Return the mean utilisation (0 to 1) of the GPUs, and the most memory of all of them together (MiB).

    Args:
        start, end: s, on the clock of time.time(); both included.
    """
    chosen = [sample for sample in samples if start <= sample.time <= end]
    utilization = [sample.utilization for sample in chosen if sample.utilization is not None]
    memory: dict[int, float] = {}
    for sample in chosen:
        if sample.memory_mib is not None:
            memory[sample.index] = max(memory.get(sample.index, 0.0), sample.memory_mib)
    return (
        sum(utilization) / len(utilization) if utilization else None,
        sum(memory.values()) if memory else None,
    )


def _query(fields: str) -> list[str]:
    """The command that asks for them, of the GPUs that CUDA sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ["nvidia-smi", f"--query-gpu={fields}", *([f"--id={visible}"] if visible else [])]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
