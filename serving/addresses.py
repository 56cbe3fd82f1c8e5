"""Resolve and format IP addresses as Triton's flags and clients on this machine need them."""

import ipaddress
import socket

from serving.installation import TritonError

LOOPBACK = {
    "0.0.0.0": "127.0.0.1",
    "::": "::1",
}  # where clients on this machine reach a server that listens on all addresses


def resolve(host: str) -> str:
    """Return the IP address of a host name or address, because Triton's HTTP server can't resolve names.

    Args:
        host: a name, an IPv4 address, or an IPv6 address with or without brackets.

    Raises:
        TritonError: the name can't be resolved.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise TritonError(
            f"--host {host} can't be used ({reason}); give an address of this machine, such as 127.0.0.1, ::1, or "
            "0.0.0.0 for all IPv4 addresses"
        ) from None
    # a name such as localhost may have both families, and callers try IPv4
    address = str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])
    return "0.0.0.0" if address == "::" and not _has_ipv6() else address


def all_of_family(host: str, primary: str | None) -> str:
    """Return the address that metrics bind to, because Triton's metrics server listens on one IP family only.

    Args:
        host: the address that gRPC binds to; gRPC serves both families on `::`.
        primary: an address of the family on which metrics are read, such as the pod's address; None is IPv6.
    """
    return "0.0.0.0" if host == "::" and primary and ":" not in primary else host


def _has_ipv6() -> bool:
    """Return whether the kernel supports IPv6, which can be disabled at boot."""
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        return False
    return True


def url(host: str, port: int) -> str:
    """Return host:port where this machine reaches a server bound to `host`, with an IPv6 address in brackets."""
    host = LOOPBACK.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def loopback(address: str) -> str:
    """Return an IP address if it is a loopback address, else 127.0.0.1, where probes and proxies connect."""
    return address if ipaddress.ip_address(address).is_loopback else "127.0.0.1"


def for_http(address: str) -> str:
    """Return an IP address in the format of Triton's HTTP and metrics servers (libevhtp)."""
    return f"ipv6:{address}" if ":" in address else address


def for_grpc(address: str) -> str:
    """Return an IP address in the format of Triton's gRPC server, which appends the port."""
    return f"[{address}]" if ":" in address else address
