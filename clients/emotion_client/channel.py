"""How the channel to the server is set up: addresses, load balancing, retries, keep-alive, proxies, TLS."""

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
_UNLIMITED = (1 << 31) - 1  # bytes, gRPC's largest

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # the budget: a failed attempt takes a token, an answer gives a tenth of one; below half of them none is retried.
    # A restart under a hundred callers fits; in a long outage each call soon is one attempt and not five.
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.1},
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            # 0.2, 0.8, 3.2 and 4 s, each 20 % more or less: bridges 6 s of outage (gRPC allows no sixth attempt)
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "backoffMultiplier": 4,
                "maxBackoff": "4s",
                # a Triton that is stopping no longer finds its models; another server does
                "retryableStatusCodes": ["UNAVAILABLE", "NOT_FOUND"],
            },
        }
    ],
}

CHANNEL_ARGS: list[tuple[str, Any]] = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_send_message_length", _UNLIMITED),
    ("grpc.max_receive_message_length", _UNLIMITED),
    # gRPC retries only what still lies in this buffer; its default of 256 KiB is 8 s of 16 kHz PCM
    ("grpc.per_rpc_retry_buffer_size", _UNLIMITED),
    # Triton closes connections that are pinged more often than every 300 s. That is too slow to find a vanished server,
    # but turning keep-alive on also sets TCP_USER_TIMEOUT to the time-out below, and that one does find it.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC would wait up to 2 minutes before it looks again for a server that was gone; the last retry must find it
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
    # and 30 s before it asks again which servers a name stands for, such as a headless Service's
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
]


@dataclass(frozen=True, slots=True)
class TLS:
    """Encrypts the channel; all files are PEM.

    Attributes:
        root_certificates: certificates to trust; None for gRPC's own set.
        private_key: this client's key, where the server asks for one.
        certificate_chain: the certificates that go with the key.
        server_name: the name that the server's certificate must carry, where it is not the endpoint's host; needed
            with several endpoints, which are connected to by address.
    """

    root_certificates: str | PathLike[str] | None = None
    private_key: str | PathLike[str] | None = None
    certificate_chain: str | PathLike[str] | None = None
    server_name: str | None = None


def connection(endpoints: Sequence[str], tls: TLS | None, retries: bool = True) -> dict[str, Any]:
    """The keyword arguments that connect tritonclient's InferenceServerClient, sync or aio, to `endpoints`.

    Args:
        retries: whether gRPC tries a call again that no server took.

    Raises:
        InvalidInput: an endpoint that is not HOST:PORT or can't be resolved, a certificate file that can't be read.
    """
    arguments: dict[str, Any] = {"url": _target(endpoints), "channel_args": list(CHANNEL_ARGS)}
    if not retries:
        arguments["channel_args"].append(("grpc.enable_retries", 0))
    if all(is_on_this_machine(endpoint) for endpoint in endpoints):
        arguments["channel_args"].append(("grpc.enable_http_proxy", 0))  # http_proxy is for others
    if tls is None:
        return arguments
    if (tls.private_key is None) != (tls.certificate_chain is None):
        raise InvalidInput("private_key and certificate_chain go together: give both or neither")
    if len(endpoints) > 1 and tls.server_name is None:
        raise InvalidInput("TLS to several endpoints needs server_name, the name that their certificate carries")
    if tls.server_name is not None:
        arguments["channel_args"].append(("grpc.ssl_target_name_override", tls.server_name))
    files = {name: getattr(tls, name) for name in ("root_certificates", "private_key", "certificate_chain")}
    for name, path in files.items():
        if path is not None and not Path(path).is_file():
            raise InvalidInput(f"no such file for {name}: {path}")
    return arguments | files | {"ssl": True}


def _target(endpoints: Sequence[str]) -> str:
    """gRPC's name of the servers. One endpoint stays a DNS name: gRPC follows a headless Service as it changes."""
    if not endpoints:
        raise InvalidInput("no endpoint given: give at least one HOST:PORT")
    pairs = [_split(endpoint) for endpoint in endpoints]
    if len(endpoints) == 1:
        return f"dns:///{endpoints[0]}"
    for scheme, family in (("ipv4", socket.AF_INET), ("ipv6", socket.AF_INET6)):
        addresses = [_address(host, port, family) for host, port in pairs]
        if None not in addresses:
            return f"{scheme}:{','.join(address for address in addresses if address)}"
    raise InvalidInput(f"cannot resolve all of {', '.join(endpoints)} in one address family, IPv4 or IPv6")


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
