"""Recording rules, alerts and dashboard: results match hand-calculated values, and every series exists."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from serving import Triton

ROOT = Path(__file__).parent.parent.parent
MONITORING = ROOT / "k8s" / "components" / "monitoring"
TESTS = (Path(__file__).parent / "rules.test.yaml").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
SPEC = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
RULES = [rule for group in SPEC["groups"] for rule in group["rules"]]
RECORDED = [rule["record"] for rule in RULES if "record" in rule]
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
OWN_QUEUES = ("preprocess", "queue")
STAGES = re.findall(r'model_name: "(\w+)"', (ROOT / "model_repository" / "emotion" / "config.pbtxt").read_text())
SPEECH_MODELS = {path.parent.name for path in (ROOT / "speech_repository").glob("*/config.pbtxt")}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ELSEWHERE = {  # series that Triton on this machine does not export
    "emoserve_gateway_analyses_total": "the gateway's",
    "emoserve_gateway_in_flight": "the gateway's",
    "nv_gpu_utilization": "a GPU's",
    "nv_gpu_memory_used_bytes": "a GPU's",
    "nv_gpu_memory_total_bytes": "a GPU's",
    "up": "Prometheus' own",
    "container_cpu_usage_seconds_total": "the kubelet's",
    "kube_pod_container_status_restarts_total": "kube-state-metrics'",
    "kube_horizontalpodautoscaler_status_current_replicas": "kube-state-metrics'",
    "kube_horizontalpodautoscaler_spec_max_replicas": "kube-state-metrics'",
}
SERIES = re.compile(r"\b(?:nv|kube|container|emoserve(?:_pod)?)[_:][\w:]+|\bup\b")


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        assert "CI" not in os.environ, "promtool is missing: install Debian's package prometheus"
        pytest.skip("promtool is missing; Debian's package prometheus has it")
    return found


def assert_accepted(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> Iterator[tuple[str, str]]:
    """Yield every query with its place."""
    for rule in RULES:
        yield rule.get("record") or rule["alert"], rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$namespace", "emoserve")
    for trigger in scaled_object()["triggers"]:
        yield "KEDA", trigger["metadata"]["query"]
    for rule in adapter():
        yield "prometheus-adapter", rule["seriesQuery"]
    for block in re.findall(r"```promql\n(.*?)```", RUNBOOK, re.DOTALL):
        for query in block.splitlines():
            yield "runbook", query


def scaled_object() -> dict[str, Any]:
    text = (ROOT / "k8s" / "components" / "autoscaling-keda" / "scaledobject.yaml").read_text()
    return dict(yaml.safe_load(text)["spec"])


def adapter() -> list[dict[str, Any]]:
    text = (ROOT / "k8s" / "components" / "autoscaling" / "prometheus-adapter.yaml").read_text()
    return list(yaml.safe_load(text)["rules"]["external"])


def test_rules_match_results_calculated_by_hand(promtool: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(SPEC))
    (tmp_path / "test.yaml").write_text(TESTS.replace("RULES", str(tmp_path / "rules.yaml")))
    assert_accepted(promtool, "test", "rules", tmp_path / "test.yaml")


@pytest.mark.parametrize("name", [*RECORDED, *ALERTS])
def test_every_rule_has_its_test(name: str) -> None:
    expected = re.findall(r"(?:expr: '|labels: ')([^']*)", TESTS)
    if name in ALERTS:
        assert any(f'alertname="{name}"' in one for one in expected)
    else:
        assert any(re.search(rf"{name}\b", one) for one in expected)


@pytest.mark.parametrize("name", RECORDED)
def test_every_signal_is_in_the_runbook(name: str) -> None:
    assert f"`{name}`" in RUNBOOK


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_in_the_runbook(name: str) -> None:
    assert f"\n### {name}\n" in RUNBOOK
    (rule,) = (rule for rule in RULES if rule.get("alert") == name)
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"].endswith(f"docs/runbook.md#{name.lower()}")


def printed_by(server: Triton) -> str:
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def counters(server: Triton) -> dict[tuple[str, ...], float]:
    """Return values by (series, model, and reason or outcome if there is one), summed over all processes."""
    found: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for name, text, value in re.findall(r"(?m)^((?:nv_inference|emoserve_stage)_\w+){(.*)} (\S+)$", printed_by(server)):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', text))
        kind = labels.get("reason") or labels.get("outcome")
        found[name, labels["model"], *([kind] if kind else [])] += float(value)
    return found


def grown(server: Triton, work: Callable[[], None]) -> Counter[tuple[str, ...]]:
    """Return by how much the counters grow during the work, after all requests have ended."""
    before = counters(server)
    work()
    time.sleep(1)  # Triton counts a request after its answer has left
    return Counter({key: value - before[key] for key, value in counters(server).items()})


def ask(server: Triton, audio: bytes, **options: Any) -> str:
    tensors = []
    for name, value in (("AUDIO", audio), ("TEXT", b"hello there")):
        tensor = grpc.InferInput(name, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value]], object))
        tensors.append(tensor)
    try:
        with grpc.InferenceServerClient(server.grpc_url) as client:
            client.infer("emotion", tensors, **options)
    except InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode.")
    return "OK"


def test_queue_time_is_request_duration_minus_compute_time(server: Triton, recordings: dict[str, bytes]) -> None:
    """The waiting time in all queues of Triton and of the stages is the requests' duration minus the computing time."""
    speech = recordings["austen-0880.flac"]

    def work() -> None:
        with ThreadPoolExecutor(48) as pool:
            assert set(pool.map(lambda _: ask(server, speech), range(48))) == {"OK"}

    for _ in range(
        3
    ):  # the rest is the time to pass 48 concurrent requests from stage to stage: longer on a busy machine
        growth = grown(server, work)
        seconds = {key: value / 1e6 for key, value in growth.items()}
        computing = sum(
            seconds[f"nv_inference_compute_{part}_duration_us", model]
            for part in ("input", "infer", "output")
            for model in STAGES
            if model not in OWN_QUEUES
        )
        computing += sum(growth["emoserve_stage_work_seconds_total", stage, "answered"] for stage in OWN_QUEUES)
        waited = sum(seconds["nv_inference_queue_duration_us", model] for model in STAGES if model not in OWN_QUEUES)
        waited += (held_back := growth["emoserve_stage_wait_seconds_total", "queue", "answered"])
        waited += growth["emoserve_stage_wait_seconds_total", "preprocess", "answered"]
        assert held_back > 0.01 * waited
        assert seconds["nv_inference_queue_duration_us", "emotion"] < 0.01 * waited
        answered = {stage: growth["emoserve_stage_requests_total", stage, "answered"] for stage in OWN_QUEUES}
        assert answered == dict.fromkeys(OWN_QUEUES, 48)
        expected = pytest.approx(seconds["nv_inference_request_duration_us", "emotion"], rel=0.05)
        if waited + computing == expected:
            break
    assert waited + computing == expected


def test_failures_are_counted_as_the_rules_assume(server: Triton, recordings: dict[str, bytes]) -> None:
    """The ensemble counts a failure twice, as OTHER; the stage that rejects counts it once, by outcome."""

    def failed(status: str, audio: bytes, **options: Any) -> dict[tuple[str, ...], float]:
        def work() -> None:
            assert [ask(server, audio, **options) for _ in range(3)] == 3 * [status]

        names = ("nv_inference_request_failure", "emoserve_stage_requests_total")  # by reason, and by outcome
        growth = grown(server, work).items()
        return {key[1:]: value for key, value in growth if key[0] in names and value and key[-1] != "answered"}

    speech = recordings["austen-0880.flac"]
    invalid = {("emotion", "OTHER"): 6, ("preprocess", "invalid"): 3}
    assert failed("INVALID_ARGUMENT", b"x") == invalid
    expired = {("emotion", "OTHER"): 6, ("preprocess", "expired"): 3}
    assert failed("UNAVAILABLE", speech, timeout=1) == expired  # µs that the request may wait in a queue


def test_1000_successful_requests_of_a_stock_client_count_no_failure(server: Triton) -> None:
    def work() -> None:
        with ThreadPoolExecutor(32) as pool:
            assert set(pool.map(lambda _: ask(server, b""), range(1000))) == {"OK"}

    growth = grown(server, work)
    assert {key: value for key, value in growth.items() if key[0] == "nv_inference_request_failure" and value} == {}
    assert {growth["nv_inference_request_success", model] for model in (*STAGES, "emotion")} == {1000}


def queue_sizes() -> dict[str, int]:
    """Return `max_queue_size` by model, for models with their own queue."""
    found = {}
    for path in sorted(ROOT.glob("*_repository/*/config.pbtxt")):
        if sizes := re.findall(r'max_queue_size" value: { string_value: "(\d+)"', path.read_text()):
            found[path.parent.name] = int(sizes[0])
    return found


def expression_of(name: str) -> str:
    (rule,) = (rule for rule in RULES if name in (rule.get("record"), rule.get("alert")))
    return str(rule["expr"])


def test_rules_select_all_stages() -> None:
    config = (ROOT / "model_repository" / "queue" / "config.pbtxt").read_text()
    (behind,) = re.findall(r'key: "models" value: { string_value: "([\w,]+)" }', config)
    models = behind.split(",")
    in_front = [stage for stage in STAGES if stage not in models]
    assert tuple(in_front) == OWN_QUEUES
    waiting = expression_of("emoserve_pod:stage_queue_seconds:rate1m")
    for series in ("queue_duration_us", "request_success"):
        assert matched(waiting, f"nv_inference_{series}") == set(models)
    for series in ("wait_seconds_total", "requests_total"):
        assert matched(waiting, f"emoserve_stage_{series}") == set(OWN_QUEUES)
    for series in ("exec_count", "compute_infer_duration_us", "request_success"):
        assert matched(expression_of("emoserve_pod:model_utilisation:rate1m"), f"nv_inference_{series}") == set(models)
    assert matched(expression_of("emoserve:batch_size:rate1m"), "nv_inference_count") == set(models)
    assert matched(expression_of("EmoserveStageStuck"), "nv_inference_pending_request_count") == set(models)


def test_queue_full_alert_covers_all_limited_queues() -> None:
    sizes = queue_sizes()
    thresholds = re.findall(r'{model=~?"([^"]*)"}\) > 0\.9 \* (\d+)', expression_of("EmoserveQueueFull"))
    assert {model: int(size) for models, size in thresholds for model in models.split("|")} == sizes


def matched(expression: str, series: str) -> set[str]:
    """Return the models for which an expression selects a series."""
    return {model for models in re.findall(rf'{series}{{model=~?"([^"]*)"', expression) for model in models.split("|")}


@pytest.fixture(scope="module")
def printed(server: Triton, recordings: dict[str, bytes]) -> str:
    """Return all metrics of a Triton that has answered a request."""
    assert ask(server, recordings["austen-0880.flac"]) == "OK"
    deadline = time.monotonic() + 10
    while "emoserve_model_instances" not in printed_by(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    return printed_by(server)


def test_every_series_exists(printed: str) -> None:
    """Triton exports the series, a rule records it, or it is known to come from elsewhere."""
    known = {*re.findall(r"(?m)^(\w+)", printed), *RECORDED, *ELSEWHERE}
    for place, expression in expressions():
        bare = re.sub(r'"[^"]*"', '""', expression)
        names = set(SERIES.findall(bare))
        assert names, place
        assert names <= known, f"{place}: {names - known}"


def test_every_label_exists(printed: str) -> None:
    """Triton's series have the label values that select them; models of speech recognition are not served here."""
    values: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for series, labels in re.findall(r"(?m)^(\w+){(.*)} ", printed):
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            values[series, label].add(value)
    seen = set()
    for place, expression in expressions():
        for series, selector in re.findall(
            r"\b(nv_inference_\w+|emoserve_(?:model_instances|stage_\w+)){([^}]*)}", expression
        ):
            for label, value in re.findall(r'(model|reason|outcome|quantile)(?:=~|!~|!=|=)"([^"]*)"', selector):
                seen.add(label)
                wanted = {one for one in value.split("|") if one != "emotion.*"} - SPEECH_MODELS
                assert wanted <= values[series, label], f"{place}: {series} has no {label} {wanted}"
    assert seen == {"model", "outcome", "quantile"}


def test_every_query_is_valid(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"query_{number}", "expr": expression} for number, (_, expression) in enumerate(expressions())]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert_accepted(promtool, "check", "rules", "--lint=none", tmp_path / "queries.yaml")


def test_no_query_counts_a_request_once_for_every_stage() -> None:
    for place, expression in expressions():
        for selector in re.findall(r"nv_inference_\w+({[^}]*})?", expression):
            grouped = re.search(r"by \([^)]*\bmodel\b", expression)
            assert grouped or re.search(r'model="|model=~"emotion\|emotion_speech"', selector), place


def test_panels_do_not_overlap_and_have_description_unit_and_source() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all("$namespace" in target["expr"] for target in panel["targets"])


def test_both_autoscalers_agree() -> None:
    text = (ROOT / "k8s" / "components" / "autoscaling" / "horizontalpodautoscaler.yaml").read_text()
    hpa, keda = yaml.safe_load(text)["spec"], scaled_object()
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])
    assert hpa["behavior"] == keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    series = {rule["name"]["as"]: rule["seriesQuery"] for rule in adapter()}
    targets = {
        series[metric["external"]["metric"]["name"]]: int(metric["external"]["target"]["value"].rstrip("m")) / 1000
        for metric in hpa["metrics"]
    }
    assert all(metric["external"]["target"]["type"] == "Value" for metric in hpa["metrics"])
    assert all(trigger["metricType"] == "Value" for trigger in keda["triggers"])
    assert targets == {
        SERIES.search(trigger["metadata"]["query"])[0]: float(trigger["metadata"]["threshold"])  # type: ignore[index]
        for trigger in keda["triggers"]
    }
