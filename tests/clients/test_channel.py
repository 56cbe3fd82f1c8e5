"""Test the channel: dead and restarted endpoints, several endpoints, proxies and TLS."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from emotion_client import TLS, EmotionClient, EmotionError, EmotionResult, InvalidInput, Unavailable

from tests.clients.conftest import DEAD, RejectingHandler

# 640 KB, more than gRPC's default retry buffer
NOISE = np.random.default_rng(0).uniform(-0.1, 0.1, 160_000).astype(np.float32)


def test_channel_with_a_dead_endpoint_skips_it(server: Any) -> None:
    with EmotionClient([DEAD, server.grpc_url]) as client:
        for _ in range(6):
            assert isinstance(client.analyze(text="hello"), EmotionResult)


def test_channel_without_a_server_raises_unavailable() -> None:
    with (
        EmotionClient(DEAD) as client,
        pytest.raises(Unavailable, match=f"^no server could be reached at {DEAD}: Conn"),
    ):
        client.analyze(text="hello")


def test_channel_uses_a_proxy_for_other_machines_only(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.grpc_url.rpartition(":")[2]
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for endpoints in ([server.grpc_url], [f"localhost:{port}"], [server.grpc_url, server.grpc_url]):
            with EmotionClient(endpoints, deadline=5, retries=False) as client:
                assert isinstance(client.analyze(text="hello"), EmotionResult)
        with EmotionClient("192.0.2.1:8001", deadline=1, retries=False) as client, pytest.raises(EmotionError):
            client.analyze(text="hello")
        connection, _ = proxy.accept()
        with connection:
            assert connection.recv(1024).startswith(b"CONNECT 192.0.2.1:8001 ")


def test_channel_distributes_calls_over_the_endpoints(link: Callable[..., Any]) -> None:
    links = [link(), link()]
    with EmotionClient([each.url for each in links]) as client:
        client.analyze(text="hello")
        time.sleep(0.5)  # until both connections are established
        before = [each.received for each in links]
        for _ in range(10):
            client.analyze(text="x" * 2_000)
    for each, start in zip(links, before, strict=True):
        assert 8_000 < each.received - start < 16_000


def test_call_during_a_restart_is_answered(link: Callable[..., Any]) -> None:
    to_server = link()
    with EmotionClient(to_server.url) as client:
        client.analyze(text="hello")
        to_server.stop()
        threading.Timer(1.0, to_server.start).start()
        start = time.monotonic()
        assert isinstance(client.analyze(NOISE, rate=16_000), EmotionResult)
        assert time.monotonic() - start > 0.9


def test_call_on_a_broken_connection_is_retried_on_another_server(link: Callable[..., Any]) -> None:
    broken, healthy = link(), link()
    with EmotionClient([broken.url, healthy.url]) as client:
        client.analyze(text="hello")
        time.sleep(0.5)
        broken.stall()
        threading.Timer(1.0, broken.stop).start()
        for _ in range(4):  # round-robin: at least one call hangs in the stalled link
            assert isinstance(client.analyze(NOISE, rate=16_000), EmotionResult)


@pytest.mark.parametrize(("retries", "sent"), [(True, 2), (False, 1)])
def test_call_cancelled_by_its_server_is_sent_once_more(serve: Callable[..., str], retries: bool, sent: int) -> None:
    """A server that stops cancels the calls that reach it last."""
    stopping = RejectingHandler(grpc.StatusCode.CANCELLED, "CANCELLED")
    with (
        EmotionClient(serve(stopping), retries=retries) as client,
        pytest.raises(EmotionError, match=r"^the call was cancelled by "),
    ):
        client.analyze(text="hello")
    assert len(stopping.requests) == sent


@pytest.mark.parametrize(
    "endpoint", ["localhost", "http://localhost:8000", "localhost:0", "localhost:99999", ":8001", ""]
)
def test_client_with_a_malformed_endpoint_raises(endpoint: str) -> None:
    with pytest.raises(InvalidInput, match="is not HOST:PORT"):
        EmotionClient(endpoint)


def test_client_with_unresolvable_endpoints_raises() -> None:
    with pytest.raises(InvalidInput, match=r"cannot resolve all of localhost:8001, no\.such\.host\.invalid:8001"):
        EmotionClient(["localhost:8001", "no.such.host.invalid:8001"])
    with pytest.raises(InvalidInput, match="no endpoint given"):
        EmotionClient([])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Create a self-signed certificate for `localhost`, which server and client both present and trust."""
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "certificate.pem", folder / "key.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext"
    command = [*request.split(), "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    return {"root_certificates": chain, "private_key": key, "certificate_chain": chain}


@pytest.fixture
def tls_context(certificate: dict[str, Any]) -> ssl.SSLContext:
    """Return the TLS context of a server that requires a client certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate["root_certificates"])
    context.load_cert_chain(certificate["certificate_chain"], certificate["private_key"])
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    return context


def test_tls_with_a_client_certificate_is_accepted(
    link: Callable[..., Any], tls_context: ssl.SSLContext, certificate: dict[str, Any]
) -> None:
    first, second = link(tls_context), link(tls_context)
    by_name = first.url.replace("127.0.0.1", "localhost")
    with EmotionClient(by_name, tls=TLS(**certificate)) as client:
        assert isinstance(client.analyze(text="hello"), EmotionResult)
    with EmotionClient([first.url, second.url], tls=TLS(**certificate, server_name="localhost")) as client:
        assert isinstance(client.analyze(text="hello"), EmotionResult)
    # without TLS, and without a client certificate
    for wrong in (None, TLS(root_certificates=certificate["root_certificates"])):
        with EmotionClient(by_name, tls=wrong) as client, pytest.raises(Unavailable):
            client.analyze(text="hello")


def test_tls_with_invalid_settings_raises(certificate: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"no such file for root_certificates: missing\.pem"):
        EmotionClient("localhost:8001", tls=TLS("missing.pem"))
    with pytest.raises(InvalidInput, match="give both or neither"):
        EmotionClient("localhost:8001", tls=TLS(private_key=certificate["private_key"]))
    with pytest.raises(InvalidInput, match="needs server_name"):
        EmotionClient(["127.0.0.1:1", "127.0.0.1:2"], tls=TLS())
