"""Test a complete benchmark run with the small model and few requests."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import benchmarks.__main__
from benchmarks.load.sampling import PREPROCESS, QUEUE
from benchmarks.load.workload import Utterance
from benchmarks.speed import bench, results, roofline
from benchmarks.speed.roofline import Flops
from export.repository import ONNX_MODELS

ROOT = Path(__file__).parent.parent.parent


def test_flops_of_known_models_equal_the_published_values(tmp_path: Path) -> None:
    (tmp_path / "text_encoder").mkdir()
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
    (tmp_path / "text_encoder" / "config.json").write_text(json.dumps(sizes))
    flops = Flops.of(tmp_path)
    assert flops.patch == pytest.approx(1.73e9, rel=0.01)
    assert flops.token == pytest.approx(0.17e9, rel=0.01)
    # first layers: one embedding for the audio and text views each, both for the fused view; second layers: five
    # labels each, and two weights more for the fused view
    assert flops.head == 2 * 2 * (128 + 256) * 128 + 2 * 128 * (5 + 5 + 7)
    short, long = Utterance(b"RIFF", "so", 1.0, 10, 1), Utterance(b"", "so it is", 0.0, 100, 0)
    assert flops.needed([short, long]) == flops.needed([short]) + flops.needed([long])
    assert flops.needed([long]) == 100 * flops.token + 100**2 * flops.pair + flops.text + flops.head
    # without audio, or without text, the encoder is skipped
    assert flops.needed([Utterance(b"RIFF", "", 1.0, 0, 1)]) == flops.patch + flops.text + flops.head


def test_quick_run_measures_its_whole_plan(
    demo_checkpoint: Path,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run what `make bench-quick` runs with a baseline, with fewer requests, fewer ways and smaller matrices."""
    plan = replace(bench.QUICK, rounds=1, requests=8, sweep=(1, 4), main=8, single=3)
    monkeypatch.setattr(bench, "QUICK", plan)
    monkeypatch.setattr(bench, "SINGLE_TURNS", 1)
    monkeypatch.setattr(bench, "HIGH_CONCURRENCY", 4)  # not measured in a quick run without this change
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    for name, less in {"MATRIX": 512, "BATCHES_ALL_CORES": (4,), "BATCHES_SIDE_BY_SIDE": (4,)}.items():
        monkeypatch.setattr(roofline, name, less)
    options = ["--quick", "--checkpoint", str(demo_checkpoint), "--repository", str(repository)]
    options += ["--baseline", str(repository)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "run", *options])
    assert benchmarks.__main__.main() == 0
    printed = capsys.readouterr().out
    for title in ("Throughput served over the best in one process, by wall clock", "Throughput over the baseline"):
        assert title in printed
    found = results.read(tmp_path / "latest.json")
    assert found.command == "make bench-quick"
    turns = {name: (len(system.throughput), system.failures) for name, system in found.systems.items()}
    assert turns == {"served": (1, 0), "baseline": (1, 0), "roofline": (1, 0)}
    assert all(0 < cpu_ms < math.inf for system in found.systems.values() for cpu_ms in system.cpu_ms)
    assert {name: len(system.cpu_ms) for name, system in found.systems.items()} == {
        name: count for name, (count, _) in turns.items()
    }
    summary = found.summary
    assert summary["vs_fastapi_pytorch"] is None  # no peers in this plan
    for name in (
        "served_over_roofline",
        "served_over_roofline_cpu",
        "vs_baseline",
        "achieved_over_peak_flops",
        "frontend_ms_3s",
        "latency_one_ms",
        "throughput_256_over_best",
    ):
        value = summary[name]
        assert value is not None and 0 < value < math.inf
    assert set(found.stages) == {PREPROCESS, QUEUE, *ONNX_MODELS}
    assert all(stage.mean_batch >= 1 for stage in found.stages.values())
    assert found.stages["queue"].compute_ms > 0 and found.stages["queue"].queue_ms > 0
    assert [point.users for point in found.sweep] == [1, 4]
    assert "emoserve, fp32" in (tmp_path / "latest.md").read_text()
    assert (tmp_path / "latest-peers.png").stat().st_size > 10_000


def test_run_without_an_exported_repository_prints_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "run", "--checkpoint", str(tmp_path), "--repository", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
