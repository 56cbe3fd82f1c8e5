"""Test the parts of the GPU check that run without a GPU: the measurement on the CPU, and the table."""

import os
import sys
import time
import tomllib
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.load.sampling import cpu_seconds
from benchmarks.speed import gpu_check
from benchmarks.speed.gpu_check import Device, Parity, Point
from emotion.checkpoint import Checkpoint
from export import parity
from serving import Triton
from tests.conftest import ROOT


def path_with_nvidia_smi(directory: Path, commands: str) -> str:
    """Return a PATH whose nvidia-smi runs shell commands."""
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{commands}\n")
    program.chmod(0o755)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


def test_find_gpus_with_cuda_visible_devices_queries_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", path_with_nvidia_smi(tmp_path, 'echo "NVIDIA T4"; echo "$@" > "$(dirname "$0")/asked"'))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_check.find_gpus() == ["NVIDIA T4"]
    assert (tmp_path / "asked").read_text().split() == ["--query-gpu=name", "--id=1", "--format=csv,noheader"]


def test_find_gpus_with_a_failing_driver_names_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PATH",
        path_with_nvidia_smi(tmp_path, "echo NVIDIA-SMI has failed to reach the driver; exit 9"),
    )
    with pytest.raises(BenchmarkError, match=r"finds no GPU \(NVIDIA-SMI has failed .*\); look at the driver"):
        gpu_check.find_gpus()


def test_run_without_a_gpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        BenchmarkError, match=r"^no NVIDIA GPU can be used here: nvidia-smi, which comes with the driver"
    ):
        gpu_check.run(Namespace(checkpoint=tmp_path))


def test_serve_without_models_raises_the_last_line(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchmarkError, match=r"the server ended with exit status 1.* holds no models; make some with"),
        gpu_check.serve(Path(sys.executable), tmp_path),
    ):
        pass


def test_serve_yields_triton_and_leaves_no_process(repository: Path) -> None:
    with gpu_check.serve(Path(sys.executable), repository) as (url, pid):
        assert Path(f"/proc/{pid}/comm").read_text().strip() == "tritonserver"
        assert url.startswith("127.0.0.1:")
        assert cpu_seconds(pid)["tritonserver"] > 0
    assert not Path(f"/proc/{pid}").exists()


def test_measure_on_the_cpu_answers_as_pytorch_does_under_every_load(
    server: Triton, repository: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, less in {"CALLERS": (4,), "LOAD_S": 3, "WARM_UP_S": 2}.items():
        monkeypatch.setattr(gpu_check, name, less)
    few, utterances = parity.mixed_speech(8), iter([8])
    monkeypatch.setattr(parity, "mixed_speech", lambda: few[: next(utterances)])
    tokenizer = repository / "preprocess" / "1" / "tokenizer.json"
    began = time.monotonic()
    device = gpu_check.measure(server.grpc_url, server.pid, tokenizer, checkpoint, "fp32")
    assert 0 < device.parity.difference < 1e-4
    assert device.parity.tolerance == parity.TOLERANCES["fp32"].eager
    assert "PROBABILITIES of " in device.parity.where
    assert [point.load for point in device.points] == ["4 callers", "open loop"]
    for point in device.points:
        assert point.failures == 0 and 0 < point.cpu_cores < (os.cpu_count() or 1) + 0.5
        assert point.throughput > 0 and 0 < point.p50 <= point.p99
    assert device.points[1].throughput < device.points[0].throughput
    assert time.monotonic() - began > 6


GPU = Device(
    "fp16",
    Parity(2e-3, 1e-2, "PROBABILITIES of 3 patches and 9 tokens"),
    [
        Point("1 caller", 50.0, 20.0, 25.0, 0, 1.0),
        Point("128 callers", 800.0, 150.0, 300.0, 0, 6.0),
        Point("open loop", 640.0, 30.0, 60.0, 0, 5.0),
    ],
)
CPU = Device(
    "fp32",
    Parity(1e-6, 1e-4, "AUDIO_PROBABILITIES of 3 patches and 9 tokens"),
    [
        Point("1 caller", 10.0, 100.0, 125.0, 0, 15.0),
        Point("128 callers", 40.0, 3000.0, 4000.0, 0, 16.0),
        Point("open loop", 0.0, float("nan"), float("nan"), 0, 16.0),
    ],
)


def test_table_puts_the_cpu_beside_the_gpu() -> None:
    text = gpu_check.table(GPU, CPU)
    rows = {line.split("  ")[0].strip() or line.strip(): line.split() for line in text.splitlines()}
    rows = {" ".join(row[:2]): row[2:] for row in rows.values()}
    assert rows["1 caller"] == ["50.0", "20.0", "25.0", "1.0", "10.0", "100.0", "125.0", "15.0", "5.0"]
    assert rows["128 callers"] == ["800.0", "150.0", "300.0", "6.0", "40.0", "3000.0", "4000.0", "16.0", "20.0"]
    assert rows["open loop"] == ["640.0", "30.0", "60.0", "5.0", "0.0", "nan", "nan", "16.0", "–"]
    assert text.splitlines()[-1].endswith("GPU 2.0e-03 (tolerance 0.01), CPU 1.0e-06 (tolerance 0.0001)")


def test_violations_name_answers_over_the_tolerance_and_failed_requests() -> None:
    assert gpu_check.violations(GPU, CPU) == []
    failed = [replace(GPU.points[0], failures=2), *GPU.points[1:]]
    broken = replace(GPU, parity=Parity(float("nan"), 1e-2, "TEXT_PROBABILITIES of 9 tokens"), points=failed)
    assert gpu_check.violations(broken, CPU) == [
        "GPU: an answer differs from PyTorch's by nan (tolerance 0.01), TEXT_PROBABILITIES of 9 tokens",
        "GPU, 1 caller: 2 requests failed",
    ]


def test_extra_gpu_has_no_other_onnxruntime() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [line for line in extras["gpu"] if line.startswith("onnxruntime")] == ["onnxruntime-gpu[cuda,cudnn]==1.31.1"]
    others = {line for line in extras["gpu"] if not line.startswith("onnxruntime")}
    assert others == {line.replace(",backend", "") for line in extras["server"]}  # `backend` is onnxruntime for CPUs
