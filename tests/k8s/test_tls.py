"""Triton and the gateway with the settings of `tls` and `tls-mutual`: which clients are accepted or rejected."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from emotion_client import TLS, EmotionClient, Unreachable
from emotion_client.cli import main

from serving.certificates import READINESS_LAG_S, SPREAD_S
from serving.triton import free_ports
from tests.k8s.test_manifests import containers, deployment, jobs, matches, of_kind, triton
from tests.serving.test_triton import serving

ROOT = Path(__file__).parent.parent.parent
OVERLAYS = Path(__file__).parent / "overlays"
MOUNTS = re.compile(r"(?<![^=])/(?=(tls|ca|client)/)")  # where the components mount their Secrets


def openssl(name: Path, subject: str, *options: object) -> None:
    """Make NAME.crt and NAME.key."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", f"{name}.key"]
    command = ["openssl", "req", "-x509", "-days", "2", "-subj", f"/CN={subject}", *key, "-out", f"{name}.crt"]
    subprocess.run([*command, *map(str, options)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that replaces / of the containers, with the files of the Secrets."""
    root = tmp_path_factory.mktemp("secrets")
    for mount in ("tls", "ca", "client"):
        (root / mount).mkdir()
    openssl(root / "ca" / "ca", "authority")
    openssl(root / "ca" / "other", "another authority")
    (root / "tls" / "ca.crt").write_bytes((root / "ca" / "ca.crt").read_bytes())
    signed = ["-CA", root / "ca" / "ca.crt", "-CAkey", root / "ca" / "ca.key", "-addext", "basicConstraints=CA:FALSE"]
    server = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "extendedKeyUsage=serverAuth"]
    openssl(root / "tls" / "tls", "server", *signed, *server)
    openssl(root / "client" / "tls", "client", *signed, "-addext", "extendedKeyUsage=clientAuth")
    return root


@contextmanager
def served(overlay: str, secrets: Path, repository: Path) -> Iterator[str]:
    """Run `python -m serving` with the arguments of the overlay's container; yield its gRPC address as HOST:PORT."""
    container = triton(OVERLAYS / overlay)
    arguments = [MOUNTS.sub(f"{secrets}/", one) for one in container["args"]]
    with serving(repository, secrets / f"{overlay}.log", *arguments) as server:
        ready = re.search(r"gRPC (\S+), HTTP (\S+),", server.ready)
        assert ready
        probe = [word.replace("127.0.0.1:8000", ready[2]) for word in container["readinessProbe"]["exec"]["command"]]
        environment = os.environ | {"EMOSERVE_NOT_READY_FILE": str(secrets / "not-ready")}
        subprocess.run([sys.executable, *probe[1:]], env=environment, check=True, timeout=30)
        yield ready[1]


@pytest.fixture(scope="module")
def server(secrets: Path, repository: Path) -> Iterator[str]:
    with served("tls", secrets, repository) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def mutual_server(secrets: Path, repository: Path) -> Iterator[str]:
    with served("tls-mutual", secrets, repository) as endpoint:
        yield endpoint


def assert_rejected(endpoint: str, tls: TLS | None, reason: str = "Socket closed") -> None:
    with EmotionClient(endpoint, tls=tls, retries=False) as client, pytest.raises(Unreachable, match=reason):
        client.analyze(text="hello")


def test_client_that_trusts_the_authority_gets_an_answer(
    server: str, secrets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EmotionClient(server, tls=TLS(secrets / "ca" / "ca.crt")) as client:
        assert client.analyze(text="hello").probabilities
    assert main(["--text", "hello", "--endpoint", server, "--ca", str(secrets / "ca" / "ca.crt")]) == 0
    assert "(text)" in capsys.readouterr().out


def test_plaintext_and_another_authority_are_rejected(server: str, secrets: Path) -> None:
    assert_rejected(server, None)
    assert_rejected(server, TLS(secrets / "ca" / "other.crt"), "unable to get local issuer certificate")


def test_mutual_tls_requires_a_certificate_of_the_authority(
    mutual_server: str, secrets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority, client_files = secrets / "ca" / "ca.crt", secrets / "client" / "tls"
    key, certificate = client_files.with_suffix(".key"), client_files.with_suffix(".crt")
    with EmotionClient(mutual_server, tls=TLS(authority, key, certificate)) as client:
        assert client.analyze(text="hello").probabilities
    options = ["--ca", str(authority), "--certificate", str(certificate), "--private-key", str(key)]
    assert main(["--text", "hello", "--endpoint", mutual_server, *options]) == 0
    assert "(text)" in capsys.readouterr().out

    assert_rejected(mutual_server, None)
    assert_rejected(mutual_server, TLS(authority))
    stranger = secrets / "ca" / "other"
    assert_rejected(mutual_server, TLS(authority, stranger.with_suffix(".key"), stranger.with_suffix(".crt")))


def variables(overlay: Path) -> dict[str, str]:
    """Return the environment variables of Triton's container."""
    return {one["name"]: one.get("value", "") for one in triton(overlay)["env"]}


@pytest.mark.parametrize("name", ["tls", "tls-mutual"])
def test_renewed_certificate_is_loaded_by_a_weekly_rolling_restart(name: str) -> None:
    """A rollout starts a pod before it stops one; pods restart by themselves only if the job failed twice."""
    (job,) = of_kind(OVERLAYS / name, "CronJob")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert "/kubectl:" in container["image"]
    assert container["args"] == ["rollout", "restart", "deployment/triton"]
    rollout = deployment(OVERLAYS / name, "triton")["spec"]["strategy"]["rollingUpdate"]
    assert rollout == {"maxUnavailable": 0, "maxSurge": 1}
    minute, hour, *days, weekday = job["spec"]["schedule"].split()
    assert days == ["*", "*"] and all(one.isdigit() for one in (minute, hour, weekday))  # once a week
    delay = int(variables(OVERLAYS / name)["EMOSERVE_RENEWAL_DELAY"])
    assert delay >= 2 * 7 * 24 * 3600


@pytest.mark.parametrize("name", ["tls", "tls-mutual"])
def test_restart_job_can_change_only_deployments(name: str) -> None:
    (role,), (binding,) = of_kind(OVERLAYS / name, "Role"), of_kind(OVERLAYS / name, "RoleBinding")
    assert role["rules"] == [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "patch"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (pod,) = jobs(OVERLAYS / name)
    account = pod["spec"]["serviceAccountName"]
    assert [(one["kind"], one["name"]) for one in binding["subjects"]] == [("ServiceAccount", account)]
    assert account != deployment(OVERLAYS / name, "triton")["spec"]["template"]["spec"]["serviceAccountName"]
    policies = [
        one["spec"]
        for one in of_kind(OVERLAYS / name, "NetworkPolicy")
        if matches(one["spec"]["podSelector"], pod["metadata"]["labels"]) and one["metadata"]["name"] != "default-deny"
    ]
    assert [sorted(port["port"] for port in rule["ports"]) for one in policies for rule in one["egress"]] == [
        [443, 6443, 8443]
    ]
    assert not any("Ingress" in one["policyTypes"] for one in policies)


@pytest.mark.parametrize("name", ["tls", "tls-mutual"])
def test_not_ready_file_fails_readiness_before_the_drain_but_not_liveness(name: str, tmp_path: Path) -> None:
    """The drain begins READINESS_LAG_S later, after the probe has failed often enough."""
    container, marker = triton(OVERLAYS / name), tmp_path / "not-ready"
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert str(Path(variables(OVERLAYS / name)["EMOSERVE_NOT_READY_FILE"]).parent) in writable

    def succeeds(probe: str) -> bool:
        command = [word.replace("127.0.0.1:8000", healthy) for word in container[probe]["exec"]["command"]]
        environment = os.environ | {"EMOSERVE_NOT_READY_FILE": str(marker)}
        done = subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True, check=False)
        return done.returncode == 0

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever).start()
        healthy = f"127.0.0.1:{server.server_port}"
        try:
            assert succeeds("startupProbe") and succeeds("readinessProbe") and succeeds("livenessProbe")
            marker.touch()
            assert not succeeds("readinessProbe")
            assert succeeds("livenessProbe")
        finally:
            server.shutdown()
    readiness = container["readinessProbe"]
    noticed = readiness["periodSeconds"] * readiness["failureThreshold"] + readiness["timeoutSeconds"]
    assert noticed < READINESS_LAG_S


class Healthy(BaseHTTPRequestHandler):
    """A handler that answers 200, as Triton's health endpoints do."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize("name", ["tls", "tls-mutual"])
def test_renewed_certificate_reaches_every_pod_before_the_old_one_expires(name: str) -> None:
    """The kubelet updates the files of a mounted Secret, but not those of a subPath mount."""
    made = {one["spec"]["secretName"]: one["spec"] for one in of_kind(OVERLAYS / name, "Certificate")}
    renewed = [spec for spec in made.values() if not spec.get("isCA")]
    assert renewed
    latest = int(variables(OVERLAYS / name)["EMOSERVE_RENEWAL_DELAY"]) + SPREAD_S
    for spec in renewed:
        assert int(spec["renewBefore"].removesuffix("h")) * 3600 > 2 * latest
    for container in containers(OVERLAYS / name):
        assert not [mount for mount in container.get("volumeMounts", []) if "subPath" in mount]
    (settings,) = (one for one in of_kind(OVERLAYS / name, "ConfigMap") if "EMOSERVE_DRAIN" in one["data"])
    assert "EMOSERVE_RENEWAL_SPREAD" not in settings["data"]


def gateway_settings(mutual_server: str, secrets: Path) -> dict[str, str]:
    """Return the gateway's variables as the overlay sets them."""
    (container,) = (one for one in containers(OVERLAYS / "tls-mutual") if one["name"] == "web")
    variables = {one["name"]: MOUNTS.sub(f"{secrets}/", one["value"]) for one in container["env"] if "value" in one}
    return variables | {"EMOSERVE_ENDPOINTS": f'["{mutual_server}"]'}


def test_gateway_with_overlay_settings_reaches_triton(mutual_server: str, secrets: Path) -> None:
    variables = gateway_settings(mutual_server, secrets)
    with gateway(variables) as health:
        assert health() == 200
    del variables["EMOSERVE_CERTIFICATE"], variables["EMOSERVE_PRIVATE_KEY"]
    with gateway(variables) as health:
        assert health() == 503


def test_gateway_reloads_a_renewed_certificate_without_restart(
    mutual_server: str, secrets: Path, tmp_path: Path
) -> None:
    own, stranger = tmp_path / "tls", secrets / "ca" / "other"
    files = {"EMOSERVE_CERTIFICATE": f"{own}.crt", "EMOSERVE_PRIVATE_KEY": f"{own}.key"}
    for kind in ("crt", "key"):
        shutil.copy(f"{stranger}.{kind}", f"{own}.{kind}")
    with gateway(gateway_settings(mutual_server, secrets) | files) as health:
        assert health() == 503
        for kind in ("key", "crt"):
            shutil.copy(secrets / "client" / f"tls.{kind}", f"{own}.{kind}")
        end = time.monotonic() + 60
        while health() != 200:
            assert time.monotonic() < end
            time.sleep(0.1)


@contextmanager
def gateway(variables: dict[str, str]) -> Iterator[Callable[[], int]]:
    """Run a gateway with these variables; yield a function that returns the status of its /api/health."""
    port = free_ports("127.0.0.1", {"page": 0})["page"]
    command = [sys.executable, "-m", "web.gateway", "--port", str(port), "--metrics-port", "0"]

    def health() -> int:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=10) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code
            except urllib.error.URLError:  # not listening yet
                assert process.poll() is None
                time.sleep(0.1)

    with subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stderr=subprocess.DEVNULL) as process:
        try:
            yield health
        finally:
            process.terminate()
