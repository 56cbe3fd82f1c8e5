"""Check what kubectl does to a Deployment's `replicas` when an autoscaler is added, against a fake API server."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.test_manifests import KUBECTL, ROOT, Object, deployment

OVERLAYS = Path(__file__).parent / "overlays"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
RUNNING = 5  # pods, after a manual scale-up
every_autoscaler = pytest.mark.parametrize("autoscaler", ["autoscaling", "autoscaling-keda"])


class Cluster(ThreadingHTTPServer):
    """A fake API server that holds one Deployment, rendered from the overlay `cpu`.

    Attributes:
        live: the Deployment.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.live: Object = json.loads(json.dumps(deployment(ROOT / "k8s" / "overlays" / "cpu", "triton")))
        self.live["metadata"]["annotations"] = {LAST_APPLIED: json.dumps(self.live)}
        self.live["spec"]["replicas"] = RUNNING

    def patch(self, patch: Object) -> None:
        """Apply a patch to annotations and `replicas`, the only fields that the tests read."""
        self.live["metadata"]["annotations"] |= patch.get("metadata", {}).get("annotations", {})
        if "replicas" in patch.get("spec", {}):
            self.live["spec"]["replicas"] = patch["spec"]["replicas"] or 1  # the API server's default

    def run(self, script: str, directory: Path) -> None:
        """Run a shell script whose `kubectl` is connected to this cluster."""
        command = directory / "kubectl"
        command.write_text(f'#!/bin/sh\nexec {KUBECTL} --server http://127.0.0.1:{self.server_port} "$@"\n')
        command.chmod(0o755)
        environment = os.environ | {"PATH": f"{directory}:{os.environ['PATH']}", "HOME": str(directory)}
        shell = ["bash", "-o", "errexit", "-o", "pipefail", "-c", script]
        done = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    def apply(self, overlay: str, directory: Path) -> None:
        """Apply the Deployment of an overlay."""
        (directory / "deployment.yaml").write_text(yaml.safe_dump(deployment(OVERLAYS / overlay, "triton")))
        self.run(f"kubectl apply --validate=false --filename {directory}/deployment.yaml", directory)


class Api(BaseHTTPRequestHandler):
    """The handler of the API requests that kubectl sends."""

    server: Cluster

    def do_GET(self) -> None:
        group = {"groupVersion": "apps/v1", "version": "v1"}
        kind = {"name": "deployments", "kind": "Deployment", "namespaced": True, "verbs": ["get", "patch"]}
        self.answer(
            {
                "/api": {"kind": "APIVersions", "versions": ["v1"]},
                "/apis": {"kind": "APIGroupList", "groups": [{"name": "apps", "versions": [group]}]},
                "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
                "/apis/apps/v1": {"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": [kind]},
                "/apis/apps/v1/namespaces/emoserve/deployments/triton": self.server.live,
            }.get(self.path.partition("?")[0])
        )

    def do_PATCH(self) -> None:
        self.server.patch(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(self.server.live)

    def answer(self, content: Any) -> None:
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content or {}).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def adoption() -> str:
    """Return the documented commands without the last one, which applies an overlay."""
    text = (ROOT / "docs" / "components.md").read_text()
    (block,) = re.findall(r"^```(?:bash)?\n([^`]*set-last-applied[^`]*)^```", text, re.MULTILINE)
    command, last, _ = block.rpartition("kubectl apply --kustomize")
    assert last
    return str(command)


@every_autoscaler
def test_adoption_with_documented_command_keeps_replicas(cluster: Cluster, tmp_path: Path, autoscaler: str) -> None:
    cluster.run(adoption(), tmp_path)
    for _ in range(2):  # the first and a later apply
        cluster.apply(autoscaler, tmp_path)
        assert cluster.live["spec"]["replicas"] == RUNNING


@every_autoscaler
def test_adoption_without_documented_command_scales_to_one_replica(
    cluster: Cluster, tmp_path: Path, autoscaler: str
) -> None:
    cluster.apply(autoscaler, tmp_path)
    assert cluster.live["spec"]["replicas"] == 1
