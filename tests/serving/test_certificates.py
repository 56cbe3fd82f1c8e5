"""Renewal of certificates: `python -m serving` stops, and serves the new ones after a restart."""

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

from serving.certificates import READINESS_LAG_S, CertificateWatcher
from tests.conftest import errors, launched
from tests.k8s.test_tls import assert_rejected, openssl


class Secret:
    """A directory like a Secret mounted by the kubelet: its files are links into a directory that is replaced.

    Attributes:
        authority: path of the files of the certificate authority, without .crt and .key.
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

    def issue(self, *options: str) -> Path:
        """Issue a new pair in a new directory, and return its path without .crt and .key."""
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
        """Replace all files at once with new ones."""
        new = self.directory / "..data_tmp"
        new.symlink_to(self.issue(*options).parent)
        new.replace(self.directory / "..data")

    @property
    def flags(self) -> list[str]:
        """The flags of tritonserver for TLS."""
        return [
            "--grpc-use-ssl=1",
            f"--grpc-server-cert={self.directory / 'tls.crt'}",
            f"--grpc-server-key={self.directory / 'tls.key'}",
        ]

    @property
    def mutual_flags(self) -> list[str]:
        """The flags of tritonserver for mutual TLS."""
        return [*self.flags, "--grpc-use-ssl-mutual=1", f"--grpc-root-cert={self.directory / 'ca.crt'}"]

    @property
    def certificate(self) -> str:
        """The certificate (PEM) that a server presents if it starts now."""
        return (self.directory / "tls.crt").read_text()


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return Secret(tmp_path)


@contextmanager
def serving(repository: Path, flags: list[str], *options: str, port: int = 0) -> Iterator[tuple[psutil.Popen, str]]:
    """Run `python -m serving` with TLS, and yield its process and its gRPC address HOST:PORT."""
    ports = ("--http-port", "0", "--grpc-port", str(port), "--metrics-port", "0")
    with launched(repository, "serving", *ports, *options, "--", *flags) as (process, ready):
        found = re.search(r"gRPC (\S+), ", ready)
        assert found
        yield process, found[1]


def presented(endpoint: str) -> str:
    """Return the certificate (PEM) that a server presents."""
    host, port = endpoint.split(":")
    return ssl.get_server_certificate((host, int(port)), timeout=30)


def is_answered(client: EmotionClient) -> bool:
    return bool(client.analyze(text="hello").probabilities)


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual"])
def test_restart_after_a_renewal_serves_the_new_certificate(repository: Path, secret: Secret, mutual: bool) -> None:
    authority, own, stranger = Path(f"{secret.authority}.crt"), secret.issue(), secret.authority.parent / "stranger"
    openssl(stranger, "another authority")
    trusting = TLS(authority, f"{own}.key", f"{own}.crt") if mutual else TLS(authority)

    def check_clients(endpoint: str) -> str:
        """Check that only callers with valid credentials are answered, and return the server's certificate (PEM)."""
        with EmotionClient(endpoint, tls=trusting) as client:
            assert is_answered(client)
        assert_rejected(endpoint, None)
        # with --grpc-root-cert Triton also sends the authority's certificate
        untrusted = (
            "self signed certificate in certificate chain" if mutual else "unable to get local issuer certificate"
        )
        assert_rejected(endpoint, TLS(f"{stranger}.crt"), untrusted)
        if mutual:
            assert_rejected(endpoint, TLS(authority))
            assert_rejected(endpoint, TLS(authority, f"{stranger}.key", f"{stranger}.crt"))
        return presented(endpoint)

    flags = secret.mutual_flags if mutual else secret.flags
    with serving(repository, flags, "--renewal-spread", "1", "--drain", "60") as (process, endpoint):
        before = secret.certificate
        assert check_clients(endpoint) == before
        with EmotionClient(endpoint, tls=trusting) as client:
            assert is_answered(client)
            secret.renew()
            assert process.stdout.readline().startswith("checkpoint ")
            assert re.match(r"certificates were renewed: this server stops in [01] s", process.stdout.readline())
            assert process.stdout.readline().startswith("draining: ")
            assert is_answered(client)  # connected callers are served during the drain
        assert process.wait(60) == 1  # the supervisor restarts it
        assert not list(errors(process))
    with serving(repository, flags) as (_, endpoint):
        assert before != check_clients(endpoint) == secret.certificate


def test_watcher_with_mismatched_files_keeps_the_server_running(repository: Path, secret: Secret) -> None:
    flags = [part for flag in secret.flags for part in flag.split("=")]  # Triton accepts both spellings
    with serving(repository, flags, "--renewal-spread", "0") as (process, endpoint):
        before = presented(endpoint)
        key = secret.directory / "tls.key"
        key.unlink()
        key.write_bytes(Path(f"{secret.issue()}.key").read_bytes())
        warning = next(errors(process))
        assert re.match(r"warning: the certificates have changed, but can't be used \(.*mismatch", warning)
        assert presented(endpoint) == before
        Path(
            f"{secret.directory / 'tls.crt'}"
        ).unlink()  # a missing file changes nothing either; then both files are valid
        pair = secret.issue()
        key.write_bytes(Path(f"{pair}.key").read_bytes())
        (secret.directory / "tls.crt").write_bytes(Path(f"{pair}.crt").read_bytes())
        assert process.wait(60) == 1


def test_restart_ends_readiness_before_the_drain(tmp_path: Path) -> None:
    marker, events = tmp_path / "not-ready", list[tuple[object, bool]]()
    marker.touch()  # left by the previous container
    watcher = CertificateWatcher(
        [],
        spread=0.0,
        delay=86_400.0,
        not_ready_file=marker,
        sleep=lambda seconds: events.append((seconds, marker.exists())),
        stop=lambda: events.append(("stop", marker.exists())),
    )
    assert not marker.exists()
    watcher.restart()
    assert events == [(86_400.0, False), (READINESS_LAG_S, True), ("stop", True)]
    assert watcher.due.is_set()


def test_restart_without_a_writable_not_ready_file_stops(tmp_path: Path) -> None:
    stops: list[str] = []
    watcher = CertificateWatcher(
        [], 0.0, not_ready_file=tmp_path / "none" / "x", sleep=lambda _: None, stop=lambda: stops.append("stop")
    )
    watcher.restart()
    assert stops == ["stop"]


def test_renewal_of_one_of_two_servers_loses_no_call(repository: Path, secret: Secret) -> None:
    answers = 0
    with (
        serving(repository, secret.flags, "--renewal-spread", "0", "--drain", "2") as (first, one),
        serving(repository, secret.flags) as (_, other),  # restarts within an hour, after this test
        EmotionClient([one, other], tls=TLS(f"{secret.authority}.crt", server_name="localhost")) as client,
    ):

        def renew() -> None:
            secret.renew()
            assert first.wait(60) == 1
            with serving(repository, secret.flags, port=int(one.rpartition(":")[2])):
                time.sleep(3)  # calls use both servers again

        thread = threading.Thread(target=renew)
        thread.start()
        while thread.is_alive():
            assert is_answered(client)
            answers += 1
        assert answers > 10
