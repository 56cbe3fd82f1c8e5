"""Find out which proxy is used to reach the servers, and why none of them can be connected to."""

import contextlib
import ipaddress
import os
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

_CONNECT_TIMEOUT_S = 0.1
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # environment variables, in gRPC's order
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def is_on_this_machine(endpoint: str) -> bool:
    """Return whether HOST:PORT is a loopback address or localhost."""
    host = _host(endpoint)
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def used_proxy(endpoints: Sequence[str]) -> str | None:
    """Return a phrase that names the proxy that gRPC uses for these servers, or None if it uses none."""
    if all(map(is_on_this_machine, endpoints)):
        return None
    variable = next((name for name in _PROXIES if os.environ.get(name)), None)
    if variable is None:
        return None
    exceptions = next((os.environ[name] for name in _EXCEPTIONS if os.environ.get(name)), "")
    suffixes = [each.strip() for each in exceptions.split(",") if each.strip()]
    hosts = [_host(endpoint) for endpoint in endpoints]
    if all(any(host.endswith(suffix) for suffix in suffixes) for host in hosts):
        return None
    parts = urlsplit(os.environ[variable])
    address = parts.netloc.rpartition("@")[2] or os.environ[variable].rpartition("@")[2]  # without credentials
    return (
        f"through the proxy {address} of the environment variable {variable}; to connect directly, set "
        f"no_proxy={','.join(hosts)}"
    )


def why_unreachable(endpoints: Sequence[str]) -> str | None:
    """Return why no server accepts connections, such as "Connection refused"; None if one does or if it is unknown.

    Only IP addresses and localhost are tried, because looking up a name may take seconds.
    """
    reason = None
    for endpoint in endpoints:
        if not _is_address(_host(endpoint)):
            return None
        try:
            with socket.create_connection((_host(endpoint), int(endpoint.rpartition(":")[2])), _CONNECT_TIMEOUT_S):
                return None
        except TimeoutError:
            return None  # a slow server is not unreachable
        except OSError as error:
            reason = error.strerror or str(error)
    return reason


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return host == "localhost"


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].strip("[]")
