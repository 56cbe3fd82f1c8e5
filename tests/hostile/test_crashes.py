"""Test that requests that crash Triton's HTTP server do not crash the open interfaces, the gateway or the proxy."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.http
import yaml
from tritonclient.utils import InferenceServerException

from serving import Triton
from serving.triton import free_ports
from tests.conftest import ROOT
from tests.hostile import wire
from tests.hostile.crashes import CRASHES
from tests.hostile.test_hostile import concurrent_callers, over_grpc, processes
from tests.k8s.test_balancing import ENVOY

CONFIGURATION = ROOT / "k8s" / "components" / "http" / "envoy.yaml"
TEXT = b"I have been waiting for an hour."


@pytest.fixture(scope="module")
def proxy(target: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the proxy of the component `http` in front of a Triton with other ports, and yield its HOST:PORT."""
    directory = tmp_path_factory.mktemp("proxy")
    port = free_ports("127.0.0.1", {"proxy": 0})["proxy"]
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    (listener,), (cluster,) = (configuration["static_resources"][name] for name in ("listeners", "clusters"))
    listener["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    (group,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = group["lb_endpoints"]
    upstream = endpoint["endpoint"]["address"]["socket_address"]
    assert (upstream["address"], upstream["port_value"]) == ("127.0.0.1", 8000)
    upstream["port_value"] = int(target.http_url.rpartition(":")[2])
    (directory / "envoy.yaml").write_text(yaml.safe_dump(configuration))
    command = [str(ENVOY), "--config-path", str(directory / "envoy.yaml"), "--concurrency", "1"]
    with (directory / "log").open("w") as log:
        options = ["--disable-hot-restart", "--log-level", "warning"]
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
        assert process.poll() is None, (directory / "log").read_text()
    finally:
        process.terminate()
        process.wait(10)


def send_crashing_requests(target: Triton, address: str) -> None:
    """Send all requests while other callers use gRPC, and check that no process ends and all answers are right.

    Two requests are sent at a time, because Triton's metrics server needs almost 1 GiB for a body of so many chunks.
    """
    host, port = address.removeprefix("http://").split(":")
    before = processes(target)

    def send(request: bytes) -> None:
        with contextlib.suppress(OSError):  # the server may close the connection before the request is complete
            wire.run_attack(wire.send(request), (host, int(port)), patience=0.5).close()

    with over_grpc(target) as ask, concurrent_callers(ask), ThreadPoolExecutor(2) as pool:
        list(pool.map(send, CRASHES.values()))
    assert processes(target) == before


@pytest.mark.parametrize("interface", ["gRPC", "metrics"])
def test_crashing_requests_to_an_open_interface_of_triton_crash_nothing(target: Triton, interface: str) -> None:
    send_crashing_requests(target, target.grpc_url if interface == "gRPC" else target.metrics_url)


def test_crashing_requests_to_the_gateway_crash_nothing(target: Triton, front: tuple[psutil.Popen, str]) -> None:
    process, address = front
    send_crashing_requests(target, address)
    assert process.is_running()
    assert httpx.get(f"{address}/api/health").status_code == 200


def test_crashing_requests_to_the_proxy_crash_nothing(target: Triton, proxy: str) -> None:
    send_crashing_requests(target, proxy)
    assert httpx.get(f"http://{proxy}/v2/health/ready").status_code == 200


def test_proxy_answers_as_triton_does(target: Triton, proxy: str, recordings: dict[str, bytes]) -> None:
    """tritonclient gets the same answer with and without the proxy."""
    answers = []
    for url in (proxy, target.http_url):
        with tritonclient.http.InferenceServerClient(url) as client:
            assert client.is_server_ready() and client.is_model_ready("emotion")
            assert client.get_model_metadata("emotion")["name"] == "emotion"
            inputs = []
            for name, data in (("AUDIO", recordings["austen-0890.flac"]), ("TEXT", TEXT)):
                inputs.append(tritonclient.http.InferInput(name, [1, 1], "BYTES"))
                inputs[-1].set_data_from_numpy(np.array([[data]], object))
            answers.append(client.infer("emotion", inputs, timeout=5_000_000).as_numpy("PROBABILITIES"))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "says"),
    [
        ("POST", "/v2/models/vggish/infer", {}, b"{}", 404, "not served here"),
        ("POST", "/v2/models/emotion/../vggish/infer", {}, b"{}", 404, "not served here"),
        ("POST", "/v2/repository/index", {}, b"{}", 404, "not served here"),
        ("GET", "/v2/models/stats", {}, b"", 404, "not served here"),
        ("POST", "/v2/models/emotion/infer", {"Content-Encoding": "gzip"}, b"{}", 415, "compressed"),
        ("POST", "/v2/models/emotion/infer", {}, b" " * 40_000, 413, "at most 16 MiB in all, and 32 KiB of JSON"),
        (
            "POST",
            "/v2/models/emotion/infer",
            {"Inference-Header-Content-Length": "2"},
            b"{}" + bytes(17 << 20),
            413,
            "at most 16 MiB in all",
        ),
    ],
)
def test_proxy_rejects_other_requests_with_a_sentence(
    proxy: str, method: str, path: str, headers: dict[str, str], body: bytes, status: int, says: str
) -> None:
    response = httpx.request(method, f"http://{proxy}{path}", headers=headers, content=body, timeout=30)
    assert response.status_code == status
    assert says in response.json()["error"]


def test_client_raises_the_sentence_of_the_proxy(proxy: str) -> None:
    with (
        tritonclient.http.InferenceServerClient(proxy) as client,
        pytest.raises(InferenceServerException, match="not served here"),
    ):
        client.get_model_metadata("vggish")
