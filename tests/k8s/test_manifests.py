"""Check what kustomize renders for every overlay: schemas, and agreement of objects, such as selectors and labels.

The overlays beside this file apply the same checks to every component.
"""

import ipaddress
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
from serving.triton import EXIT_TIMEOUT_S, MAX_CONNECTION_AGE_S

ROOT = Path(__file__).parent.parent.parent
KUBECTL = Path(sys.executable).parent / "kubectl"
FOLDERS = (ROOT / "k8s" / "overlays", ROOT / "tests" / "k8s" / "overlays")
OVERLAYS = sorted(path.parent for folder in FOLDERS for path in folder.glob("*/kustomization.yaml"))
VERSION = "1.34"
CUSTOM = {  # kinds whose schema is not available here
    "azmonitoring.coreos.com/v1": {"PodMonitor"},
    "cert-manager.io/v1": {"Certificate", "Issuer"},
    "gateway.networking.k8s.io/v1": {"GRPCRoute", "HTTPRoute"},
    "keda.sh/v1alpha1": {"ScaledObject", "TriggerAuthentication"},
    "monitoring.coreos.com/v1": {"PodMonitor", "PrometheusRule", "ServiceMonitor"},
}
PORTS = {"grpc": 8001, "metrics": 8002}  # of python -m serving; HTTP listens on loopback only
PROBES = {"startupProbe", "readinessProbe", "livenessProbe"}
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
    """Yield the pod templates of Deployments."""
    for one in of_kind(overlay, "Deployment"):
        yield one["spec"]["template"]


def jobs(overlay: Path) -> Iterator[Object]:
    """Yield the pod templates of CronJobs."""
    for one in of_kind(overlay, "CronJob"):
        yield one["spec"]["jobTemplate"]["spec"]["template"]


def containers(overlay: Path) -> Iterator[Object]:
    for pod in [*pods(overlay), *jobs(overlay)]:
        yield from pod["spec"].get("initContainers", [])
        yield from pod["spec"]["containers"]


def deployment(overlay: Path, name: str) -> Object:
    (found,) = (one for one in of_kind(overlay, "Deployment") if one["metadata"]["name"] == name)
    return found


def triton(overlay: Path) -> Object:
    """Return Triton's container of the stable Deployment."""
    spec = deployment(overlay, "triton")["spec"]["template"]["spec"]
    (found,) = (one for one in spec["containers"] if one["name"] == "triton")
    return dict(found)


def ports(pod: Object) -> dict[str, int]:
    """Return the port numbers by name."""
    return {port["name"]: port["containerPort"] for one in pod["spec"]["containers"] for port in one.get("ports", [])}


def matches(selector: Object, labels: dict[str, str]) -> bool:
    return set(selector.get("matchLabels", {}).items()) <= set(labels.items())


def selected(overlay: Path, selector: Object) -> list[Object]:
    """Return the pod templates that a selector matches, at least one."""
    found = [pod for pod in [*pods(overlay), *jobs(overlay)] if matches(selector, pod["metadata"]["labels"])]
    assert found, f"no pod has {selector}"
    return found


def components(overlay: Path) -> set[Path]:
    """Return the directories of an overlay's components, including those that its components and bases use."""
    kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    direct = {(overlay / one).resolve() for one in kustomization.get("components", [])}
    below = {overlay / one for one in kustomization.get("resources", []) if (overlay / one).is_dir()}
    return direct.union(*map(components, direct | below))


def test_every_component_is_in_an_overlay() -> None:
    there = {path.parent for path in (ROOT / "k8s" / "components").rglob("kustomization.yaml")}
    assert there == set().union(*map(components, OVERLAYS))


@every_overlay
def test_objects_match_their_schemas(overlay: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in rendered(overlay):
            if one["kind"] not in CUSTOM.get(one["apiVersion"], ()):
                kubernetes_validate.validate(one, VERSION, strict=True)


@every_overlay
def test_names_are_unique_and_everything_lies_in_one_namespace(overlay: Path) -> None:
    objects = rendered(overlay)
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    (namespace,) = of_kind(overlay, "Namespace")
    for one in objects:
        if one["kind"] not in ("Namespace", "PriorityClass"):  # cluster-scoped
            assert one["metadata"]["namespace"] == namespace["metadata"]["name"], one["metadata"]["name"]


@every_overlay
def test_every_selector_matches_a_pod(overlay: Path) -> None:
    for one in of_kind(overlay, "Deployment"):
        assert matches(one["spec"]["selector"], one["spec"]["template"]["metadata"]["labels"])
        for spread in one["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert matches(spread["labelSelector"], one["spec"]["template"]["metadata"]["labels"])
    for one in of_kind(overlay, "Service"):
        assert selected(overlay, {"matchLabels": one["spec"]["selector"]})
    for one in of_kind(overlay, "PodDisruptionBudget"):
        assert selected(overlay, one["spec"]["selector"])
    for one in of_kind(overlay, "NetworkPolicy"):
        assert selected(overlay, one["spec"]["podSelector"])
    for kind in ("PodMonitor", "ServiceMonitor"):
        services = [one["metadata"].get("labels", {}) for one in of_kind(overlay, "Service")]
        labels = services if kind == "ServiceMonitor" else [pod["metadata"]["labels"] for pod in pods(overlay)]
        for one in of_kind(overlay, kind):
            assert any(matches(one["spec"]["selector"], each) for each in labels), one["metadata"]["name"]


@every_overlay
def test_ports_agree(overlay: Path) -> None:
    """Containers, probes, Services, NetworkPolicies and `python -m serving` use the same ports."""
    container = triton(overlay)
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == PORTS
    for pod in pods(overlay):
        for one in pod["spec"]["containers"]:
            for name in PROBES & set(one):
                probe = one[name]
                if "httpGet" in probe:
                    assert probe["httpGet"]["port"] in ports(pod)
                elif "tcpSocket" in probe:
                    assert probe["tcpSocket"]["port"] in ports(pod)
                elif "grpc" in probe:
                    assert probe["grpc"] == {"port": PORTS["grpc"]}
                else:
                    assert "127.0.0.1:8000" in probe["exec"]["command"][-1]
    for service in of_kind(overlay, "Service"):
        for port in service["spec"]["ports"]:
            for pod in selected(overlay, {"matchLabels": service["spec"]["selector"]}):
                assert ports(pod)[port["targetPort"]] == port["port"]
    for policy in of_kind(overlay, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            for pod in selected(overlay, policy["spec"]["podSelector"]):
                assert {port["port"] for port in rule["ports"]} <= set(ports(pod)), policy["metadata"]["name"]
        for rule in policy["spec"].get("egress", []):
            for peer in rule.get("to", []):
                if set(peer) == {"podSelector"}:  # our own pods
                    for pod in selected(overlay, peer["podSelector"]):
                        assert {port["port"] for port in rule["ports"]} <= set(ports(pod).values())


@every_overlay
def test_network_policies_allow_every_port(overlay: Path) -> None:
    for pod in pods(overlay):
        allowed = {
            port["port"]
            for policy in of_kind(overlay, "NetworkPolicy")
            if matches(policy["spec"]["podSelector"], pod["metadata"]["labels"])
            for rule in policy["spec"].get("ingress", [])
            for port in rule["ports"]
        }
        assert allowed == set(ports(pod))


@every_overlay
def test_triton_http_is_reachable_only_through_the_proxy(overlay: Path) -> None:
    """One HTTP request without a key can crash Triton 24.10 (CVE-2025-23310)."""
    assert "--expose-http" not in triton(overlay).get("args", [])
    for pod in pods(overlay):
        assert 8000 not in ports(pod).values()


@every_overlay
def test_probes_of_a_server_with_tls_do_not_use_grpc(overlay: Path) -> None:
    """The kubelet's gRPC probes do not support TLS."""
    container = triton(overlay)
    encrypted = "--grpc-use-ssl=1" in container.get("args", [])
    assert {
        set(container[probe]) & {"grpc", "exec", "httpGet"} == {"exec" if encrypted else "grpc"} for probe in PROBES
    } == {True}


@every_overlay
def test_routes_lead_to_services(overlay: Path) -> None:
    services = {
        one["metadata"]["name"]: {port["name"]: port["port"] for port in one["spec"]["ports"]}
        for one in of_kind(overlay, "Service")
    }
    for ingress in of_kind(overlay, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            assert any(rule["host"] in tls["hosts"] for tls in ingress["spec"]["tls"])
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                assert backend["port"]["name"] in services[backend["name"]]
    for route in of_kind(overlay, "GRPCRoute") + of_kind(overlay, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            assert all(one["port"] in services[one["name"]].values() for one in rule["backendRefs"])


@every_overlay
def test_grpc_route_has_no_administrative_method(overlay: Path) -> None:
    for route in of_kind(overlay, "GRPCRoute"):
        methods = [one["method"] for rule in route["spec"]["rules"] for one in rule["matches"]]
        assert {(one["service"].rpartition(".")[2], one["method"]) for one in methods} == {
            *(
                ("GRPCInferenceService", f"Model{name}")
                for name in ("Infer", "Metadata", "Ready", "Config", "Statistics")
            ),
            *(("GRPCInferenceService", f"Server{name}") for name in ("Live", "Ready", "Metadata")),
            ("Health", "Check"),
        }


@every_overlay
def test_page_has_at_most_one_route(overlay: Path) -> None:
    """The route is an Ingress, or an HTTPRoute with the same paths."""
    ways = [*of_kind(overlay, "Ingress"), *of_kind(overlay, "HTTPRoute")]
    assert len(ways) <= 1
    for route in of_kind(overlay, "HTTPRoute"):
        (rule,) = route["spec"]["rules"]
        paths = {one["path"]["value"] for one in rule["matches"]}
        assert paths == {"/", "/api-docs.html", "/icon.svg", "/LICENSE.txt", "/assets", "/api"}


@every_overlay
def test_disk_limit_covers_the_volumes_that_count_against_it(overlay: Path) -> None:
    """The kubelet evicts a pod whose volumes and containers use more disk than the sum of its containers' limits."""
    for pod in pods(overlay):
        volumes = [volume["emptyDir"] for volume in pod["spec"].get("volumes", []) if "emptyDir" in volume]
        needed = sum(size(volume["sizeLimit"]) for volume in volumes if volume.get("medium") != "Memory")
        limits = [one["resources"].get("limits", {}).get("ephemeral-storage") for one in pod["spec"]["containers"]]
        if needed:
            assert sum(map(size, filter(None, limits))) >= needed + size("512Mi")


def size(quantity: str) -> int:
    """Return bytes."""
    return int(quantity[:-2]) * {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}[quantity[-2:]]


@every_overlay
def test_a_gpu_pod_fits_a_node_of_four_cores(overlay: Path) -> None:
    resources = triton(overlay)["resources"]
    if "nvidia.com/gpu" in str(resources["limits"]):
        assert float(resources["requests"]["cpu"]) <= (6 if overlay.name == "aks" else 3)  # nodes of AKS have 8 cores


@every_overlay
def test_priority_classes_never_preempt(overlay: Path) -> None:
    assert {one["preemptionPolicy"] for one in of_kind(overlay, "PriorityClass")} == {"Never"}


@every_overlay
def test_monitors_have_the_label_that_kube_prometheus_stack_selects(overlay: Path) -> None:
    for kind in ("PodMonitor", "PrometheusRule"):
        for one in of_kind(overlay, kind):
            assert one["metadata"]["labels"]["release"] == "kube-prometheus-stack"


@every_overlay
@pytest.mark.parametrize(
    ("where", "peer", "port"),
    [
        ("kube-dns", ("kube-system", {"k8s-app": "kube-dns"}), 53),
        ("NodeLocal DNSCache", "169.254.20.10", 53),
        ("AKS LocalDNS", "169.254.10.10", 53),
        ("Cloud DNS of GKE", "169.254.169.254", 53),
        ("NodeLocal DNSCache, IPv6", "fd00:1:2:3::a", 53),
        ("a resolver of the node, IPv6", "fe80::a", 53),
        ("OpenShift", ("openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"}), 5353),
    ],
)
def test_gateway_egress_allows_dns(
    overlay: Path, where: str, peer: tuple[str, dict[str, str]] | str, port: int
) -> None:
    for policy in of_kind(overlay, "NetworkPolicy"):
        if policy["metadata"]["name"] != "web-egress":
            continue
        allowed = [
            entry["protocol"]
            for rule in policy["spec"]["egress"]
            if any(admits(one, peer) for one in rule["to"])
            for entry in rule["ports"]
            if entry["port"] == port
        ]
        assert sorted(allowed) == ["TCP", "UDP"], where


def admits(rule: Object, peer: tuple[str, dict[str, str]] | str) -> bool:
    """Return whether an entry of a NetworkPolicy's `to` admits an address, or a pod with a namespace and labels."""
    if isinstance(peer, str):
        return "ipBlock" in rule and ipaddress.ip_address(peer) in ipaddress.ip_network(rule["ipBlock"]["cidr"])
    namespace, labels = peer
    return (
        "namespaceSelector" in rule
        and matches(rule["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
        and matches(rule.get("podSelector", {}), labels)
    )


@every_overlay
def test_autoscaler_targets_exist_and_set_no_replicas(overlay: Path) -> None:
    deployments = {one["metadata"]["name"]: one["spec"] for one in of_kind(overlay, "Deployment")}
    targets = [
        one["spec"]["scaleTargetRef"]
        for kind in ("HorizontalPodAutoscaler", "ScaledObject")
        for one in of_kind(overlay, kind)
    ]
    for target in targets:
        assert target.get("kind", "Deployment") == "Deployment"
        assert "replicas" not in deployments[target["name"]]
    assert len({target["name"] for target in targets}) == len(targets)  # one autoscaler each


@every_overlay
def test_secrets_of_certificates_are_mounted(overlay: Path) -> None:
    made = {one["spec"]["secretName"]: one["spec"] for one in of_kind(overlay, "Certificate")}
    mounted = {
        volume["secret"]["secretName"]
        for pod in pods(overlay)
        for volume in pod["spec"].get("volumes", [])
        if "secret" in volume
    }
    assert mounted >= {name for name, certificate in made.items() if not certificate.get("isCA")}
    issuers = {one["metadata"]["name"] for one in of_kind(overlay, "Issuer")}
    assert {certificate["issuerRef"]["name"] for certificate in made.values()} <= issuers


@every_overlay
def test_network_policies_deny_by_default(overlay: Path) -> None:
    (deny,) = (one for one in of_kind(overlay, "NetworkPolicy") if one["metadata"]["name"] == "default-deny")
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not deny["spec"].get("ingress") and not deny["spec"].get("egress")
    for pod in [*pods(overlay), *jobs(overlay)]:
        assert matches(deny["spec"]["podSelector"], pod["metadata"]["labels"])


@every_overlay
def test_images_are_pinned(overlay: Path) -> None:
    for container in containers(overlay):
        image = container["image"]
        assert "@sha256:" in image or re.search(r":[\w.-]+$", image), image
        assert not image.endswith(":latest")


@every_overlay
def test_pods_and_containers_have_minimal_privileges(overlay: Path) -> None:
    for pod in pods(overlay):
        assert pod["spec"]["automountServiceAccountToken"] is False
        classes = {one["metadata"]["name"] for one in of_kind(overlay, "PriorityClass")}
        assert pod["spec"]["priorityClassName"] in classes
    for pod in [*pods(overlay), *jobs(overlay)]:
        spec = pod["spec"]
        assert spec["enableServiceLinks"] is False  # links to `emoserve` would set EMOSERVE_*, as settings do
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(overlay):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


@every_overlay
def test_containers_have_resource_requests_and_limits(overlay: Path) -> None:
    for container in containers(overlay):
        resources = container["resources"]
        for amount in [*resources["requests"].values(), *resources["limits"].values()]:
            assert QUANTITY.fullmatch(str(amount)), amount
        assert "memory" in resources["limits"]
        assert set(resources["requests"]) >= {"cpu", "memory"}
    resources = triton(overlay)["resources"]
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"]  # the limit sets the number of threads


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
def test_grace_period_covers_the_drain(overlay: Path) -> None:
    """A stop waits until no client is connected, and then until Triton exits."""
    pod = deployment(overlay, "triton")["spec"]["template"]
    (drain,) = {
        int(one["data"]["EMOSERVE_DRAIN"]) for one in of_kind(overlay, "ConfigMap") if "EMOSERVE_DRAIN" in one["data"]
    }
    assert drain > 1.1 * MAX_CONNECTION_AGE_S + 30  # gRPC clients resolve the name again at this age
    pauses = {
        one.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        for one in pod["spec"]["containers"]
    }
    assert len(pauses) == 1  # a proxy in the pod runs as long as Triton
    assert pod["spec"]["terminationGracePeriodSeconds"] >= pauses.pop() + drain + EXIT_TIMEOUT_S + 10


@every_overlay
def test_probes_tolerate_a_busy_server(overlay: Path) -> None:
    probe = triton(overlay)["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 60
    startup = triton(overlay)["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300


@every_overlay
def test_selected_configuration_exists(overlay: Path) -> None:
    (reference,) = triton(overlay)["envFrom"]
    (settings,) = (
        one for one in of_kind(overlay, "ConfigMap") if one["metadata"]["name"] == reference["configMapRef"]["name"]
    )
    name = settings["data"]["EMOSERVE_CONFIG"]
    assert settings["data"]["EMOSERVE_LOG_LEVEL"] in LEVELS
    named = list((ROOT / "model_repository").glob(f"*/configs/{name}.pbtxt"))
    assert bool(named) != (name == "default")
