"""Certificates that are renewed: Triton reads them at its start only, so it must be started anew."""

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

FLAGS = ("--grpc-server-cert", "--grpc-server-key", "--grpc-root-cert")  # of tritonserver
SPREAD = 3600.0  # s within which the replicas of a server start anew; certificates are renewed days before their end
POLL_INTERVAL_S = 2.0  # between two checks of the files
READINESS_LAG_S = 30.0  # until readiness probes have failed three times, 5 s apart, and callers' addresses are updated


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Renewal:
    """Tells this process to stop, as SIGTERM does, after the certificates of its Triton were renewed.

    Attributes:
        due: set when that is the reason to stop.
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
        """
        Args:
            arguments: tritonserver's flags, which name the files.
            spread: the stop comes this many seconds later at most, at random, as all replicas see a renewal at once.
            delay: seconds that are added to it, in which somebody else may restart this server.
            not_ready_file: written before the stop, for readiness probes that look for it; None where nobody does.
            sleep, stop: how to wait for seconds, and how to stop this process; tests inject theirs.
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
        """Watch from here on, in a thread of its own, where there are certificates."""
        if self._served:
            threading.Thread(target=self._run, name="certificates", daemon=True).start()

    def _run(self) -> None:
        self._wait()
        self.restart()

    def restart(self) -> None:
        """Stop when the delay is over: first readiness ends, and when no new callers come, SIGTERM starts the drain."""
        seconds = self._delay + random.uniform(0, self._spread)
        print(
            f"certificates were renewed: this server ends in {seconds:.0f} s, to be started anew with them", flush=True
        )
        self._sleep(seconds)
        if self._not_ready_file:
            with contextlib.suppress(OSError):  # without the file callers leave later, while it drains
                self._not_ready_file.touch()
            self._sleep(READINESS_LAG_S)
        self.due.set()
        self._stop()

    def _wait(self) -> None:
        """Return when the files are others than those that are served, complete and of use."""
        seen = refused = self._served
        while True:
            time.sleep(POLL_INTERVAL_S)
            before, seen = seen, self._read()
            if seen != before or seen in (None, self._served, refused):  # at first they may be half exchanged
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
                refused = seen

    def _read(self) -> list[bytes] | None:
        """The contents of the files, or None where one can't be read."""
        paths = filter(None, (self._certificate, self._key, self._authority))
        try:
            return [Path(path).read_bytes() for path in paths]
        except OSError:
            return None

    def _check(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self._certificate:
            context.load_cert_chain(self._certificate, self._key, password="")  # never asks a terminal for one
        if self._authority:
            context.load_verify_locations(self._authority)
