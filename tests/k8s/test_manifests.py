"""What kustomize makes of every overlay: schemas, and what they can't say, such as that selectors match something."""

import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serving.log import LEVELS
from serving.triton import EXIT_TIMEOUT

ROOT = Path(__file__).parent.parent.parent
KUBECTL = Path(sys.executable).parent / "kubectl"
OVERLAYS = sorted(path.parent for path in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"))
VERSION = "1.34"
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}  # of python -m serving
QUANTITY = re.compile(r"\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?")
Object = dict[str, Any]

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)


@cache
def rendered(overlay: Path) -> list[Object]:
    done = subprocess.run([KUBECTL, "kustomize", overlay], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def of_kind(overlay: Path, kind: str) -> list[Object]:
    return [one for one in rendered(overlay) if one["kind"] == kind]


def pods(overlay: Path) -> Iterator[Object]:
    """Pod templates."""
    for one in of_kind(overlay, "Deployment"):
        yield one["spec"]["template"]


def containers(overlay: Path) -> Iterator[Object]:
    for pod in pods(overlay):
        yield from pod["spec"].get("initContainers", [])
        yield from pod["spec"]["containers"]


def triton(overlay: Path) -> Object:
    (found,) = (one for one in containers(overlay) if one["name"] == "triton")
    return found


def matches(selector: Object, labels: dict[str, str]) -> bool:
    return set(selector.get("matchLabels", {}).items()) <= set(labels.items())


@every_overlay
def test_schemas_are_kept(overlay: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in rendered(overlay):
            kubernetes_validate.validate(one, VERSION, strict=True)


@every_overlay
def test_names_are_unique_and_everything_lies_in_one_namespace(overlay: Path) -> None:
    objects = rendered(overlay)
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    (namespace,) = of_kind(overlay, "Namespace")
    for one in objects:
        if one is not namespace:
            assert one["metadata"]["namespace"] == namespace["metadata"]["name"], one["metadata"]["name"]


@every_overlay
def test_every_selector_matches_a_pod(overlay: Path) -> None:
    labels = [pod["metadata"]["labels"] for pod in pods(overlay)]
    for one in of_kind(overlay, "Deployment"):
        assert matches(one["spec"]["selector"], one["spec"]["template"]["metadata"]["labels"])
        for spread in one["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert matches(spread["labelSelector"], one["spec"]["template"]["metadata"]["labels"])
    for one in of_kind(overlay, "Service"):
        assert any(matches({"matchLabels": one["spec"]["selector"]}, pod) for pod in labels), one["metadata"]["name"]
    for one in of_kind(overlay, "PodDisruptionBudget"):
        assert any(matches(one["spec"]["selector"], pod) for pod in labels), one["metadata"]["name"]
    for one in of_kind(overlay, "NetworkPolicy"):
        assert any(matches(one["spec"]["podSelector"], pod) for pod in labels), one["metadata"]["name"]


@every_overlay
def test_ports_agree(overlay: Path) -> None:
    """Of container, probes, Services, NetworkPolicies, and of `python -m serving`."""
    container = triton(overlay)
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == PORTS
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"
    for service in of_kind(overlay, "Service"):
        for port in service["spec"]["ports"]:
            assert PORTS[port["targetPort"]] == port["port"]
    allowed = {
        port["port"]
        for policy in of_kind(overlay, "NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        for port in rule["ports"]
    }
    assert allowed == set(PORTS)


@every_overlay
def test_everything_is_denied_that_is_not_allowed(overlay: Path) -> None:
    (deny,) = (one for one in of_kind(overlay, "NetworkPolicy") if one["metadata"]["name"] == "default-deny")
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not deny["spec"].get("ingress") and not deny["spec"].get("egress")
    assert all(matches(deny["spec"]["podSelector"], pod["metadata"]["labels"]) for pod in pods(overlay))


@every_overlay
def test_images_are_pinned(overlay: Path) -> None:
    for container in containers(overlay):
        image = container["image"]
        assert "@sha256:" in image or re.search(r":[\w.-]+$", image), image
        assert not image.endswith(":latest")


@every_overlay
def test_containers_may_do_nothing_that_they_need_not(overlay: Path) -> None:
    for pod in pods(overlay):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(overlay):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


@every_overlay
def test_resources_are_asked_for_and_bounded(overlay: Path) -> None:
    for container in containers(overlay):
        resources = container["resources"]
        for amount in [*resources["requests"].values(), *resources["limits"].values()]:
            assert QUANTITY.fullmatch(str(amount)), amount
        assert "memory" in resources["limits"]
        assert set(resources["requests"]) >= {"cpu", "memory"}
    resources = triton(overlay)["resources"]
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"]  # threads are counted by the limit


@every_overlay
def test_every_mount_has_its_volume(overlay: Path) -> None:
    for pod in pods(overlay):
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        mounted = set()
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            mounted |= {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted == volumes
    paths = {mount["mountPath"] for mount in triton(overlay)["volumeMounts"]}
    assert paths >= {"/models", "/dev/shm", "/tmp"}


@every_overlay
def test_there_is_time_to_drain(overlay: Path) -> None:
    """Waiting until nobody sends any more, and then for Triton to end."""
    (pod,) = (pod for pod in pods(overlay) if pod["spec"]["containers"][0]["name"] == "triton")
    (_, pause) = triton(overlay)["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= int(pause) + EXIT_TIMEOUT + 10


@every_overlay
def test_a_busy_server_is_not_killed(overlay: Path) -> None:
    probe = triton(overlay)["livenessProbe"]
    assert probe["httpGet"]["path"] == "/v2/health/live"
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 60
    startup = triton(overlay)["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300


@every_overlay
def test_configuration_that_is_chosen_exists(overlay: Path) -> None:
    (settings,) = of_kind(overlay, "ConfigMap")
    name = settings["data"]["EMOSERVE_CONFIG"]
    assert settings["data"]["EMOSERVE_LOG_LEVEL"] in LEVELS
    named = list((ROOT / "model_repository").glob(f"*/configs/{name}.pbtxt"))
    assert bool(named) != (name == "default")
    (reference,) = triton(overlay)["envFrom"]
    assert reference["configMapRef"]["name"] == settings["metadata"]["name"]
