"""Triton and gateway with what the components `tls` and `tls-mutual` set: who gets an answer, and who is refused."""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from emotion_client import TLS, EmotionClient, Unreachable
from emotion_client.cli import main

from serving.triton import free_ports
from tests.k8s.test_manifests import containers, triton
from tests.serving.test_triton import serving

ROOT = Path(__file__).parent.parent.parent
OVERLAYS = Path(__file__).parent / "overlays"
MOUNTS = re.compile(r"(?<![^=])/(?=(tls|ca|client)/)")  # where the components mount their Secrets


def openssl(name: Path, subject: str, *options: object) -> None:
    """Makes NAME.crt and NAME.key."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", f"{name}.key"]
    command = ["openssl", "req", "-x509", "-days", "2", "-subj", f"/CN={subject}", *key, "-out", f"{name}.crt"]
    subprocess.run([*command, *map(str, options)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that stands for / of the containers, with the files of the Secrets."""
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
    """`python -m serving` with the arguments of the overlay's container: its gRPC as HOST:PORT."""
    arguments = [MOUNTS.sub(f"{secrets}/", one) for one in triton(OVERLAYS / overlay)["args"]]
    with serving(repository, secrets / f"{overlay}.log", *arguments) as server:
        ready = re.search(r"gRPC (\S+), HTTP (\S+),", server.ready)
        assert ready
        with urllib.request.urlopen(f"http://{ready[2]}/v2/health/ready", timeout=10) as answer:  # as probes do
            assert answer.status == 200
        yield ready[1]


@pytest.fixture(scope="module")
def server(secrets: Path, repository: Path) -> Iterator[str]:
    with served("tls", secrets, repository) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def mutual_server(secrets: Path, repository: Path) -> Iterator[str]:
    with served("tls-mutual", secrets, repository) as endpoint:
        yield endpoint


def assert_refused(endpoint: str, tls: TLS | None, reason: str = "Socket closed") -> None:
    with EmotionClient(endpoint, tls=tls, retries=False) as client, pytest.raises(Unreachable, match=reason):
        client.analyze(text="hello")


def test_who_trusts_the_authority_is_answered(server: str, secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EmotionClient(server, tls=TLS(secrets / "ca" / "ca.crt")) as client:
        assert client.analyze(text="hello").probabilities
    assert main(["--text", "hello", "--endpoint", server, "--ca", str(secrets / "ca" / "ca.crt")]) == 0
    assert "(text)" in capsys.readouterr().out


def test_plaintext_and_another_authority_are_refused(server: str, secrets: Path) -> None:
    assert_refused(server, None)
    assert_refused(server, TLS(secrets / "ca" / "other.crt"), "unable to get local issuer certificate")


def test_mutual_tls_asks_for_a_certificate_of_the_authority(
    mutual_server: str, secrets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority, client_files = secrets / "ca" / "ca.crt", secrets / "client" / "tls"
    key, certificate = client_files.with_suffix(".key"), client_files.with_suffix(".crt")
    with EmotionClient(mutual_server, tls=TLS(authority, key, certificate)) as client:
        assert client.analyze(text="hello").probabilities
    options = ["--ca", str(authority), "--certificate", str(certificate), "--private-key", str(key)]
    assert main(["--text", "hello", "--endpoint", mutual_server, *options]) == 0
    assert "(text)" in capsys.readouterr().out

    assert_refused(mutual_server, None)
    assert_refused(mutual_server, TLS(authority))
    stranger = secrets / "ca" / "other"
    assert_refused(mutual_server, TLS(authority, stranger.with_suffix(".key"), stranger.with_suffix(".crt")))


def test_the_gateway_gets_through_with_its_settings(mutual_server: str, secrets: Path) -> None:
    (container,) = (one for one in containers(OVERLAYS / "tls-mutual") if one["name"] == "web")
    variables = {one["name"]: MOUNTS.sub(f"{secrets}/", one["value"]) for one in container["env"] if "value" in one}
    variables["EMOSERVE_ENDPOINTS"] = f'["{mutual_server}"]'
    assert health(variables) == 200
    del variables["EMOSERVE_CERTIFICATE"], variables["EMOSERVE_PRIVATE_KEY"]
    assert health(variables) == 503


def health(variables: dict[str, str]) -> int:
    """The status of /api/health of a gateway with these variables."""
    port = free_ports("127.0.0.1", {"page": 0})["page"]
    command = [sys.executable, "-m", "web.gateway", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stderr=subprocess.DEVNULL) as gateway:
        try:
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=10) as answer:
                        return int(answer.status)
                except urllib.error.HTTPError as refusal:
                    return refusal.code
                except urllib.error.URLError:  # not listening yet
                    assert gateway.poll() is None
                    time.sleep(0.1)
        finally:
            gateway.terminate()
