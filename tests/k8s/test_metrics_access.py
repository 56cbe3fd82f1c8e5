"""Access to the metrics of Triton and the gateway: only from the namespace `monitoring`, and by no external route."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from serving.triton import free_ports
from tests.k8s.test_dual_stack import status
from tests.k8s.test_manifests import (
    PORTS,
    ROOT,
    Object,
    every_overlay,
    matches,
    of_kind,
    pods,
    rendered,
)

AZURE = ("aks", "aks-cpu")  # their collector is in another namespace
ASKED = [
    "/metrics",
    "/metrics/",
    "/Metrics",
    "/api/../metrics",
]  # a proxy normalizes the last one to /metrics


def admitted(overlay: Path, pod: Object, port: str) -> list[dict[str, str]]:
    """Return labels of the namespaces that policies admit to a port; {} admits every pod of our own namespace."""
    found = []
    for policy in of_kind(overlay, "NetworkPolicy"):
        if matches(policy["spec"]["podSelector"], pod["metadata"]["labels"]):
            for rule in policy["spec"].get("ingress", []):
                if port in [entry["port"] for entry in rule["ports"]]:
                    found += [peer.get("namespaceSelector", {}).get("matchLabels", {}) for peer in rule["from"]]
    return found


@every_overlay
def test_network_policies_admit_only_the_collector_to_metrics(overlay: Path) -> None:
    collector = {"kubernetes.io/metadata.name": "kube-system" if overlay.name in AZURE else "monitoring"}
    for pod in pods(overlay):
        assert admitted(overlay, pod, "metrics") == [collector]


def paths(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield type and value of every path that is routed to our Services from outside."""
    for ingress in of_kind(directory, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                yield path["pathType"], path["path"]
    for route in of_kind(directory, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            if "backendRefs" in rule:
                for one in rule["matches"]:
                    yield one["path"]["type"], one["path"]["value"]


def is_routed(kind: str, path: str, asked: str) -> bool:
    if kind == "Exact":
        return asked == path
    assert kind in ("Prefix", "PathPrefix")  # whole segments
    return f"{asked}/".startswith(f"{path.rstrip('/')}/")


@pytest.mark.parametrize("asked", ASKED)
@every_overlay
def test_no_route_leads_to_metrics_of_the_gateway(overlay: Path, asked: str) -> None:
    asked = asked.replace("/api/..", "")
    for kind, path in paths(overlay):
        assert not is_routed(kind, path, asked), path


@pytest.mark.parametrize("asked", ASKED)
def test_no_route_of_azure_leads_to_metrics_of_the_gateway(asked: str) -> None:
    routed = list(paths(ROOT / "k8s" / "azure" / "gateway"))
    assert routed
    assert not any(is_routed(kind, path, asked.replace("/api/..", "")) for kind, path in routed)


@every_overlay
def test_no_route_leads_to_metrics_of_triton(overlay: Path) -> None:
    """Only one Service has its port; that Service has no external address and is no backend of a route."""
    with_metrics = {
        one["metadata"]["name"]
        for one in of_kind(overlay, "Service")
        if PORTS["metrics"] in [port["port"] for port in one["spec"]["ports"]]
    }
    assert with_metrics == {"emoserve-metrics"}
    for one in rendered(overlay):
        if one["kind"] in ("Ingress", "HTTPRoute", "GRPCRoute"):
            assert not re.search(r"emoserve-metrics|\b8002\b", yaml.safe_dump(one["spec"]))
        if one["kind"] == "Service":
            assert one["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_proxy_of_triton_passes_no_metrics() -> None:
    envoy = yaml.safe_load((ROOT / "k8s" / "components" / "http" / "envoy.yaml").read_text())
    (chain,) = envoy["static_resources"]["listeners"][0]["filter_chains"]
    (manager,) = (one["typed_config"] for one in chain["filters"])
    (host,) = manager["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        if "route" in route:
            assert not re.fullmatch(route["match"]["safe_regex"]["regex"], "/metrics")
    (cluster,) = envoy["static_resources"]["clusters"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"]["port_value"] == 8000


def test_gateway_metrics_ignore_api_key_and_rate_limit() -> None:
    """Prometheus sends no key; NetworkPolicies limit who reaches the port."""
    ports = free_ports("127.0.0.1", {"page": 0, "metrics": 0})
    settings = {
        "EMOSERVE_PORT": str(ports["page"]),
        "EMOSERVE_METRICS_PORT": str(ports["metrics"]),
        "EMOSERVE_API_KEY": "open sesame",
        "EMOSERVE_RATE_LIMIT": "1",
    }
    command = [sys.executable, "-m", "web.gateway"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stderr=subprocess.DEVNULL) as process:
        try:
            assert {status(f"http://127.0.0.1:{ports['metrics']}/metrics", process) for _ in range(20)} == {200}
            page = f"http://127.0.0.1:{ports['page']}"
            assert status(f"{page}/api/openapi.json", process) == 200
            assert httpx.get(f"{page}/metrics").status_code == 404
            assert httpx.post(f"{page}/api/analyze", data={"text": "hello"}, timeout=30).status_code == 401
        finally:
            process.terminate()
