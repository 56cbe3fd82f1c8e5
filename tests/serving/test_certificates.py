"""Renewed certificates: `python -m serving` ends, and started anew serves them. Who gets through, before and after."""

import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from emotion_client import TLS, EmotionClient

from serving.certificates import READINESS_LAG_S, Renewal
from tests.conftest import errors, launched
from tests.k8s.test_tls import assert_refused, openssl


class Secret:
    """A directory that looks as the kubelet mounts a Secret: the files are links into one that is exchanged whole.

    Attributes:
        authority: DIR/ca.crt and DIR/ca.key.
    """

    def __init__(self, directory: Path) -> None:
        self.authority = directory / "ca"
        self.directory = directory / "secret"
        self._versions = directory / "versions"
        openssl(self.authority, "authority")
        self.directory.mkdir()
        self._versions.mkdir()
        self.renew()
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (self.directory / name).symlink_to(Path("..data", name))

    def made(self, *options: str) -> Path:
        """A new pair of the authority, as PATH.crt and PATH.key, in a directory of its own."""
        directory = self._versions / str(len(list(self._versions.iterdir())))
        directory.mkdir()
        signed = ["-CA", f"{self.authority}.crt", "-CAkey", f"{self.authority}.key"]
        usage = [
            "-addext",
            "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-addext",
            "extendedKeyUsage=serverAuth,clientAuth",
        ]
        openssl(directory / "tls", "server", *signed, "-addext", "basicConstraints=CA:FALSE", *usage)
        (directory / "ca.crt").write_bytes(self.authority.with_suffix(".crt").read_bytes())
        return directory / "tls"

    def renew(self, *options: str) -> None:
        """Exchange all files for new ones at once, made with these options of openssl."""
        new = self.directory / "..data_tmp"
        new.symlink_to(self.made(*options).parent)
        new.replace(self.directory / "..data")

    @property
    def flags(self) -> list[str]:
        """Of tritonserver, for TLS."""
        return [
            "--grpc-use-ssl=1",
            f"--grpc-server-cert={self.directory / 'tls.crt'}",
            f"--grpc-server-key={self.directory / 'tls.key'}",
        ]

    @property
    def mutual_flags(self) -> list[str]:
        """The same, where callers must show a certificate."""
        return [*self.flags, "--grpc-use-ssl-mutual=1", f"--grpc-root-cert={self.directory / 'ca.crt'}"]

    @property
    def certificate(self) -> str:
        """What a server that reads it now presents."""
        return (self.directory / "tls.crt").read_text()


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return Secret(tmp_path)


@contextmanager
def served(repository: Path, flags: list[str], *options: str, port: int = 0) -> Iterator[tuple[psutil.Popen, str]]:
    """`python -m serving` over TLS, and its gRPC as HOST:PORT."""
    ports = ("--http-port", "0", "--grpc-port", str(port), "--metrics-port", "0")
    with launched(repository, "serving", *ports, *options, "--", *flags) as (process, ready):
        found = re.search(r"gRPC (\S+), ", ready)
        assert found
        yield process, found[1]


def presented(endpoint: str) -> str:
    """The certificate of a server (PEM)."""
    host, port = endpoint.split(":")
    return ssl.get_server_certificate((host, int(port)), timeout=30)


def answered(client: EmotionClient) -> bool:
    return bool(client.analyze(text="hello").probabilities)


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual"])
def test_renewed_certificate_is_served_after_a_restart(repository: Path, secret: Secret, mutual: bool) -> None:
    authority, own, stranger = Path(f"{secret.authority}.crt"), secret.made(), secret.authority.parent / "stranger"
    openssl(stranger, "another authority")
    trusting = TLS(authority, f"{own}.key", f"{own}.crt") if mutual else TLS(authority)

    def tried(endpoint: str) -> str:
        """Who should be answered is, and the others are refused; the certificate that the server presents."""
        with EmotionClient(endpoint, tls=trusting) as client:
            assert answered(client)
        assert_refused(endpoint, None)
        # with --grpc-root-cert Triton sends the authority's certificate, too
        untrusted = (
            "self signed certificate in certificate chain" if mutual else "unable to get local issuer certificate"
        )
        assert_refused(endpoint, TLS(f"{stranger}.crt"), untrusted)
        if mutual:
            assert_refused(endpoint, TLS(authority))
            assert_refused(endpoint, TLS(authority, f"{stranger}.key", f"{stranger}.crt"))
        return presented(endpoint)

    flags = secret.mutual_flags if mutual else secret.flags
    with served(repository, flags, "--renewal-spread", "1", "--drain", "60") as (process, endpoint):
        before = secret.certificate
        assert tried(endpoint) == before
        with EmotionClient(endpoint, tls=trusting) as client:
            assert answered(client)
            secret.renew()
            assert process.stdout.readline().startswith("checkpoint ")
            assert re.match(r"certificates were renewed: this server ends in [01] s", process.stdout.readline())
            assert process.stdout.readline().startswith("draining: ")
            assert answered(client)  # who is connected is served meanwhile
        assert process.wait(60) == 1  # its supervisor is to start it anew
        assert not list(errors(process))
    with served(repository, flags) as (_, endpoint):
        assert before != tried(endpoint) == secret.certificate


def test_files_that_do_not_fit_each_other_leave_the_server_as_it_is(repository: Path, secret: Secret) -> None:
    flags = [part for flag in secret.flags for part in flag.split("=")]  # Triton takes both
    with served(repository, flags, "--renewal-spread", "0") as (process, endpoint):
        before = presented(endpoint)
        key = secret.directory / "tls.key"
        key.unlink()
        key.write_bytes(Path(f"{secret.made()}.key").read_bytes())
        warning = next(errors(process))
        assert re.match(r"warning: the certificates have changed, but can't be used \(.*mismatch", warning)
        assert presented(endpoint) == before
        Path(f"{secret.directory / 'tls.crt'}").unlink()  # nor when one is missing; then both are there
        pair = secret.made()
        key.write_bytes(Path(f"{pair}.key").read_bytes())
        (secret.directory / "tls.crt").write_bytes(Path(f"{pair}.crt").read_bytes())
        assert process.wait(60) == 1


def test_readiness_ends_before_the_drain_of_a_renewal_starts(tmp_path: Path) -> None:
    marker, events = tmp_path / "not-ready", list[tuple[object, bool]]()
    marker.touch()  # of the container before
    renewal = Renewal(
        [],
        spread=0.0,
        delay=86_400.0,
        not_ready_file=marker,
        sleep=lambda seconds: events.append((seconds, marker.exists())),
        stop=lambda: events.append(("stop", marker.exists())),
    )
    assert not marker.exists()
    renewal.restart()
    assert events == [(86_400.0, False), (READINESS_LAG_S, True), ("stop", True)]
    assert renewal.due.is_set()


def test_renewal_without_a_place_for_the_file_stops_all_the_same(tmp_path: Path) -> None:
    stops: list[str] = []
    renewal = Renewal(
        [], 0.0, not_ready_file=tmp_path / "none" / "x", sleep=lambda _: None, stop=lambda: stops.append("stop")
    )
    renewal.restart()
    assert stops == ["stop"]


def test_no_call_is_lost_where_one_of_two_servers_is_renewed(repository: Path, secret: Secret) -> None:
    answers = 0
    with (
        served(repository, secret.flags, "--renewal-spread", "0", "--drain", "2") as (first, one),
        served(repository, secret.flags) as (_, other),  # its turn comes within an hour
        EmotionClient([one, other], tls=TLS(f"{secret.authority}.crt", server_name="localhost")) as client,
    ):

        def renew() -> None:
            secret.renew()
            assert first.wait(60) == 1
            with served(repository, secret.flags, port=int(one.rpartition(":")[2])):
                time.sleep(3)  # calls go to both again

        renewal = threading.Thread(target=renew)
        renewal.start()
        while renewal.is_alive():
            assert answered(client)
            answers += 1
        assert answers > 10
