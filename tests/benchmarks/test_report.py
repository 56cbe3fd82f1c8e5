"""Test the results of a benchmark run: their summary, report and comparison."""

import math
import platform
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.load.sampling import PREPROCESS, QUEUE, ModelStatistics
from benchmarks.speed import machine, report, results
from benchmarks.speed.compare import compare
from benchmarks.speed.results import Goal, Results, Roofline, SweepPoint, System
from export.repository import ONNX_MODELS


def bare() -> Results:
    """Return a run that measured one system alone."""
    return Results(
        started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        minutes=21.5,
        command="make bench",
        revision="0123456789ab",
        machine=replace(machine.describe(), cores=2.0),
        versions=machine.versions(),
        settings={"users": 32, "rounds": 5},
        checkpoint={"digest": "d" * 64, "text_encoder": "random bert-base"},
        systems={"served": System("emoserve, fp32", [10.0, 12.0, 11.0, 10.5, 11.5])},
    )


def full() -> Results:
    """Return a run that measured everything; its figures can be checked by hand."""

    def system(title: str, factor: float) -> System:
        # the machine was slower in the second round, for all systems
        throughput = [factor * speed for speed in (10.0, 5.0, 10.2, 9.9, 10.1)]
        latency = [3000 / rate for rate in throughput]
        cpu = [1900 / rate for rate in throughput]  # ms, of two cores that are nearly fully used
        return System(title, throughput, latency, [1.5 * ms for ms in latency], [2 * ms for ms in latency], cpu)

    def sweep(factor: float) -> list[SweepPoint]:
        points = []
        for power in range(9):
            users = 2**power
            rate = factor * 10 * users / (users + 1.5)
            ms = users / rate * 1000
            points.append(SweepPoint(users, rate, ms, 1.4 * ms, 1.8 * ms))
        return points

    found = replace(
        bare(),
        systems={
            "served": system("emoserve, fp32", 1.0),
            "served_int8": system("emoserve, int8", 1.6),
            "baseline": system("baseline, fp32", 0.8),
            "baseline_int8": system("baseline, int8", 1.6),
            "roofline": replace(
                system("roofline, one process", 1.04),
                p50=[],
                p95=[],
                p99=[],
                cpu_ms=[1900 / (1.02 * rate) for rate in (10.0, 5.0, 10.2, 9.9, 10.1)],
            ),
            "fastapi_pytorch": system("FastAPI + PyTorch", 0.25),
            "fastapi_onnxruntime": system("FastAPI + ONNX Runtime", 0.6),
            "litserve_onnxruntime": system("LitServe + ONNX Runtime", 0.7),
            "padded_triton": system("Triton, padded ensemble", 0.5),
            "openvino": system("OpenVINO in one process", 0.75),
        },
        roofline=Roofline(
            {"numpy": [125.0, 50.0, 125.0, 100.0, 125.0], "torch": [100.0, 62.5, 110.0, 125.0, 90.0]},
            {"one session, batches of 8": 10.4, "two sessions, batches of 4": 9.8},
            10.0,
        ),
        stages={name: ModelStatistics(61, 10, 40.0, 20.0) for name in (PREPROCESS, QUEUE, *ONNX_MODELS)},
        sweep=sweep(1.0),
        sweep_int8=sweep(1.6),
        measured={
            "latency_one_in_process_ms": 100.0,
            "latency_one_ms": 110.0,
            "frontend_ms_3s": 1.4,
            "frontend_share_of_cpu": 0.05,
        },
        high_concurrency={"best": [10.0, 5.0, 10.2, 9.9, 10.1], "most": [9.8, 4.9, 9.9, 9.9, 9.9]},
    )
    return replace(found, summary=results.summarise(found))


@pytest.fixture(scope="module")
def run() -> Results:
    return full()


def test_summarise_takes_median_ratios_within_rounds(run: Results) -> None:
    summary = run.summary
    # every round has the same ratio, though the machine's speed differs
    assert summary["served_over_roofline"] == pytest.approx(1 / 1.04)
    assert summary["served_over_roofline_cpu"] == pytest.approx(1 / 1.02)
    assert summary["vs_fastapi_pytorch"] == pytest.approx(4)
    assert summary["p99_vs_fastapi_pytorch"] == pytest.approx(0.25)
    assert summary["int8_vs_fastapi_pytorch"] == pytest.approx(6.4)
    assert summary["vs_litserve_onnxruntime"] == pytest.approx(1 / 0.7)
    assert summary["vs_padded_ensemble"] == pytest.approx(2)
    assert summary["int8_over_fp32"] == pytest.approx(1.6)
    # 10 x 10 / 125, 5 x 10 / 62.5, 10.2 x 10 / 125, ...: the median of 0.8, 0.8, 0.816, 0.792, 0.808
    assert summary["achieved_over_peak_flops"] == pytest.approx(0.8)
    assert summary["latency_one_over_in_process"] == pytest.approx(1.1)
    assert summary["throughput_256_over_best"] == pytest.approx(0.98)
    assert summary["vs_openvino"] == pytest.approx(1 / 0.75)
    assert set(summary) == set(results.FIGURES)


def test_summarise_leaves_out_rounds_in_which_a_system_answered_nothing() -> None:
    one = replace(
        bare(),
        systems={
            "served": System("a", [10.0, 12.0, 12.0], p99=[3.0, 3.0, 3.0]),
            "fastapi_pytorch": System("b", [0.0, 4.0, 4.0], p99=[math.nan, 6.0, 6.0], failures=40),
        },
    )
    summary = results.summarise(one)
    assert summary["vs_fastapi_pytorch"] == 3
    assert summary["p99_vs_fastapi_pytorch"] == 0.5


def test_summarise_without_measurements_has_no_figures() -> None:
    none = replace(bare(), systems={})
    assert set(results.summarise(none).values()) == {None}


def test_summarise_gives_the_cost_of_a_core() -> None:
    summary = results.summarise(bare())
    assert summary["per_core"] == pytest.approx(5.5)  # 11 utterances/s with two cores
    assert summary["cost_per_million"] == pytest.approx(0.04 * 1e6 / (5.5 * 3600))


def test_summary_rows_show_whether_goals_are_reached(run: Results) -> None:
    assert Goal("≥", 3.5).holds(3.5) and not Goal("≥", 3.5).holds(3.49)
    assert Goal("≤", 2).holds(2.0) and not Goal("≤", 2).holds(2.01)
    rows = {title: others for title, *others in results.summary_rows(run)}
    assert rows["Throughput over FastAPI + PyTorch"] == ["4.000", "≥ 7", "MISSED"]
    assert rows["FLOP/s of direct convolution over the machine's peak"] == ["0.800", "≥ 1", "MISSED"]
    assert rows["The same served to one caller, ms"] == ["110.000", "≤ 119", "holds"]
    assert rows["Throughput over the baseline"] == ["1.250", "", ""]
    assert rows["Served over one process"] == ["1.100", "", ""]
    unmeasured = results.summary_rows(replace(bare(), summary=dict.fromkeys(results.FIGURES)))
    assert [verdict for *_, verdict in unmeasured] == ["not measured"] * len(results.FIGURES)
    assert max(map(len, output.table(("figure", "value", "goal", ""), unmeasured).splitlines())) <= 100


def test_read_returns_what_was_written(run: Results, tmp_path: Path) -> None:
    latest = results.write(run, tmp_path / "results")
    assert results.read(latest) == run
    assert {file.name for file in latest.parent.iterdir()} == {"latest.json", "2026-01-02T03-04-05.json"}
    silent = replace(run, systems={"served": System("a", [0.0], [math.nan], [math.nan], [math.nan], failures=10)})
    assert math.isnan(results.read(results.write(silent, tmp_path)).systems["served"].p99[0])


def test_read_of_another_file_raises_one_sentence(run: Results, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="can't be read"):
        results.read(tmp_path / "none.json")
    written = results.write(run, tmp_path).read_text()
    for text in ("{", "[]", written.replace('"format": 6', '"format": 5')):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(BenchmarkError, match="is no result of this version"):
            results.read(tmp_path / "other.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match="can't be written"):
        results.write(run, tmp_path / "file")


def test_report_has_every_table_and_picture(run: Results, tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    report.write(run, path)
    text = path.read_text()
    pictures = re.findall(r"!\[.+\]\((.+)\)", text)
    names = ("throughput-latency", "peers")
    assert pictures == [f"report-{name}.png" for name in names]
    assert all((tmp_path / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert "not measured" not in text
    assert "| emoserve, fp32 | 10 | 300 | 450 | 600 | 190 | 0 | – | 1.6 |" in text
    assert "| bert | 40 | 20 | 6.1 |" in text and "| text_encoder | random bert-base |" in text
    for title in (
        *(title for title, *_ in results.FIGURES.values()),
        *(system.title for system in run.systems.values()),
    ):
        assert title in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(row.count("|") == table[0].count("|") for table in tables for row in table)


def test_report_without_measurements_says_so(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    report.write(replace(bare(), systems={}, summary=dict.fromkeys(results.FIGURES)), path)
    assert path.read_text().count("not measured") == len(results.FIGURES)
    assert list(tmp_path.iterdir()) == [path]


def test_compare_distinguishes_noise_from_differences(run: Results) -> None:
    faster = replace(run.systems["served"], throughput=[15.0, 14.8, 15.1, 15.2, 14.9])
    similar = replace(
        run.systems["roofline"], throughput=[speed * 1.01 for speed in run.systems["roofline"].throughput]
    )
    few = replace(run.systems["padded_triton"], throughput=[50.0, 51.0])
    other = replace(run, systems=run.systems | {"served": faster, "roofline": similar, "padded_triton": few})
    text = compare(run, replace(other, summary=results.summarise(other)))
    lines = {line.strip().split("  ")[0]: line for line in text.splitlines()}
    assert re.search(r"10 +15 +1\.500 +differs$", lines["emoserve, fp32: utterances/s"])
    assert lines["roofline, one process: utterances/s"].endswith("within noise")
    assert lines["Triton, padded ensemble: utterances/s"].endswith("too few rounds")
    assert re.search(r" 4 +6 +1\.500 +differs$", lines["Throughput over FastAPI + PyTorch"])
    assert "fp32, callers 256: p99, ms" in lines
    assert "unlike" not in text


def test_compare_of_unlike_runs_names_what_differs(run: Results) -> None:
    other = replace(
        run,
        command="make bench-quick",
        machine=replace(run.machine, cores=64.0),
        versions=run.versions | {"onnxruntime": "0.0.1"},
        settings={"users": 8},
        checkpoint=run.checkpoint | {"digest": "f" * 64},
    )
    text = compare(run, other)
    assert "unlike" in text and "command: make bench → make bench-quick" in text
    for expected in (
        "machine: cores",
        "versions: onnxruntime",
        "settings: users 32 → 8",
        "checkpoint: digest",
    ):
        assert expected in text


def test_describe_names_no_host() -> None:
    found = machine.describe()
    assert 0 < found.cores <= 4096 and found.memory_gib > 0.5 and found.cpu
    assert platform.node() not in f"{found} {machine.versions()}"
    assert machine.versions()["numpy"].startswith("1.26")
