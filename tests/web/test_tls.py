"""Test the gateway over real HTTPS: accepted and rejected callers, and certificate renewal without a restart."""

import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from serving import Triton
from serving.triton import free_ports
from tests.conftest import ROOT, run
from tests.k8s.test_tls import openssl
from tests.serving.test_certificates import Secret, presented


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return Secret(tmp_path)


@contextmanager
def https(secret: Secret, *options: str) -> Iterator[str]:
    """Run `python -m web.gateway` with the certificate of `secret`, and yield its HOST:PORT."""
    port = free_ports("127.0.0.1", {"page": 0})["page"]
    files = ["--tls-certificate", secret.directory / "tls.crt", "--tls-private-key", secret.directory / "tls.key"]
    command = [sys.executable, "-m", "web.gateway", "--port", str(port), "--metrics-port", "0"]
    command += [*map(str, files), *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as gateway:
        try:
            while True:
                try:
                    presented(f"127.0.0.1:{port}")
                    break
                except OSError:  # not listening yet
                    assert gateway.poll() is None
                    time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            assert gateway.poll() is None
            gateway.terminate()


def caller(authority: Path, pair: Path | None = None) -> httpx.Client:
    """Return an HTTP client that trusts AUTHORITY.crt and, if given, presents PAIR.crt."""
    context = ssl.create_default_context(cafile=f"{authority}.crt")
    if pair:
        context.load_cert_chain(f"{pair}.crt", f"{pair}.key")
    return httpx.Client(verify=context, timeout=60)


def status(address: str, authority: Path, pair: Path | None = None) -> int:
    """Return the status of a request over a new connection."""
    with caller(authority, pair) as client:
        return client.get(f"https://{address}/api/openapi.json").status_code


def test_https_answers_callers_who_trust_the_authority_and_rejects_plaintext(secret: Secret, server: Triton) -> None:
    stranger = secret.authority.parent / "stranger"
    openssl(stranger, "another authority")
    with https(secret, "--endpoints", f'["{server.grpc_url}"]') as address:
        with caller(secret.authority) as client:
            answer = client.post(f"https://{address}/api/analyze", files={"text": (None, "Not again!")})
            assert answer.status_code == 200, answer.text
        with pytest.raises(httpx.ConnectError, match="unable to get local issuer certificate"):
            status(address, stranger)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://{address}/api/openapi.json")
        assert status(address, secret.authority) == 200


def test_server_by_default_listens_on_loopback_only(secret: Secret) -> None:
    """Check the default address."""
    with https(secret) as address:
        port = int(address.rpartition(":")[2])
        listening = [one.laddr for one in psutil.net_connections("inet") if one.status == psutil.CONN_LISTEN]
        assert [one.ip for one in listening if one.port == port] == ["127.0.0.1"]


def test_https_serves_a_renewed_certificate_at_once(secret: Secret) -> None:
    with https(secret) as address, caller(secret.authority) as connected:
        assert connected.get(f"https://{address}/api/openapi.json").status_code == 200
        for options in ([], ["-newkey", "rsa:2048"]):  # also with another type of key
            before = secret.certificate
            assert presented(address) == before
            secret.renew(*options)
            assert before != presented(address) == secret.certificate
            assert status(address, secret.authority) == 200
        assert connected.get(f"https://{address}/api/openapi.json").status_code == 200


def test_https_ignores_files_that_do_not_belong_together(secret: Secret) -> None:
    with https(secret) as address:
        before = secret.certificate
        key = secret.directory / "tls.key"
        key.unlink()
        assert presented(address) == before
        pair = secret.issue()
        key.write_bytes(Path(f"{pair}.key").read_bytes())
        assert presented(address) == before
        certificate = secret.directory / "tls.crt"
        certificate.unlink()
        certificate.write_bytes(Path(f"{pair}.crt").read_bytes())
        assert before != presented(address) == secret.certificate


def test_https_with_client_ca_rejects_callers_without_a_certificate(secret: Secret) -> None:
    own, first, second = secret.issue(), *(secret.authority.parent / name for name in ("first", "second"))
    for authority in (first, second):
        openssl(authority, authority.name)
    authorities = secret.authority.parent / "authorities.crt"
    authorities.write_bytes(Path(f"{secret.authority}.crt").read_bytes())
    with https(secret, "--tls-client-ca", str(authorities)) as address:
        assert status(address, secret.authority, own) == 200
        for pair in (None, first):
            with pytest.raises(httpx.TransportError):
                status(address, secret.authority, pair)
        authorities.write_bytes(Path(f"{first}.crt").read_bytes())  # the authority file is renewed as well
        assert status(address, secret.authority, first) == 200
        for pair in (None, own, second):
            with pytest.raises(httpx.TransportError):
                status(address, secret.authority, pair)


def test_gateway_with_conflicting_settings_prints_one_line(secret: Secret) -> None:
    certificate, key = (str(secret.directory / name) for name in ("tls.crt", "tls.key"))
    other = f"{secret.issue()}.key"
    for options, words in (
        (["--tls-certificate", certificate], "go together"),
        (["--tls-private-key", key], "go together"),
        (["--tls-client-ca", certificate], "needs HTTPS"),
        (["--tls-certificate", certificate, "--tls-private-key", f"{key}.none"], "tls_private_key: Path does not"),
        (["--tls-certificate", certificate, "--tls-private-key", other], "can't be used: .*mismatch"),
        (["--tls-certificate", certificate, "--tls-private-key", certificate], "can't be used"),
        (["--metrics-port", "1", "--host", "192.0.2.1"], r"the metrics can't listen on port 1 \(.*--metrics-port"),
    ):
        done = run("-m", "web.gateway", *options)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert re.search(words, done.stderr), done.stderr
