"""Clusters whose pods and Services have IPv4 and IPv6 addresses, or only IPv6 addresses."""

import ipaddress
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from serving.triton import free_ports
from tests.k8s.test_manifests import ROOT, Object, containers, every_overlay, of_kind


def variables(container: Object) -> dict[str, Object]:
    return {one["name"]: one for one in container["env"]}


@every_overlay
def test_services_prefer_dual_stack(overlay: Path) -> None:
    for service in of_kind(overlay, "Service"):
        assert service["spec"]["ipFamilyPolicy"] == "PreferDualStack", service["metadata"]["name"]
        assert "ipFamilies" not in service["spec"]


@every_overlay
def test_servers_listen_on_all_addresses(overlay: Path) -> None:
    """The gateway listens on both families if its host is empty; with `::` it would listen on IPv6 only."""
    for container in containers(overlay):
        if container["name"] == "triton":
            found = variables(container)
            assert found["EMOSERVE_TRITON_HOST"]["value"] == "::"
            assert found["EMOSERVE_PRIMARY_ADDRESS"]["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
            assert "--host" not in container.get("args", [])
        elif container["name"] == "web":
            assert variables(container)["EMOSERVE_HOST"]["value"] == ""


def test_images_set_the_host_by_a_variable_that_manifests_can_change() -> None:
    for name in ("cpu", "gpu"):
        text = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
        assert "EMOSERVE_TRITON_HOST=0.0.0.0" in text
        assert "--host" not in text  # an option overrides the variable


@every_overlay
def test_network_policies_name_addresses_of_both_families(overlay: Path) -> None:
    for policy in of_kind(overlay, "NetworkPolicy"):
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                blocks = [one["ipBlock"]["cidr"] for one in rule.get(peers, []) if "ipBlock" in one]
                versions = {ipaddress.ip_network(block).version for block in blocks}
                assert versions in (set(), {4, 6}), policy["metadata"]["name"]


def test_gateway_with_empty_host_listens_on_both_families() -> None:
    ports = free_ports("127.0.0.1", {"page": 0, "metrics": 0})
    settings = os.environ | {"EMOSERVE_HOST": ""}
    settings |= {"EMOSERVE_PORT": str(ports["page"]), "EMOSERVE_METRICS_PORT": str(ports["metrics"])}
    command = [sys.executable, "-m", "web.gateway"]
    with subprocess.Popen(command, cwd=ROOT, env=settings, stderr=subprocess.DEVNULL) as process:
        try:
            for host in ("127.0.0.1", "[::1]"):
                assert status(f"http://{host}:{ports['metrics']}/metrics", process) == 200
                assert status(f"http://{host}:{ports['page']}/api/openapi.json", process) == 200
        finally:
            process.terminate()


def status(url: str, process: subprocess.Popen[bytes]) -> int:
    """Wait until the server listens; return the HTTP status of its answer."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return int(answer.status)
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
