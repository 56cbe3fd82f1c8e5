"""A stable and a canary Deployment of Triton: each owns its pods, and callers reach both."""

import os
import re
from copy import deepcopy
from pathlib import Path

import pytest

from tests.k8s.test_manifests import OVERLAYS, ROOT, Object, deployment, every_overlay, matches, of_kind, rendered

BOTH = Path(__file__).parent / "overlays" / "canary"


def labels(overlay: Path, name: str) -> dict[str, str]:
    return dict(deployment(overlay, name)["spec"]["template"]["metadata"]["labels"])


@every_overlay
def test_deployment_selector_names_its_track(overlay: Path) -> None:
    for one in of_kind(overlay, "Deployment"):
        track = "canary" if one["metadata"]["name"].endswith("-canary") else "stable"
        assert one["spec"]["selector"]["matchLabels"]["emoserve/track"] == track


@every_overlay
def test_disruption_budgets_select_only_stable_pods(overlay: Path) -> None:
    for one in of_kind(overlay, "PodDisruptionBudget"):
        assert one["spec"]["selector"]["matchLabels"]["emoserve/track"] == "stable"


@every_overlay
def test_autoscalers_scale_the_stable_deployment(overlay: Path) -> None:
    """An HPA counts the pods that its Deployment's selector matches."""
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for one in of_kind(overlay, kind):
            target = deployment(overlay, one["spec"]["scaleTargetRef"]["name"])
            assert target["spec"]["selector"]["matchLabels"]["emoserve/track"] == "stable"


def test_no_deployment_matches_pods_of_another() -> None:
    deployments = of_kind(BOTH, "Deployment")
    assert {one["metadata"]["name"] for one in deployments} == {"triton", "triton-canary"}
    for one in deployments:
        matched = [
            other["metadata"]["name"]
            for other in deployments
            if matches(one["spec"]["selector"], other["spec"]["template"]["metadata"]["labels"])
        ]
        assert matched == [one["metadata"]["name"]]


@every_overlay
def test_services_policies_and_monitors_select_both_tracks(overlay: Path) -> None:
    """The canary gets its share of the calls under the same rules; this is intended."""
    selectors = [{"matchLabels": one["spec"]["selector"]} for one in of_kind(overlay, "Service")]
    selectors += [one["spec"]["podSelector"] for one in of_kind(overlay, "NetworkPolicy")]
    selectors += [one["spec"]["selector"] for one in of_kind(overlay, "PodMonitor")]
    stable, canary = labels(overlay, "triton"), labels(BOTH, "triton-canary")
    for selector in selectors:
        assert matches(selector, stable) == matches(selector, canary), selector


def test_canary_is_one_pod_like_the_stable_ones() -> None:
    stable, canary = (deepcopy(deployment(BOTH, name)["spec"]) for name in ("triton", "triton-canary"))
    assert canary["replicas"] == 1
    pods = [spec["template"]["spec"] for spec in (stable, canary)]
    images = [pod["initContainers"][0].pop("image") for pod in pods]
    assert images[0] != images[1]
    for pod in pods:
        del pod["containers"][0]["envFrom"]  # the canary has its own ConfigMap
    assert pods[0] == pods[1]


@pytest.mark.parametrize("overlay", [one for one in OVERLAYS if one != BOTH], ids=lambda path: path.name)
def test_canary_of_any_overlay_is_a_deployment_and_its_configmaps(overlay: Path, tmp_path: Path) -> None:
    """Any other object would be applied, and later deleted, together with the canary."""
    here = tmp_path.resolve()
    paths = [os.path.relpath(path, here) for path in (overlay, ROOT / "k8s" / "components" / "canary")]
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: emoserve\n"
        f"resources: [{paths[0]}]\ncomponents: [{paths[1]}]\n"
    )
    objects = rendered(tmp_path)
    assert {one["kind"] for one in objects} == {"ConfigMap", "Deployment"}
    assert all(one["metadata"]["name"].startswith(("triton-canary", "http-proxy-canary")) for one in objects)
    canary = deployment(tmp_path, "triton-canary")
    assert canary["spec"]["replicas"] == 1
    assert configmaps(canary) == {one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"}


def test_documented_canary_has_another_model_version(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "components.md").read_text()
    (block,) = (one for one in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if "canary]" in one)
    k8s = os.path.relpath(ROOT / "k8s", tmp_path.resolve())
    block = block.replace("../../components", f"{k8s}/components").replace("../mine", f"{k8s}/overlays/cpu")
    (tmp_path / "kustomization.yaml").write_text(block)
    pod = deployment(tmp_path, "triton-canary")["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["image"].endswith("/emoserve-models:0.2.0")


def configmaps(one: Object) -> set[str]:
    """Return the names of the ConfigMaps that a Deployment's pods need."""
    pod = one["spec"]["template"]["spec"]
    environment = {entry["configMapRef"]["name"] for entry in pod["containers"][0]["envFrom"]}
    return environment | {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
