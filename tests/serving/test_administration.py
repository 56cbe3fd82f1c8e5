"""Administration of Triton: requests that change a server, or show data of other callers, need the admin key."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import psutil
import pytest
from tritonclient.grpc import InferenceServerClient, service_pb2
from tritonclient.utils import InferenceServerException

from serving import Triton
from tests.conftest import ROOT

Call = Callable[[InferenceServerClient, dict[str, str] | None], Any]

GRPC_CALLS: dict[str, Call] = {
    "statistics": lambda client, key: client.get_inference_statistics(headers=key),
    "list models": lambda client, key: client.get_model_repository_index(headers=key),
    "load a model": lambda client, key: client.load_model("emotion", headers=key),
    "unload a model": lambda client, key: client.unload_model("emotion", headers=key),
    "read log settings": lambda client, key: client.get_log_settings(headers=key),
    "change log settings": lambda client, key: client.update_log_settings({"log_verbose_level": 0}, headers=key),
    "read trace settings": lambda client, key: client.get_trace_settings(headers=key),
    "change trace settings": lambda client, key: client.update_trace_settings(
        settings={"trace_level": ["OFF"]}, headers=key
    ),
    "list shared memory": lambda client, key: client.get_system_shared_memory_status(headers=key),
    "register shared memory": lambda client, key: client.register_system_shared_memory(
        "region", "/nobody-made-this", 8, headers=key
    ),
    "unregister shared memory": lambda client, key: client.unregister_system_shared_memory(headers=key),
    "list GPU memory": lambda client, key: client.get_cuda_shared_memory_status(headers=key),
    "register GPU memory": lambda client, key: client.register_cuda_shared_memory("region", b"", 0, 8, headers=key),
    "unregister GPU memory": lambda client, key: client.unregister_cuda_shared_memory(headers=key),
}
HTTP_REQUESTS: list[tuple[str, Any]] = [  # (path, body of a POST or None)
    ("/v2/models/stats", None),
    ("/v2/models/emotion/stats", None),
    ("/v2/models/emotion/versions/1/stats", None),
    ("/v2/repository/index", {}),
    ("/v2/repository/models/emotion/load", {}),
    ("/v2/repository/models/emotion/unload", {}),
    ("/v2/logging", None),
    ("/v2/logging", {"log_verbose_level": 1}),
    ("/v2/trace/setting", None),
    ("/v2/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_file": "/tmp/nobody-made-this"}),
    ("/v2/models/emotion/trace/setting", None),
    ("/v2/models/emotion/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
    ("/v2/systemsharedmemory/status", None),
    ("/v2/systemsharedmemory/region/region/status", None),
    ("/v2/systemsharedmemory/region/region/register", {"key": "/nobody-made-this", "offset": 0, "byte_size": 8}),
    ("/v2/systemsharedmemory/region/region/unregister", {}),
    ("/v2/systemsharedmemory/unregister", {}),
    ("/v2/cudasharedmemory/status", None),
    ("/v2/cudasharedmemory/region/region/status", None),
    (
        "/v2/cudasharedmemory/region/region/register",
        {"raw_handle": {"b64": ""}, "device_id": 0, "byte_size": 8},
    ),
    ("/v2/cudasharedmemory/region/region/unregister", {}),
    ("/v2/cudasharedmemory/unregister", {}),
]
OPEN_METHODS = {
    *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig"),
    *("ModelInfer", "ModelStreamInfer"),
}
OPEN_PATHS = ("/v2/health/live", "/v2/health/ready", "/v2", "/v2/models/emotion", "/v2/models/emotion/ready")


def send(server: Triton, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Return the status and the body of an HTTP answer; a request with a body is a POST."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{server.http_url}{path}", data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("name", GRPC_CALLS)
@pytest.mark.parametrize("key", [None, {"triton-grpc-protocol-admin-key": "guessed"}, {"admin-key": ""}])
def test_grpc_administration_without_key_is_rejected(server: Triton, name: str, key: dict[str, str] | None) -> None:
    with InferenceServerClient(server.grpc_url) as client, pytest.raises(InferenceServerException, match="restricted"):
        GRPC_CALLS[name](client, key)


def test_grpc_every_other_method_without_key_is_rejected(server: Triton) -> None:
    """The methods are all of Triton's interface, including those without a function in tritonclient."""
    (service,) = service_pb2.DESCRIPTOR.services_by_name.values()
    with grpc.insecure_channel(server.grpc_url) as channel:
        for method in {one.name for one in service.methods} - OPEN_METHODS:
            call = channel.unary_unary(f"/{service.full_name}/{method}")
            with pytest.raises(grpc.RpcError, match="restricted"):
                call(b"", timeout=10)


@pytest.mark.parametrize(("path", "body"), HTTP_REQUESTS)
@pytest.mark.parametrize("key", [None, {"admin-key": "guessed"}])
def test_http_administration_without_key_is_rejected(
    server: Triton, path: str, body: Any, key: dict[str, str] | None
) -> None:
    status, answer = send(server, path, body, key)
    assert status == 403
    assert "restricted" in answer


@pytest.mark.parametrize("path", OPEN_PATHS)
def test_http_for_callers_and_probes_needs_no_key(server: Triton, path: str) -> None:
    assert send(server, path)[0] == 200


def test_grpc_health_check_of_a_kubernetes_probe_returns_serving(server: Triton) -> None:
    with grpc.insecure_channel(server.grpc_url) as channel:
        answer = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
    assert answer == b"\x08\x01"  # HealthCheckResponse(status=SERVING)


def test_server_by_default_listens_on_loopback_only(server: Triton) -> None:
    """The server was started without an address."""
    sockets = psutil.Process(server.pid).net_connections("inet")
    # gRPC binds IPv4 addresses as mapped IPv6 addresses
    listening = [one.laddr.ip.removeprefix("::ffff:") for one in sockets if one.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}


def test_administration_with_key_is_answered(server: Triton) -> None:
    assert send(server, "/v2/models/stats", headers=server.admin_headers)[0] == 200
    with InferenceServerClient(server.grpc_url) as client:
        assert client.get_inference_statistics(headers=server.admin_headers).model_stats


def test_model_control_with_key_is_rejected(server: Triton) -> None:
    with InferenceServerClient(server.grpc_url) as client:
        for name in ("load a model", "unload a model"):
            with pytest.raises(InferenceServerException, match="not allowed"):
                GRPC_CALLS[name](client, server.admin_headers)
        assert client.is_model_ready("emotion")


def test_admin_key_of_each_server_is_unique(repository: Any) -> None:
    made = {Triton(repository).admin_headers["admin-key"] for _ in range(3)}
    assert len(made) == 3
    assert min(map(len, made)) >= 43  # 256 bits
    assert Triton(repository, admin_key="given").admin_headers["admin-key"] == "given"


def test_security_page_names_existing_tests() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text()))
    defined = re.findall(r"^def (test_\w+)\(", "".join(path.read_text() for path in ROOT.glob("tests/**/*.py")), re.M)
    assert len(named) >= 15
    assert not named - set(defined)
