"""Replicas of the server as Kubernetes runs them: each has its own files, and is restarted when it ends."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import psutil
from emotion_client import EmotionClient, EmotionError

from benchmarks.processes import HOST, ROOT
from serving.triton import free_ports
from stages.triton_metrics import MetricsReader

RESTART_DELAY_S = 0.5
HEALTHY_TIMEOUT_S = 90.0
MOUNT_SIZE = "256m"  # of a replica's own /dev/shm and /tmp
CGROUP_V1 = Path("/sys/fs/cgroup/memory")


class BrokenPromise(Exception):
    """A promise was not kept; the message is one phrase."""


class FaultSkipped(Exception):
    """A fault cannot be injected on this machine; the message is one phrase."""


class Replica:
    """`python -m serving` on fixed ports with a supervisor, while the `with` block runs.

    Attributes:
        directory: everything that it has of its own; not below /tmp, which a replica does not see.
        repository: its copy of the models.
        shm, tmp: its own /dev/shm and /tmp if `mounted`.
        group: cgroup v1 of its processes, if it can be made.
    """

    def __init__(self, source: Path, directory: Path) -> None:
        """Prepare a replica of the models in `source`."""
        self.directory, self.repository = directory, directory / "repository"
        self.shm, self.tmp, self._log = directory / "shm", directory / "tmp", directory / "log"
        self.group = CGROUP_V1 / f"emoserve-{os.getpid()}-{directory.name}"
        self.admin_key = secrets.token_urlsafe(32)
        self.mounted = False
        self._source = source
        self._ports = free_ports(HOST, {"http": 0, "grpc": 0, "metrics": 0})
        self._launcher: psutil.Popen | None = None
        self._wanted, self._over = threading.Event(), threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name=f"supervisor of {directory.name}")

    @property
    def endpoint(self) -> str:
        """HOST:PORT of gRPC."""
        return f"{HOST}:{self._ports['grpc']}"

    @property
    def http(self) -> tuple[str, int]:
        """Host and port of HTTP."""
        return HOST, self._ports["http"]

    @property
    def launcher(self) -> psutil.Popen:
        """The process that was started last."""
        assert self._launcher is not None
        return self._launcher

    def process(self, name: str) -> psutil.Process:
        """Return a process by name: "Triton", or the model whose stage it runs."""
        part = "tritonserver" if name == "Triton" else f"{name}/1/"
        return next(one for one in self.launcher.children(recursive=True) if part in " ".join(one.cmdline()[:2]))

    def restore(self) -> None:
        """Make its copy of the models what it was."""
        shutil.copytree(self._source, self.repository, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))

    def is_healthy(self) -> bool:
        """Return whether it answers an utterance."""
        try:
            with EmotionClient(self.endpoint, retries=False, deadline=3) as client:
                client.analyze(text="hello there")
        except EmotionError:
            return False
        return True

    def until_healthy(self, since: float, last: int | None = None) -> float:
        """Wait until it answers, after a restart if `last` is given.

        Args:
            since: s on the clock of time.monotonic().
            last: process id of the launcher that must be gone.

        Returns:
            Seconds since then.
        """
        while self.launcher.pid == last or not self.is_healthy():
            if time.monotonic() > since + HEALTHY_TIMEOUT_S:
                message = f"it was not healthy within {HEALTHY_TIMEOUT_S:.0f} s; its last line: {self.last_line()}"
                raise BrokenPromise(message)
            time.sleep(0.1)
        return time.monotonic() - since

    def restarts(self, because: Callable[[], object]) -> float:
        """Break it with `because` and return the seconds until it was restarted and answered."""
        last, since = self.launcher.pid, time.monotonic()
        because()
        return self.until_healthy(since, last)

    def check_undisturbed(self, last: int) -> None:
        """Raise BrokenPromise if it was restarted since its launcher was `last`, or does not answer."""
        if self.launcher.pid != last:
            raise BrokenPromise(f"it was restarted: {self.last_line()}")
        if not self.is_healthy():
            raise BrokenPromise("it does not answer")

    def hold(self) -> None:
        """Kill all its processes, and do not restart it."""
        self._wanted.clear()
        for one in [self.launcher, *self.launcher.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()

    def release(self) -> None:
        """Restart it after `hold`."""
        self._wanted.set()

    def answered(self) -> float:
        """Return how many requests it answered since its last start."""
        read = MetricsReader(f"http://{HOST}:{self._ports['metrics']}/metrics")
        return read().get(("request_success", "emotion"), 0.0)

    def log_lines(self) -> list[str]:
        """Return its output over all its starts."""
        return self._log.read_text(errors="replace").splitlines() if self._log.exists() else []

    def last_line(self) -> str:
        """Return the last line of its output."""
        return (self.log_lines() or ["(no output)"])[-1]

    def __enter__(self) -> "Replica":
        for place in (self.directory, self.shm, self.tmp):
            place.mkdir()
        self.restore()
        if can_mount():
            for place in (self.shm, self.tmp):
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MOUNT_SIZE}", "emoserve", place], check=True)
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

    def _supervise(self) -> None:
        with self._log.open("a") as log:
            while self._wanted.wait() and not self._over.is_set():
                self._start(log)
                self.launcher.wait()
                self._over.wait(RESTART_DELAY_S)

    def _start(self, log: IO[str]) -> None:
        ports = [part for name, port in self._ports.items() for part in (f"--{name}-port", str(port))]
        command = [sys.executable, "-m", "serving", "--repository", str(self.repository), *ports]
        if self.group.is_dir():
            command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.group), *command]
        if self.mounted:  # exec and unshare keep the process id
            bind = 'mount --bind "$0/shm" /dev/shm && mount --bind "$0/tmp" /tmp && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", bind, str(self.directory), *command]
        environment = os.environ | {"EMOSERVE_ADMIN_KEY": self.admin_key}
        self._launcher = psutil.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def can_mount() -> bool:
    """Return whether this user may mount file systems in a mount namespace of a process."""
    if ROOT.is_relative_to("/tmp"):  # which a replica would not see
        return False
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
