"""Dashboard panels of dcgm-exporter: values by pod for both label layouts, and empty panels without the exporter."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.test_monitoring import DASHBOARD, ROOT, assert_accepted, promtool

__all__ = ["promtool"]  # a fixture

PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if "DCGM_" in json.dumps(panel.get("targets", []))}
# Enabled in NVIDIA's etc/default-counters.csv (dcgm-exporter 4.5); in MiB, W, and percent or ratio
EXPORTED = {
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
}
SERVED = [
    f'nv_inference_request_success{{model="{model}",namespace="{namespace}",pod="{pod}"}} 7'
    for model in ("emotion", "vggish")
    for namespace, pod in (("emoserve", "triton-0"), ("emoserve", "triton-1"), ("other", "triton-0"))
]
EXPORTER = 'namespace="gpu-operator",pod="dcgm-exporter-x",container="exporter"'
LAYOUTS = {
    # honorLabels: false, the default of the chart and of the GPU operator
    "exported": EXPORTER + ',exported_namespace="{}",exported_pod="{}",exported_container="triton",gpu="{}"',
    "honoured": 'namespace="{}",pod="{}",container="triton",gpu="{}"',
}
VALUES = {
    "DCGM_FI_DEV_FB_FREE": 60000,
    "DCGM_FI_DEV_FB_USED": 20000,
    "DCGM_FI_DEV_GPU_UTIL": 80,
    "DCGM_FI_DEV_POWER_USAGE": 250,
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": 0.7,
}
SHOWN = {
    "GPU busy (DCGM)": 0.8,
    "GPU engine active (DCGM)": 0.7,
    "GPU memory (DCGM)": 0.25,
    "GPU power (DCGM)": 250,
}


def expression(panel: dict[str, Any]) -> str:
    (target,) = panel["targets"]
    return str(target["expr"]).replace("$namespace", "emoserve")


def assert_shown(promtool: str, directory: Path, series: list[str], samples: dict[str, list[dict[str, Any]]]) -> None:
    """Evaluate every panel over these series; compare namespace, pod and GPU with the samples of the panel's title."""
    rules = [{"record": f"panel_{number}", "expr": expression(panel)} for number, panel in enumerate(PANELS.values())]
    (directory / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    shown = [
        {"expr": f"sum by (namespace, pod, gpu) (panel_{number})", "eval_time": "1m", "exp_samples": samples[title]}
        for number, title in enumerate(PANELS)
    ]
    inputs = [
        {"series": one.rpartition(" ")[0], "values": f"{one.rpartition(' ')[2]}+0x2"} for one in [*SERVED, *series]
    ]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": shown}
    content = {"rule_files": [str(directory / "rules.yaml")], "evaluation_interval": "1m", "tests": [test]}
    (directory / "test.yaml").write_text(yaml.safe_dump(content))
    assert_accepted(promtool, "test", "rules", directory / "test.yaml")


def test_panels_use_only_default_metrics_of_the_exporter() -> None:
    assert set(PANELS) == set(SHOWN)
    assert set(re.findall(r"DCGM_\w+", " ".join(map(expression, PANELS.values())))) == EXPORTED == set(VALUES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_panels_show_the_gpus_of_the_namespaces_pods(promtool: str, tmp_path: Path, layout: str) -> None:
    places = [
        ("emoserve", "triton-0", 0),
        ("emoserve", "triton-1", 1),
        ("other", "triton-0", 2),
        ("emoserve", "job", 3),
    ]
    series = [
        f"{name}{{{LAYOUTS[layout].format(*place)}}} {value}" for name, value in VALUES.items() for place in places
    ]
    series += [f'{name}{{{EXPORTER},gpu="4"}} {value}' for name, value in VALUES.items()]  # a GPU without a pod
    samples = {
        title: [
            {"labels": f'{{namespace="emoserve",pod="triton-{number}",gpu="{number}"}}', "value": value}
            for number in (0, 1)
        ]
        for title, value in SHOWN.items()
    }
    assert_shown(promtool, tmp_path, series, samples)


def test_panels_without_the_exporter_are_empty_and_say_so(promtool: str, tmp_path: Path) -> None:
    assert_shown(promtool, tmp_path, [], {title: [] for title in PANELS})
    for panel in PANELS.values():
        assert panel["description"].endswith("Empty without dcgm-exporter.")
        assert panel["fieldConfig"]["defaults"]["unit"] in ("percentunit", "watt")


def test_panels_are_documented() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    assert all(f"`{name}`" in runbook for name in EXPORTED)
