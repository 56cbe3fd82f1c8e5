"""Configure the gRPC channel: addresses, load balancing, retries, keep-alive, proxies and TLS."""

import json
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from emotion_client.errors import InvalidInput
from emotion_client.network import is_on_this_machine

_ENDPOINT = re.compile(r"(?P<host>[^\s:/\[\]]+|\[[0-9a-fA-F:.%]+\]):(?P<port>\d{1,5})")
_UNLIMITED = (1 << 31) - 1  # bytes, gRPC's largest value

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # Retry budget: a failed attempt costs a token, an answer returns a tenth of one. gRPC retries while more than half
    # of the tokens are left. A restart with a hundred callers fits; in a long outage calls are soon sent only once.
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.1},
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            # waits 0.2, 0.8, 3.2 and 4 s, each +-20 %: bridges an outage of 6 s (gRPC allows five attempts)
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "backoffMultiplier": 4,
                "maxBackoff": "4s",
                # NOT_FOUND: a stopping Triton has unloaded its models; another server can answer
                "retryableStatusCodes": ["UNAVAILABLE", "NOT_FOUND"],
            },
        }
    ],
}

CHANNEL_ARGS: list[tuple[str, Any]] = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_send_message_length", _UNLIMITED),
    ("grpc.max_receive_message_length", _UNLIMITED),
    # gRPC retries only requests that fit into this buffer; its default of 256 KiB is 8 s of 16 kHz PCM
    ("grpc.per_rpc_retry_buffer_size", _UNLIMITED),
    # Triton closes connections that are pinged more often than every 300 s, which is too slow to detect a lost server.
    # But keep-alive also sets TCP_USER_TIMEOUT to the timeout below, which detects it within 10 s.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC's default is up to 2 minutes between two attempts to reconnect; the last retry must find the server
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
    # gRPC's default is 30 s between two DNS look-ups, such as those of a headless Service
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
]


@dataclass(frozen=True, slots=True)
class TLS:
    """TLS settings of the channel; all files are in PEM format.

    Attributes:
        root_certificates: certificates to trust; None for gRPC's own set.
        private_key: key of the client certificate, if the server asks for one.
        certificate_chain: client certificate, followed by its intermediate certificates.
        server_name: name in the server's certificate, if it is not the host of the endpoint. It is required with
            several endpoints, because the client connects to them by address.
    """

    root_certificates: str | PathLike[str] | None = None
    private_key: str | PathLike[str] | None = None
    certificate_chain: str | PathLike[str] | None = None
    server_name: str | None = None


def connection(endpoints: Sequence[str], tls: TLS | None, retries: bool = True) -> dict[str, Any]:
    """Return the keyword arguments of tritonclient's InferenceServerClient, sync or aio, for `endpoints`.

    Args:
        endpoints: HOST:PORT of each server.
        tls: how to encrypt; None for no encryption.
        retries: whether gRPC retries a call that no server accepted.

    Raises:
        InvalidInput: an endpoint is not HOST:PORT or cannot be resolved, or the TLS settings cannot be used.
    """
    arguments: dict[str, Any] = {"url": _target(endpoints), "channel_args": list(CHANNEL_ARGS)}
    if not retries:
        arguments["channel_args"].append(("grpc.enable_retries", 0))
    if all(is_on_this_machine(endpoint) for endpoint in endpoints):
        arguments["channel_args"].append(("grpc.enable_http_proxy", 0))  # a proxy is only for other machines
    if tls is None:
        return arguments
    if (tls.private_key is None) != (tls.certificate_chain is None):
        raise InvalidInput("private_key and certificate_chain go together: give both or neither")
    if len(endpoints) > 1 and tls.server_name is None:
        raise InvalidInput("TLS with several endpoints needs server_name: give the name in their certificates")
    if tls.server_name is not None:
        arguments["channel_args"].append(("grpc.ssl_target_name_override", tls.server_name))
    files = {name: getattr(tls, name) for name in ("root_certificates", "private_key", "certificate_chain")}
    for name, path in files.items():
        if path is not None and not Path(path).is_file():
            raise InvalidInput(f"no such file for {name}: {path}; give the path of a PEM file")
    return arguments | files | {"ssl": True}


def _target(endpoints: Sequence[str]) -> str:
    """Return gRPC's target string. One endpoint stays a DNS name, so that gRPC resolves a headless Service again."""
    if not endpoints:
        raise InvalidInput("no endpoint given: give at least one HOST:PORT")
    pairs = [_split(endpoint) for endpoint in endpoints]
    if len(endpoints) == 1:
        return f"dns:///{endpoints[0]}"
    for scheme, family in (("ipv4", socket.AF_INET), ("ipv6", socket.AF_INET6)):
        addresses = [_address(host, port, family) for host, port in pairs]
        if None not in addresses:
            return f"{scheme}:{','.join(address for address in addresses if address)}"
    raise InvalidInput(
        f"cannot resolve all of {', '.join(endpoints)} in one address family, IPv4 or IPv6: check their names"
    )


def _split(endpoint: str) -> tuple[str, str]:
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match["port"]) < 1 << 16:
        raise InvalidInput(f"endpoint {endpoint!r} is not HOST:PORT, such as localhost:8001 (the server's gRPC port)")
    return match["host"].strip("[]"), match["port"]


def _address(host: str, port: str, family: socket.AddressFamily) -> str | None:
    try:
        address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4][0]
    except socket.gaierror:
        return None
    return f"[{address}]:{port}" if family == socket.AF_INET6 else f"{address}:{port}"
