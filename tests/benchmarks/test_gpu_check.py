"""The GPU check, as far as it can run without a GPU: nvidia-smi's lines, the CPU's half, the table and the picture.

The lines are written after NVIDIA's description of `--format=csv,noheader,nounits`; none was recorded on a GPU.
"""

import os
import sys
import time
import tomllib
from argparse import Namespace
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import gpu_check, machine, nvidia_smi
from benchmarks.errors import BenchmarkError
from benchmarks.gpu_check import Device, Parity, Point, Results, ServerProcess
from benchmarks.nvidia_smi import GpuSample, GpuSampler
from benchmarks.sampling import Sampler
from emotion.checkpoint import Checkpoint
from serving import Triton
from tests.conftest import ROOT


def at(text: str) -> float:
    return datetime.strptime(text, "%Y/%m/%d %H:%M:%S.%f").timestamp()


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        (
            "2026/11/28 21:25:01.123, 0, 87, 10240, 81559\n",
            GpuSample(at("2026/11/28 21:25:01.123"), 0, 0.87, 10240.0, 81559.0),
        ),
        (
            "2026/11/28 21:25:01.623, 1, [N/A], 512, 81559\n",  # with MIG
            GpuSample(at("2026/11/28 21:25:01.623"), 1, None, 512.0, 81559.0),
        ),
        (
            "2026/11/28 21:25:01.623, 1, [Not Supported], [Not Supported], [Not Supported]\n",
            GpuSample(at("2026/11/28 21:25:01.623"), 1, None, None, None),
        ),
        ("No devices were found\n", None),
        ("Unable to determine the device handle for GPU0, 1, 2, 3, 4\n", None),
        ("2026/11/28 21:25:01.623, 0, 87\n", None),  # cut short when it was stopped
        ("\n", None),
    ],
)
def test_parse_reads_samples_and_skips_other_lines(line: str, sample: GpuSample | None) -> None:
    assert nvidia_smi.parse(line) == sample


def test_sampler_collects_lines_until_the_block_ends(tmp_path: Path) -> None:
    script = tmp_path / "nvidia_smi.py"
    script.write_text(
        "import time\n"
        "from datetime import datetime\n"
        "while True:\n"
        "    print(datetime.now().strftime('%Y/%m/%d %H:%M:%S.%f')[:-3] + ', 0, 50, 1000, 8000', flush=True)\n"
        "    time.sleep(0.02)\n"
    )
    start = time.time()
    with GpuSampler([sys.executable, str(script)]) as sampler:
        while len(sampler.samples) < 5 and time.time() < start + 30:
            time.sleep(0.02)
    end = time.time()
    assert len(sampler.samples) >= 5
    assert nvidia_smi.between(sampler.samples, start - 0.001, end) == (0.5, 1000.0)
    assert nvidia_smi.between(sampler.samples, end + 1, end + 2) == (None, None)


def test_between_averages_utilisation_and_adds_the_memory_of_gpus() -> None:
    samples = [
        GpuSample(1.0, 0, 0.2, 100.0, 8000.0),
        GpuSample(1.0, 1, 0.4, 200.0, 8000.0),
        GpuSample(2.0, 0, 0.6, 300.0, 8000.0),
        GpuSample(2.0, 1, None, 150.0, 8000.0),
        GpuSample(9.0, 0, 1.0, 9000.0, 8000.0),
    ]
    utilization, memory = nvidia_smi.between(samples, 1.0, 2.0)
    assert utilization == pytest.approx(0.4)
    assert memory == 500.0


def nvidia_smi_that(directory: Path, commands: str) -> str:
    """A PATH whose nvidia-smi runs these shell commands."""
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{commands}\n")
    program.chmod(0o755)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


def test_find_gpus_asks_for_those_that_cuda_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", nvidia_smi_that(tmp_path, 'echo "NVIDIA T4"; echo "$@" > "$(dirname "$0")/asked"'))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert nvidia_smi.find_gpus() == ["NVIDIA T4"]
    assert (tmp_path / "asked").read_text().split() == ["--query-gpu=name", "--id=1", "--format=csv,noheader"]


def test_driver_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PATH", nvidia_smi_that(tmp_path, "echo NVIDIA-SMI has failed because it could not reach the driver; exit 9")
    )
    with pytest.raises(BenchmarkError, match=r"finds no GPU \(NVIDIA-SMI has failed .*\); look at the driver"):
        nvidia_smi.find_gpus()


def test_without_a_gpu_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu_check, "DIRECTORY", tmp_path / "gpu")
    with pytest.raises(BenchmarkError, match=r"^no NVIDIA GPU can be used here: nvidia-smi, which comes with"):
        gpu_check.run(Namespace(checkpoint=tmp_path, wheels=None))
    assert not (tmp_path / "gpu").exists()


def test_directory_of_wheels_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"there is no directory .*wheels; fill one with: .*pip download"):
        gpu_check.install(tmp_path / "venv", tmp_path / "wheels")
    assert not (tmp_path / "venv").exists()


def test_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchmarkError, match=r"the server did not start: .* holds no models; make some with"),
        ServerProcess(Path(sys.executable), tmp_path),
    ):
        pass


def test_server_process_has_what_the_sampler_asks_for(repository: Path) -> None:
    with ServerProcess(Path(sys.executable), repository) as server:
        assert Path(f"/proc/{server.pid}/comm").read_text().strip() == "tritonserver"
        with Sampler(server, interval=0.1) as sampler:
            time.sleep(0.2)
    assert sampler.result.models["emotion"].requests == 0
    assert not Path(f"/proc/{server.pid}").exists()


def test_the_cpu_answers_as_pytorch_does_and_every_load(
    server: Triton, repository: Path, checkpoint: Checkpoint
) -> None:
    tokenizer = repository / "preprocess" / "1" / "tokenizer.json"
    device = gpu_check.measure(server, tokenizer, checkpoint, "fp32", callers=(4,), seconds=3, utterances=8)
    assert device.parity.holds, device.parity
    assert 0 < device.parity.difference < 1e-4
    assert "PROBABILITIES of " in device.parity.where
    assert [point.load for point in device.points] == ["4 callers", "open loop"]
    assert device.points[1].offered == pytest.approx(0.8 * device.points[0].throughput)
    for point in device.points:
        assert point.failures == 0 and point.cpu_cores > 0
        assert point.offered or (point.throughput > 0 and 0 < point.p50 <= point.p99)
        assert (point.gpu_utilization, point.gpu_memory_mib) == (None, None)


RECORDED = Results(
    started=datetime(2026, 11, 28, tzinfo=UTC),
    minutes=6.5,
    revision=None,
    machine=machine.Machine("a CPU", 16.0, 128.0, ["avx2"], "NVIDIA T4", "Linux 6", "3.11"),
    versions={"onnxruntime-gpu": "1.31.1"},
    checkpoint="0123456789abcdef",
    gpus=["NVIDIA T4"],
    devices={
        "GPU": Device(
            "fp16",
            Parity(2e-3, 1e-2, "PROBABILITIES of 3 patches and 9 tokens"),
            [
                Point("1 caller", None, 50.0, 20.0, 25.0, 0, 1.0, 0.25, 900.0),
                Point("128 callers", None, 800.0, 150.0, 300.0, 0, 6.0, None, None),
                Point("open loop", 640.0, 640.0, 30.0, 60.0, 0, 5.0, 0.8, 1200.0, 0.79),
            ],
            [GpuSample(100.0 + 0.5 * n, 0, None if n == 3 else n / 20, 900.0 + n, 15360.0) for n in range(20)],
        ),
        "CPU": Device(
            "fp32",
            Parity(1e-6, 1e-4, "AUDIO_PROBABILITIES of 3 patches and 9 tokens"),
            [
                Point("1 caller", None, 10.0, 100.0, 125.0, 0, 15.0),
                Point("128 callers", None, 40.0, 3000.0, 4000.0, 0, 16.0),
                Point("open loop", 32.0, 0.0, float("nan"), float("nan"), 0, 16.0),
            ],
        ),
    },
)


def test_results_are_read_as_they_were_written_and_drawn(tmp_path: Path) -> None:
    gpu_check.write(RECORDED, tmp_path)
    found = gpu_check.read(tmp_path / "gpu-check.json")
    assert gpu_check.report(found) == gpu_check.report(RECORDED)
    assert found.devices["GPU"] == RECORDED.devices["GPU"]
    assert (tmp_path / "gpu-check.png").stat().st_size > 20_000


def test_report_puts_the_cpu_beside_the_gpu() -> None:
    text = gpu_check.report(RECORDED)
    rows = {line.split("  ")[0].strip(): line.split() for line in text.splitlines()}
    assert rows["1 caller"][2:] == ["50.0", "20.0", "25.0", "25%", "900", "200.0", "10.0", "100.0", "125.0", "5.0"]
    assert rows["128 callers"][2:] == ["800.0", "150.0", "300.0", "–", "–", "–", "40.0", "3000.0", "4000.0", "20.0"]
    assert rows["open loop"][2:] == ["640.0", "30.0", "60.0", "80%", "1200", "800.0", "0.0", "nan", "nan", "–"]
    assert text.splitlines()[-1] == "PASS: all requests were answered, within the tolerance"


def test_answers_over_the_tolerance_and_failed_requests_are_complaints() -> None:
    gpu = RECORDED.devices["GPU"]
    failed = [replace(gpu.points[0], failures=2), *gpu.points[1:]]
    broken = replace(gpu, parity=Parity(float("nan"), 1e-2, "TEXT_PROBABILITIES of 9 tokens"), points=failed)
    assert gpu_check.complaints(replace(RECORDED, devices=RECORDED.devices | {"GPU": broken})) == [
        "GPU: an answer differs from PyTorch's by nan (tolerance 0.01), TEXT_PROBABILITIES of 9 tokens",
        "GPU, 1 caller: 2 requests failed",
    ]


def test_another_file_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "gpu-check.json").write_text("{}")
    with pytest.raises(BenchmarkError, match=r"is no result of this version's `make gpu-check`"):
        gpu_check.read(tmp_path / "gpu-check.json")


def test_extra_gpu_has_no_other_onnxruntime() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [line for line in extras["gpu"] if line.startswith("onnxruntime")] == ["onnxruntime-gpu[cuda,cudnn]==1.31.1"]
    others = {line for line in extras["gpu"] if not line.startswith("onnxruntime")}
    assert others == {line.replace(",backend", "") for line in extras["server"]}  # `backend` is onnxruntime for CPUs
