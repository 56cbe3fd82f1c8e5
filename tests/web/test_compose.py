"""Test the compose files with podman-compose's parser, and run their Prometheus configuration."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serving import Triton
from serving.triton import free_ports
from tests.conftest import ROOT
from tests.web.conftest import running
from web.gateway.metrics import Metrics
from web.gateway.settings import Settings

DOCKER = ROOT / "docker"
FILES = (DOCKER / "compose.yaml", DOCKER / "compose.gpu.yaml")
RULES = ROOT / "k8s" / "components" / "monitoring" / "rules.yaml"


@pytest.fixture(scope="module", params=[FILES[:1], FILES], ids=["cpu", "gpu"])
def compose(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the configuration as podman-compose parses it; a stub of `podman` only prints a version."""
    programs = tmp_path_factory.mktemp("bin")
    podman = programs / "podman"
    podman.write_text("#!/bin/sh\necho podman version 5.2.0\n")
    podman.chmod(0o755)
    files = [word for path in request.param for word in ("--file", str(path))]
    command = [str(Path(sys.executable).parent / "podman-compose"), *files, "--profile", "http", "config"]
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_compose_services_listen_on_loopback_and_restart(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"models", "triton", "http", "web", "prometheus", "grafana"}
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert name == "models" or service["restart"] == "always"
        assert re.search(r":[\w.-]*\d", service["image"]) or "build" in service or name == "triton"
        for needed in service.get("depends_on", {}):
            assert needed in compose["services"]


def test_compose_mounts_and_builds_refer_to_existing_files(compose: dict[str, Any]) -> None:
    for config in compose["configs"].values():
        assert (DOCKER / config["file"]).is_file()
    for service in compose["services"].values():
        assert "build" not in service or (ROOT / service["build"]["dockerfile"]).is_file()
        for mount in service.get("volumes", []):
            assert mount.split(":")[0] in compose["volumes"]
        for config in service.get("configs", []):
            assert config["source"] in compose["configs"]


def test_compose_rules_equal_those_of_kubernetes() -> None:
    own = yaml.safe_load((DOCKER / "compose" / "rules.yaml").read_text())
    assert own == yaml.safe_load(RULES.read_text())["spec"]


def test_service_unit_starts_the_documented_command() -> None:
    unit = (DOCKER / "systemd" / "emoserve.service").read_text()
    assert "\nExecStart=/opt/emoserve/.venv/bin/python -m serving\n" in unit
    assert "\nRestart=always\n" in unit
    if verify := shutil.which("systemd-analyze"):
        done = subprocess.run(
            [verify, "verify", DOCKER / "systemd" / "emoserve.service"], capture_output=True, text=True, check=False
        )
        problems = [line for line in done.stderr.splitlines() if "/opt/emoserve/.venv/bin/python" not in line]
        assert problems == []


@pytest.fixture(scope="module")
def addresses(server: Triton) -> Iterator[tuple[str, str]]:
    """Yield the page's address and the HOST:PORT of the metrics of a gateway in front of the shared server.

    A server with speech recognition would need another GiB.
    """
    metrics = Metrics()
    with running(Settings(endpoints=[server.grpc_url]), metrics) as address, metrics.served("127.0.0.1", 0) as port:
        yield address, f"127.0.0.1:{port}"


@pytest.fixture
def prometheus(
    server: Triton, addresses: tuple[str, str], require: Callable[[str], None], tmp_path: Path
) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Run Prometheus with the configuration of the compose file, and yield a function that queries it."""
    require("prometheus")
    configuration = (DOCKER / "compose" / "prometheus.yaml").read_text()
    for target, url in (("triton:8002", server.metrics_url), ("web:8081", addresses[1])):
        assert f'"{target}"' in configuration
        configuration = configuration.replace(target, url)
    (tmp_path / "prometheus.yaml").write_text(configuration)
    shutil.copy(DOCKER / "compose" / "rules.yaml", tmp_path)
    port = free_ports("127.0.0.1", {"prometheus": 0})["prometheus"]
    command = [
        "prometheus",
        f"--config.file={tmp_path / 'prometheus.yaml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=log)

    def query(expression: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    try:
        yield query
    finally:
        process.terminate()
        process.wait(30)


def test_prometheus_scrapes_triton_and_gateway_and_records_signals(
    prometheus: Callable[[str], list[dict[str, Any]]], addresses: tuple[str, str]
) -> None:
    address, _ = addresses
    deadline = time.monotonic() + 60
    while True:
        httpx.post(f"{address}/api/analyze", files={"text": (None, "words for the signals")}, timeout=30)
        try:
            up = {one["metric"]["job"]: one["value"][1] for one in prometheus("up")}
            answered = prometheus("emoserve:requests:rate1m > 0")
            if up == {"triton": "1", "web": "1"} and answered:
                break
        except OSError:  # Prometheus is still starting
            pass
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert answered[0]["metric"]["namespace"] == "emoserve"
