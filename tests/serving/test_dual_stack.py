"""`python -m serving` in a pod with IPv4 and IPv6 addresses."""

import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from emotion_client import EmotionClient

from serving import addresses
from serving.addresses import all_of_family, resolve
from serving.triton import Triton
from tests.conftest import launched

ANY_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


@pytest.mark.parametrize(
    ("host", "primary", "bound"),
    [
        ("::", "10.0.0.7", "0.0.0.0"),
        ("::", "fd00::7", "::"),
        ("::", None, "::"),
        ("0.0.0.0", "fd00::7", "0.0.0.0"),
        ("127.0.0.1", "10.0.0.7", "127.0.0.1"),
    ],
)
def test_all_of_family_follows_the_primary_address(host: str, primary: str | None, bound: str) -> None:
    assert all_of_family(host, primary) == bound


def test_resolve_without_ipv6_in_the_kernel_returns_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_has_ipv6", lambda: False)
    assert resolve("::") == "0.0.0.0"
    assert resolve("::1") == "::1"


def test_metrics_host_is_the_host_by_default(tmp_path: Path) -> None:
    assert Triton(tmp_path, host="::").metrics_url == "[::1]:8002"
    assert Triton(tmp_path, host="::", metrics_host="0.0.0.0").metrics_url == "127.0.0.1:8002"


def test_primary_address_that_is_invalid_is_rejected() -> None:
    command = [sys.executable, "-m", "serving", "--primary-address", "pod-7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "argument --primary-address: invalid ip_address value: 'pod-7'" in done.stderr


def test_server_in_a_dual_stack_pod_answers_on_both_families(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variables are those of k8s/base."""
    monkeypatch.setenv("EMOSERVE_TRITON_HOST", "::")
    monkeypatch.setenv("EMOSERVE_PRIMARY_ADDRESS", "10.0.0.7")
    with launched(repository, "serving", *ANY_PORTS) as (process, ready):
        grpc, http, metrics = re.match(r"ready: gRPC (\S+), HTTP (\S+), metrics (\S+)", ready).groups()  # type: ignore[union-attr]
        port = grpc.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            with EmotionClient(f"{host}:{port}") as client:
                assert client.analyze(text="hello").probabilities
        with urllib.request.urlopen(metrics, timeout=10) as answer:
            assert b"nv_inference" in answer.read()
        (triton,) = (one for one in process.children() if one.name() == "tritonserver")
        listening = {
            connection.laddr.port: connection.laddr.ip
            for connection in psutil.Process(triton.pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {
            int(port): "::",
            int(http.rpartition(":")[2]): "127.0.0.1",
            int(metrics.removesuffix("/metrics").rpartition(":")[2]): "0.0.0.0",
        }
        assert socket.has_dualstack_ipv6()
