"""IP addresses: how each part of Triton wants them written, and where this machine reaches what is bound to them."""

import ipaddress
import socket

from serving.installation import TritonError

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what to ask where Triton listens on all addresses


def resolve(host: str) -> str:
    """Return the IP address of a host name or address; Triton's HTTP server knows no names, and would bind nowhere.

    Args:
        host: a name, an IPv4 address, or an IPv6 address, with brackets or without.

    Raises:
        TritonError: the name is not known.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no host name"
        raise TritonError(
            f"--host {host} can't be used ({reason}); give an address of this machine, such as 127.0.0.1, ::1, or "
            "0.0.0.0 for all IPv4 addresses"
        ) from None
    address = str(
        min(found, key=lambda one: one[0] != socket.AF_INET)[4][0]
    )  # where localhost is both, callers try IPv4
    return "0.0.0.0" if address == "::" and not _has_ipv6() else address


def all_of_family(host: str, primary: str | None) -> str:
    """Return the address that metrics bind to: Triton's metrics server listens on one IP family only.

    Args:
        host: what gRPC binds to; `::` is both families there.
        primary: an address of the family on which metrics are asked for, such as a pod's; None is IPv6.
    """
    return "0.0.0.0" if host == "::" and primary and ":" not in primary else host


def _has_ipv6() -> bool:
    """Return whether the kernel knows IPv6; some are started without it."""
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
    """Return an IP address if it is a loopback address, else 127.0.0.1, which probes and proxies ask."""
    return address if ipaddress.ip_address(address).is_loopback else "127.0.0.1"


def for_http(address: str) -> str:
    """Return an IP address as Triton's HTTP and metrics servers (libevhtp) want it."""
    return f"ipv6:{address}" if ":" in address else address


def for_grpc(address: str) -> str:
    """Return an IP address as Triton's gRPC server, which appends the port, wants it."""
    return f"[{address}]" if ":" in address else address
