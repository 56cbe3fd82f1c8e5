"""Check that the component `web` agrees with the gateway and the page."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.test_manifests import Object, containers, of_kind, pods, triton
from web.gateway.guard import FORM_OVERHEAD
from web.gateway.settings import Settings

ROOT = Path(__file__).parent.parent.parent
OVERLAYS = Path(__file__).parent / "overlays"
every_overlay = pytest.mark.parametrize(
    "overlay", [OVERLAYS / name for name in ("web", "tls-mutual", "web-tls-gateway-api")], ids=lambda path: path.name
)


def gateway(overlay: Path) -> Object:
    (found,) = (one for one in containers(overlay) if one["name"] == "web")
    return found


def setting(name: str) -> Any:
    return Settings.model_fields[name].default


@every_overlay
def test_variables_are_settings_of_the_gateway(overlay: Path) -> None:
    names = {one["name"].removeprefix("EMOSERVE_").lower() for one in gateway(overlay)["env"]}
    assert names <= set(Settings.model_fields)
    ports = {port["name"]: port["containerPort"] for port in gateway(overlay)["ports"]}
    assert ports == {"http": setting("port"), "metrics": setting("metrics_port")}


@every_overlay
def test_endpoint_is_a_headless_service_that_the_certificate_names(overlay: Path) -> None:
    (endpoints,) = (one["value"] for one in gateway(overlay)["env"] if one["name"] == "EMOSERVE_ENDPOINTS")
    (endpoint,) = json.loads(endpoints)
    host, port = endpoint.split(":")
    (service,) = (one for one in of_kind(overlay, "Service") if one["metadata"]["name"] == host)
    assert service["spec"]["clusterIP"] == "None"
    assert int(port) in [one["port"] for one in service["spec"]["ports"]]
    (egress,) = (one for one in of_kind(overlay, "NetworkPolicy") if one["metadata"]["name"] == "web-egress")
    assert int(port) in [one["port"] for rule in egress["spec"]["egress"] for one in rule["ports"]]
    for certificate in of_kind(overlay, "Certificate"):
        if certificate["spec"]["secretName"] == "emoserve-tls":
            assert host in certificate["spec"]["dnsNames"]
            assert "EMOSERVE_CA" in {one["name"] for one in gateway(overlay)["env"]}


@every_overlay
def test_probes_do_not_depend_on_triton(overlay: Path) -> None:
    for probe in ("readinessProbe", "livenessProbe"):
        assert gateway(overlay)[probe]["httpGet"]["path"] == "/"


@every_overlay
def test_grace_period_covers_the_longest_analysis(overlay: Path) -> None:
    (_, pause) = gateway(overlay)["lifecycle"]["preStop"]["exec"]["command"]
    (pod,) = (pod for pod in pods(overlay) if pod["spec"]["containers"][0]["name"] == "web")
    assert pod["spec"]["terminationGracePeriodSeconds"] >= int(pause) + setting("deadline") + 10


def test_ingress_routes_the_whole_page_but_not_metrics() -> None:
    (ingress,) = of_kind(OVERLAYS / "web", "Ingress")
    (rule,) = ingress["spec"]["rules"]

    def routed(path: str) -> bool:
        return any(
            path == one["path"] or (one["pathType"] == "Prefix" and path.startswith(f"{one['path']}/"))
            for one in rule["http"]["paths"]
        )

    public = [f"/{path.name}" for path in (ROOT / "web" / "ui" / "public").iterdir()]
    assert all(map(routed, ["/", "/assets/index.js", "/api/analyze", "/api/health", "/api/openapi.json", *public]))
    assert not routed("/metrics")


def test_ingress_accepts_the_largest_upload() -> None:
    (ingress,) = of_kind(OVERLAYS / "web", "Ingress")
    size = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert int(size.removesuffix("m")) << 20 >= setting("max_bytes") + FORM_OVERHEAD


def test_documented_overlay_serves_the_page_with_speech(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "components.md").read_text(), re.MULTILINE | re.DOTALL)
    overlay, speech = blocks[:2]
    here = os.path.relpath(ROOT / "k8s", tmp_path.resolve())
    text = overlay.replace("../../components", f"{here}/components").replace("../cpu", f"{here}/overlays/cpu")
    (tmp_path / "kustomization.yaml").write_text(text + speech)
    assert triton(tmp_path)["args"] == ["--speech"]
    assert gateway(tmp_path)["image"].startswith("registry.example.com/emoserve-web:")
