import math
import platform
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks import machine, plots, report, results
from benchmarks.compare import compare
from benchmarks.errors import BenchmarkError
from benchmarks.results import (
    Checkpoint,
    Crowd,
    FrontEnd,
    GrowthPoint,
    LatencyOne,
    Moment,
    OnnxFile,
    Overload,
    Results,
    Roofline,
    ServedModel,
    Server,
    Stage,
    Strategy,
    SweepPoint,
    System,
)

VOID = {"meta", "path", "use", "br"}


class Page(HTMLParser):
    """A page's ids, what it loads, and its text; fails where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object", "img")
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.loads.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data)
        if self.open and self.open[-1] != "style":
            self.text += data


def bare() -> Results:
    """A made-up run that measured one system alone."""
    return Results(
        started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        minutes=21.5,
        quick=False,
        command="make bench",
        revision="0123456789ab",
        machine=machine.describe(),
        versions=machine.versions(),
        settings={"users": 32, "alternations": 5, "utterances": 200},
        checkpoint=Checkpoint(
            "d" * 64, "random <bert-base>", 72_141_184, {"vggish/1/model.onnx": OnnxFile(5 << 20, "e" * 64)}
        ),
        workload={"count": 200.0, "seconds_mean": 4.6, "tokens_mean": 15.2},
        systems={"served": System("emoserve, fp32", [10.0, 12.0, 11.0, 10.5, 11.5])},
    )


def full() -> Results:
    """A made-up run that measured everything; its figures can be checked by hand."""

    def system(title: str, factor: float) -> System:
        # the machine was slower in the second alternation, for everyone
        throughput = [factor * speed for speed in (10.0, 5.0, 10.2, 9.9, 10.1)]
        latency = [3000 / rate for rate in throughput]
        cpu = [1900 / rate for rate in throughput]  # ms, of two cores that are nearly busy
        return System(title, throughput, latency, [1.5 * ms for ms in latency], [2 * ms for ms in latency], cpu_ms=cpu)

    def sweep(factor: float) -> list[SweepPoint]:
        points = []
        for power in range(9):
            users = 2**power
            rate = factor * 10 * users / (users + 1.5)
            ms = users / rate * 1000
            stages = {
                name: Stage(share * max(ms - 80, 1), share * 80, min(users, 16) ** 0.8)
                for name, share in zip(plots.STAGES, (0.02, 0.08, 0.6, 0.29, 0.01), strict=True)
            }
            points.append(SweepPoint(users, rate, ms, 1.4 * ms, 1.8 * ms, 0, stages))
        return points

    timeline = [
        Moment(at, 1.9 + 0.08 * math.sin(at), 1400 + 60 * (1 - math.exp(-at / 10)), 10 + math.sin(at / 3), 24 + at % 5)
        for at in range(60)
    ]
    lengths = (4, 8, 16, 32, 64, 128, 256, 512)
    curve = [(at / 10, 1000 - 400 * math.log10(1.001 - at / 1000)) for at in range(1000)]
    found = replace(
        bare(),
        systems={
            "served": system("emoserve, fp32", 1.0),
            "served_int8": system("emoserve, int8", 1.6),
            "roofline": replace(
                system("roofline, one process", 1.04),
                p50=[],
                p95=[],
                p99=[],
                cpu_ms=[1900 / (1.02 * rate) for rate in (10.0, 5.0, 10.2, 9.9, 10.1)],
            ),
            "graph": replace(system("its graph alone", 1.06), p50=[], p95=[], p99=[]),
            "fastapi_pytorch": system("FastAPI + PyTorch", 0.25),
            "fastapi_onnxruntime": system("FastAPI + ONNX Runtime", 0.6),
            "litserve_onnxruntime": system("LitServe + ONNX Runtime", 0.7),
            "padded_triton": system("Triton, padded ensemble", 0.5),
        },
        roofline=Roofline(
            [125.0, 62.5, 125.0, 125.0, 125.0],
            [Strategy("one session, batches of 8", 10.4), Strategy("two sessions, batches of 4", 9.8)],
            10.0,
            10.4,
        ),
        models={"vggish": ServedModel(7.5, 7.5, 6.1, 0.75), "bert": ServedModel(2.5, 2.9, 6.3, 0.25)},
        sweep=sweep(1.0),
        sweep_int8=sweep(1.6),
        latency_one=LatencyOne(100.0, 110.0),
        tokens=results.growth([GrowthPoint(x, 5 + 2 * x + (x > 128) * x**2 / 500) for x in lengths], 128),
        seconds=results.growth([GrowthPoint(x, 8 + 25 * x) for x in (1, 2, 4, 8, 15, 30, 60)], 60),
        frontend=FrontEnd(1.4, 0.05),
        latencies={"served": curve, "served_int8": [(at, 0.6 * ms) for at, ms in curve]},
        server=Server(
            {name: {1: 12, 2: 20, 4: 60, 8: 90, 16: 30} for name in plots.STAGES},
            {name: Stage(40.0, 20.0, 6.1) for name in plots.STAGES},
            timeline,
            {"tritonserver": 4.0, "preprocess": 5.0, "vggish": 80.0, "bert": 30.0},
        ),
        crowd=Crowd(32, [10.0, 5.0, 10.2, 9.9, 10.1], [9.8, 4.9, 9.9, 9.9, 9.9]),
        overload=Overload(30.0, 10.1, 420, 12.0, 52_000.0, 51_200.0),
    )
    return replace(found, summary=results.summarise(found))


@pytest.fixture(scope="module")
def run() -> Results:
    return full()


def test_summary_is_the_median_ratio_within_alternations(run: Results) -> None:
    summary = run.summary
    # every alternation's ratio is the same, though the machine's speed is not
    assert summary["served_over_roofline"] == pytest.approx(1 / 1.04)
    assert summary["served_over_roofline_cpu"] == pytest.approx(1 / 1.02)
    assert summary["served_over_graph"] == pytest.approx(1 / 1.06)
    assert summary["vs_fastapi_pytorch"] == pytest.approx(4)
    assert summary["p99_vs_fastapi_pytorch"] == pytest.approx(0.25)
    assert summary["int8_vs_fastapi_pytorch"] == pytest.approx(6.4)
    assert summary["vs_litserve_onnxruntime"] == pytest.approx(1 / 0.7)
    assert summary["vs_padded_ensemble"] == pytest.approx(2)
    assert summary["int8_over_fp32"] == pytest.approx(1.6)
    # 10 x 10 / 125, 5 x 10 / 62.5, 10.2 x 10 / 125, ...: the median of 0.8, 0.8, 0.816, 0.792, 0.808
    assert summary["achieved_over_peak_flops"] == pytest.approx(0.8)
    assert summary["flops_spent_over_needed"] == pytest.approx(1.04)
    assert summary["latency_one_over_in_process"] == pytest.approx(1.1)
    assert summary["throughput_256_over_best"] == pytest.approx(0.98)
    assert summary["overload_refusal_p99_ms"] == 12
    assert set(summary) == set(results.TITLES) >= set(results.GOALS)


def test_a_system_that_answered_nothing_in_one_alternation_is_judged_by_the_others() -> None:
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


def test_what_was_not_run_is_none() -> None:
    assert set(results.summarise(bare()).values()) == {None}


def test_goals_and_whether_they_hold(run: Results) -> None:
    assert results.goals(run)["latency_one_ms"].bound == pytest.approx(119)
    assert results.GOALS["vs_fastapi_pytorch"].holds(3.5) and not results.GOALS["vs_fastapi_pytorch"].holds(3.49)
    assert results.GOALS["frontend_ms_3s"].holds(2.0) and not results.GOALS["frontend_ms_3s"].holds(2.01)
    rows = {line.strip().split("  ")[0]: line for line in results.summary_text(run).splitlines()}
    assert re.search(r"4\.000 +≥ 3\.5 +holds$", rows["Throughput over FastAPI + PyTorch"])
    assert re.search(r"0\.800 +≥ 0\.85 +MISSED$", rows["FLOP/s needed by what is served over the machine's peak"])
    unmeasured = results.summary_text(replace(bare(), summary=results.summarise(bare())))
    assert unmeasured.count("not measured") == len(results.TITLES)
    assert max(map(len, unmeasured.splitlines())) <= 100


def test_growth_is_fitted_where_it_should_be_linear(run: Results) -> None:
    assert run.tokens is not None
    assert (run.tokens.fit.slope, run.tokens.fit.intercept) == pytest.approx((2, 5))
    assert run.tokens.fit.r2 == pytest.approx(1)
    bent = results.growth([GrowthPoint(1, 1), GrowthPoint(2, 2), GrowthPoint(3, 0)], 3)
    assert bent.fit.r2 == pytest.approx(0.25)  # slope -0.5: 0.5 of a variance of 2
    with pytest.raises(BenchmarkError, match="two lengths"):
        results.growth([GrowthPoint(4, 1), GrowthPoint(200, 9)], 128)


def test_results_survive_their_file(run: Results, tmp_path: Path) -> None:
    latest = results.write(run, tmp_path / "results")
    assert results.read(latest) == run
    assert {file.name for file in latest.parent.iterdir()} == {"latest.json", "2026-01-02T03-04-05.json"}
    silent = replace(run, systems={"served": System("a", [0.0], [math.nan], [math.nan], [math.nan], 10)})
    assert math.isnan(results.read(results.write(silent, tmp_path)).systems["served"].p99[0])


def test_a_file_that_is_no_result_is_refused_in_a_sentence(run: Results, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="can't be read"):
        results.read(tmp_path / "none.json")
    for text in ("{", "[]", results.to_json(run).replace('"format": 2', '"format": 1')):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(BenchmarkError, match="is no result of this version"):
            results.read(tmp_path / "other.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match="can't be written"):
        results.write(run, tmp_path / "file")


@pytest.fixture(scope="module")
def text(run: Results, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The full run's page."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write(run, path)
    return path.read_text()


def test_the_page_shows_every_panel_and_needs_nothing_else(run: Results, text: str) -> None:
    page = Page(text)
    assert text.count("<svg") == len(report.figures(run)) == 11
    assert len(page.ids) == len(set(page.ids))
    assert all(load.startswith("#") and load[1:] in page.ids for load in page.loads)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert "not measured" not in page.text
    assert "random <bert-base>" in page.text  # escaped
    assert "10 utterances a second served to 32 callers at a time in fp32" in page.text
    assert "96 % of the best that the same machine does in one process by wall clock, 98 % by CPU seconds" in page.text
    assert page.text.count(results.WHY_CPU_SECONDS) == 1
    assert "eeeeeeeeeeeeeeee, 5 MiB" in page.text
    for title in (*results.TITLES.values(), *(system.title for system in run.systems.values())):
        assert title in page.text
    for colour in plots.COLOURS.values():  # drawn figures follow the page's colours
        assert colour not in text.split("</style>")[1]


def test_the_page_says_what_was_not_measured(text: str, tmp_path: Path) -> None:
    report.write(replace(bare(), systems={}, summary=results.summarise(bare())), tmp_path / "little.html")
    shown, whole = Page((tmp_path / "little.html").read_text()), Page(text)
    assert set(whole.headings) - set(shown.headings) == {"Stages, int8"}
    panels = 9 + 4  # drawn ones without int8's stages, models, front-end, one caller, overload, less peers
    assert shown.text.count("not measured") == len(results.TITLES) + panels + 1
    assert "Nothing was served in this run." in shown.text


def test_a_picture_for_the_docs(run: Results, tmp_path: Path) -> None:
    drawn = report.figures(run)["throughput_latency"]
    plots.save(drawn, tmp_path / "a.svg")
    plots.save(drawn, tmp_path / "a.png")
    assert "utterances/s" in (tmp_path / "a.svg").read_text()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_compare_tells_noise_from_difference(run: Results) -> None:
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
    assert lines["Triton, padded ensemble: utterances/s"].endswith("too few alternations")
    assert re.search(r" 4 +6 +1\.500 +differs$", lines["Throughput over FastAPI + PyTorch"])
    assert "fp32, callers 256: p99, ms" in lines
    assert "unlike" not in text


def test_compare_warns_of_unlike_runs(run: Results) -> None:
    other = replace(
        run,
        quick=True,
        machine=replace(run.machine, cores=64.0),
        versions=run.versions | {"onnxruntime": "0.0.1"},
        settings={"users": 8},
        workload={"count": 20.0},
        checkpoint=replace(run.checkpoint, digest="f" * 64),
    )
    text = compare(run, other)
    assert "unlike" in text and "B is a quick run" in text
    for expected in (
        "machine: cores",
        "versions: onnxruntime",
        "settings: users 32 → 8",
        "workload: count",
        "checkpoint: digest",
    ):
        assert expected in text


def test_the_machine_names_no_host() -> None:
    found = machine.describe()
    assert 0 < found.cores <= 4096 and found.memory_gib > 0.5 and found.cpu
    assert platform.node() not in f"{found} {machine.versions()}"
    assert machine.versions()["numpy"].startswith("1.26")
