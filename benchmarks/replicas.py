"""Replicas of the server as Kubernetes runs them, each in a place of its own and started anew when it ends; a load."""

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import psutil
from emotion_client import EmotionClient, EmotionError, Utterance

from benchmarks.load import ROOT
from serving.triton import free_ports

PAUSE = 0.5  # s from a replica's end to its next start
PATIENCE = 90.0  # s after which a replica is not expected back any more
ROOM = "256m"  # of /dev/shm and of /tmp, where they can be a replica's own
MEMORY = Path("/sys/fs/cgroup/memory")  # where limits on memory are set, in cgroup v1
CALLERS = 256  # that an open loop may have waiting
_ANSWERED = re.compile(r'^nv_inference_request_success{model="emotion",.*} (\S+)', re.MULTILINE)


class Broken(Exception):
    """A promise that was not kept; one phrase."""


class Skipped(Exception):
    """A fault can't be injected here; one phrase."""


class Replica:
    """`python -m serving` on ports that stay, with a supervisor; a context manager.

    Attributes:
        repository: its own copy of the models.
        shm, tmp: its own /dev/shm and /tmp, of 256 MiB, where `mounted`.
    """

    def __init__(self, repository: Path, directory: Path) -> None:
        """
        Args:
            repository: the models, which are copied.
            directory: to be made, not below /tmp, for all that it has of its own.
        """
        self.directory, self.repository = directory, directory / "repository"
        self.shm, self.tmp, self._log = directory / "shm", directory / "tmp", directory / "log"
        self.admin_key = secrets.token_urlsafe(32)
        self.mounted = False
        self.group = MEMORY / f"emoserve-{os.getpid()}-{directory.name}"  # of its processes, for limits on their memory
        self._source = repository
        self._ports = free_ports("127.0.0.1", {"http": 0, "grpc": 0, "metrics": 0})
        self._launcher: psutil.Popen | None = None
        self._wanted, self._over = threading.Event(), threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name=f"supervisor of {directory.name}")

    @property
    def endpoint(self) -> str:
        """HOST:PORT of gRPC."""
        return f"127.0.0.1:{self._ports['grpc']}"

    @property
    def http(self) -> tuple[str, int]:
        """Address of HTTP."""
        return "127.0.0.1", self._ports["http"]

    @property
    def launcher(self) -> psutil.Popen:
        """The process that was started last."""
        assert self._launcher is not None
        return self._launcher

    def process(self, name: str) -> psutil.Process:
        """One by what it does: "launcher", "Triton", or the model whose stage it is."""
        if name == "launcher":
            return self.launcher
        part = "tritonserver" if name == "Triton" else f"{name}/1/"
        return next(one for one in self.launcher.children(recursive=True) if part in " ".join(one.cmdline()[:2]))

    def restore(self) -> None:
        """Make the models in its repository what they were."""
        shutil.copytree(self._source, self.repository, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))

    def is_healthy(self) -> bool:
        """Whether it answers an utterance."""
        try:
            with EmotionClient(self.endpoint, retries=False, deadline=3) as client:
                client.analyze(text="hello there")
        except EmotionError:
            return False
        return True

    def until_healthy(self, since: float, last: int | None = None) -> float:
        """Wait until it answers, started anew where `last` is given.

        Args:
            since: s on the clock of time.monotonic().
            last: process id of the launcher that is to be gone.

        Returns:
            seconds since then.
        """
        while self.launcher.pid == last or not self.is_healthy():
            if time.monotonic() > since + PATIENCE:
                raise Broken(f"it was not healthy again within {PATIENCE:.0f} s; its last line: {self.last_line()}")
            time.sleep(0.1)
        return time.monotonic() - since

    def restarts(self, because: Callable[[], object]) -> float:
        """Do what breaks it, and wait until it was started anew. Returns seconds until it answered again."""
        last, since = self.launcher.pid, time.monotonic()
        because()
        return self.until_healthy(since, last)

    def hold(self) -> None:
        """Kill all its processes, and don't start it anew."""
        self._wanted.clear()
        for one in [self.launcher, *self.launcher.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()

    def release(self) -> None:
        """End a hold."""
        self._wanted.set()

    def answered(self) -> float:
        """How many requests it answered since it was started."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports['metrics']}/metrics", timeout=5) as answer:
            found = _ANSWERED.search(answer.read().decode())
        return float(found[1]) if found else 0.0

    def said(self) -> list[str]:
        """What it wrote to standard error and standard output, over all its starts."""
        return self._log.read_text(errors="replace").splitlines() if self._log.exists() else []

    def last_line(self) -> str:
        """Of what it said."""
        return (self.said() or ["(it said nothing)"])[-1]

    def __enter__(self) -> "Replica":
        for place in (self.directory, self.shm, self.tmp):
            place.mkdir()
        self.restore()
        if can_mount():
            for place in (self.shm, self.tmp):
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "emoserve", place], check=True)
            self.mounted = True
        with contextlib.suppress(OSError):
            self.group.mkdir()
        self._wanted.set()
        self._supervisor.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._wanted.set()
        if self._launcher is not None:
            family = [self._launcher, *self._launcher.children(recursive=True)] if self._launcher.is_running() else []
            self._launcher.terminate()
            _, alive = psutil.wait_procs(family, timeout=30)
            for one in alive:
                one.kill()
        self._supervisor.join()
        if self.mounted:
            for place in (self.shm, self.tmp):
                subprocess.run(["umount", "--lazy", place], check=True)
        with contextlib.suppress(OSError):
            self.group.rmdir()

    def _command(self) -> list[str]:
        ports = [part for name, port in self._ports.items() for part in (f"--{name}-port", str(port))]
        command = [sys.executable, "-m", "serving", "--repository", str(self.repository), *ports]
        if self.group.is_dir():
            command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.group), *command]
        if self.mounted:  # exec and unshare keep the process id
            bind = 'mount --bind "$0/shm" /dev/shm && mount --bind "$0/tmp" /tmp && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", bind, str(self.directory), *command]
        return command

    def _supervise(self) -> None:
        with self._log.open("a") as log:
            while self._wanted.wait() and not self._over.is_set():
                self._start(log)
                self.launcher.wait()
                self._over.wait(PAUSE)

    def _start(self, log: IO[str]) -> None:
        environment = os.environ | {"EMOSERVE_ADMIN_KEY": self.admin_key}
        self._launcher = psutil.Popen(
            self._command(), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def can_mount() -> bool:
    """Whether this user may mount file systems, and give a process a view of its own of them."""
    if ROOT.is_relative_to("/tmp"):  # which a replica would not see
        return False
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


class Steady:
    """An open loop through one client: arrivals at random, at the same mean rate whatever becomes of them."""

    def __init__(self, client: EmotionClient, utterances: Sequence[Utterance], rate: float) -> None:
        """
        Args:
            rate: arrivals per second.
        """
        self._client, self._utterances, self._rate = client, utterances, rate
        self._calls: list[tuple[float, Future[tuple[float, EmotionError | None]]]] = []
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(CALLERS)
        self._thread = threading.Thread(target=self._send, name="steady load")

    def between(self, begin: float, end: float) -> list[tuple[float, EmotionError | None]]:
        """Latency (s, from when it was due) and failure of each request of that time; waits for those under way."""
        return [call.result() for due, call in list(self._calls) if begin <= due < end]

    def __enter__(self) -> "Steady":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self._pool.shutdown()

    def _send(self) -> None:
        chance, due, number = np.random.default_rng(4), time.monotonic(), 0
        while not self._over.wait(max(0.0, due - time.monotonic())):
            utterance = self._utterances[number % len(self._utterances)]
            self._calls.append((due, self._pool.submit(self._call, utterance, due)))
            due, number = due + chance.exponential(1 / self._rate), number + 1

    def _call(self, utterance: Utterance, due: float) -> tuple[float, EmotionError | None]:
        failure = None
        try:
            self._client.analyze(utterance.audio, utterance.text)
        except EmotionError as error:
            failure = error
        return time.monotonic() - due, failure
