"""Restart the server when its TLS certificates are renewed, because Triton reads them only at its start."""

import argparse
import contextlib
import os
import random
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

FLAGS = ("--grpc-server-cert", "--grpc-server-key", "--grpc-root-cert")  # tritonserver's flags that name the files
SPREAD_S = 3600.0  # replicas restart within this time; certificates are renewed days before they expire
POLL_INTERVAL_S = 2.0  # between two checks of the files
READINESS_LAG_S = 30.0  # for three failed readiness probes, 5 s apart, and the update of the callers' addresses


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class CertificateWatcher:
    """Watches the certificates of this process's Triton, and stops the process after a renewal as SIGTERM does.

    Attributes:
        due: set if a renewal is the reason of the stop.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        spread: float,
        delay: float = 0.0,
        not_ready_file: str | Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
        stop: Callable[[], None] = _terminate,
    ) -> None:
        """Read the current certificates, and remove a not-ready file of an earlier process.

        Args:
            arguments: tritonserver's flags, which name the files.
            spread: longest random delay of the stop in seconds, because all replicas see a renewal at the same time.
            delay: additional delay in seconds, for example for a rolling restart that comes first.
            not_ready_file: file that is written before the stop, for readiness probes that check it; None for no file.
            sleep: waits for a number of seconds; tests inject their own.
            stop: stops this process; tests inject their own.
        """
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for flag in FLAGS:
            parser.add_argument(flag)
        self._certificate, self._key, self._authority = vars(parser.parse_known_args(arguments)[0]).values()
        self._spread = spread
        self._delay = delay
        self._not_ready_file = Path(not_ready_file) if not_ready_file else None
        self._sleep = sleep
        self._stop = stop
        if self._not_ready_file:
            self._not_ready_file.unlink(missing_ok=True)  # a pod's volumes outlive its containers
        self._served = self._read()
        self.due = threading.Event()

    def start(self) -> None:
        """Start to watch the files in a thread, if Triton's flags name certificates."""
        if self._served:
            threading.Thread(target=self._run, name="certificates", daemon=True).start()

    def _run(self) -> None:
        self._wait()
        self.restart()

    def restart(self) -> None:
        """Wait for the delay, end readiness so that no new callers connect, and stop the process (it drains first)."""
        seconds = self._delay + random.uniform(0, self._spread)
        print(f"certificates were renewed: this server stops in {seconds:.0f} s, to be restarted with them", flush=True)
        self._sleep(seconds)
        if self._not_ready_file:
            with contextlib.suppress(OSError):  # without the file, callers leave during the drain
                self._not_ready_file.touch()
            self._sleep(READINESS_LAG_S)
        self.due.set()
        self._stop()

    def _wait(self) -> None:
        """Block until the files have changed and can be loaded; warn about changed files that can't be loaded."""
        seen = rejected = self._served
        while True:
            time.sleep(POLL_INTERVAL_S)
            before, seen = seen, self._read()
            if seen != before or seen in (None, self._served, rejected):  # the files may be in the middle of an update
                continue
            try:
                self._check()
                return
            except OSError as error:
                print(
                    f"warning: the certificates have changed, but can't be used ({error}); the old ones are served",
                    file=sys.stderr,
                    flush=True,
                )
                rejected = seen

    def _read(self) -> list[bytes] | None:
        """Return the contents of the files, or None if a file can't be read."""
        paths = filter(None, (self._certificate, self._key, self._authority))
        try:
            return [Path(path).read_bytes() for path in paths]
        except OSError:
            return None

    def _check(self) -> None:
        """Load the files as a server does.

        Raises:
            OSError: a file can't be parsed, or the key does not belong to the certificate.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self._certificate:
            context.load_cert_chain(
                self._certificate, self._key, password=""
            )  # an empty password, so that OpenSSL does not ask on the terminal
        if self._authority:
            context.load_verify_locations(self._authority)
