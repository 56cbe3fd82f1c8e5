"""A Triton process as a context manager."""

import contextlib
import ctypes
import os
import platform
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import psutil

from serving import addresses, flags, log
from serving.installation import (
    TritonError,
    check_release,
    environment,
    find_triton,
    http_warning,
    is_shell_safe,
    prepare_backends,
    shell_safe,
)
from serving.repository import SPEECH_REPOSITORY, check_config, check_exports, check_repository, check_speech
from serving.stalls import StallDetector
from stages.loopback import HTTP_URL, get
from stages.triton_metrics import METRICS_URL

__all__ = ["Triton", "TritonError"]

# below Linux's default range for outgoing connections (32768 to 60999), which could take a port before Triton does
FREE_PORTS = range(10_240, 32_768)
READY_TIMEOUT = 300.0  # s; the full-size model takes seconds, a cold network disk more
EXIT_TIMEOUT = 20  # s that Triton gives requests in flight when told to stop; Kubernetes kills after 30 by default
# s, plus or minus a tenth, after which gRPC asks a client to connect anew (calls under way are finished first): clients
# come to know servers that are new, and leave those that are going
CONNECTION_AGE = 20
# What callers need not reach: it is answered only to those who send the key
ADMINISTRATION = ("model-repository", "shared-memory", "statistics", "trace", "logging")
_GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
_SHARED_MEMORY = Path("/dev/shm")
QUIET = 5.0  # s without a connection after which nobody is expected any more
POLL_INTERVAL_S = 0.25  # between two checks of Triton's processes
MAX_FAILED_PROBES = 10  # of the live endpoint in a row, 1 s each: more, and Triton hangs
BROKEN_EXIT_TIMEOUT = 2.0  # s that a Triton with a broken stage gets: what waits for that stage would wait forever


class Triton:
    """Triton serving one model repository.

    `with Triton(repository) as server:` runs the block when every model is ready and stops Triton after it.
    """

    def __init__(
        self,
        repository: str | Path,
        http_port: int = 8000,
        grpc_port: int = 8001,
        metrics_port: int = 8002,
        config: str | None = None,
        host: str = "127.0.0.1",
        log_level: str = "warning",
        arguments: Sequence[str] = (),
        speech: bool = False,
        admin_key: str | None = None,
        expose_http: bool = False,
        open_statistics: bool = False,
        metrics_host: str | None = None,
    ) -> None:
        """
        Args:
            repository: the model repository.
            http_port, grpc_port, metrics_port: 0 takes any free port.
            config: the configuration to take from each model's configs/ directory ("gpu"); None or "default" is
                config.pbtxt.
            host: the address to bind to, IPv4 or IPv6, or a name of it; 0.0.0.0 for all IPv4 addresses, :: for all IPv6
                addresses (over gRPC for IPv4, too).
            log_level: verbose, info, warning or error: what of Triton's log goes to standard error.
            arguments: further tritonserver flags, passed on as they are.
            speech: whether to serve `emotion_speech` too, which recognises what is said.
            admin_key: opens administration and statistics to those who send it; None makes one up.
            expose_http: whether HTTP listens on `host`, too; otherwise on loopback alone, as one request without a key
                can crash Triton 24.10 (CVE-2025-23310).
            open_statistics: whether statistics are read without the key, as perf_analyzer does.
            metrics_host: the address that metrics bind to; None is `host`.
        """
        self.repository = Path(repository)
        self.config = config
        self.host = host
        self.metrics_host = metrics_host or host
        self.log_level = log_level
        self.arguments = tuple(arguments)
        self.speech = speech
        self._repositories = (self.repository, SPEECH_REPOSITORY) if speech else (self.repository,)
        self.expose_http = expose_http
        self.open_statistics = open_statistics
        self._admin_key = admin_key or secrets.token_urlsafe(32)
        self.http_warning: str | None = None  # what is wrong with the exposed HTTP
        self.manifest: dict[str, Any] | None = None
        self.loaded: set[str] = set()  # models, by name; grows during the start
        self._ports = {"HTTP": http_port, "gRPC": grpc_port, "metrics": metrics_port}
        self._log: deque[str] = deque(maxlen=500)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._exit_timeout = flags.exit_timeout(self.arguments, EXIT_TIMEOUT) + 5.0
        self._processes: dict[psutil.Process, str] = {}  # what each is called: Triton, and its Python stages

    @property
    def http_url(self) -> str:
        """host:port of HTTP, as this machine reaches it; an IPv6 address is in brackets."""
        return addresses.url(self._http_host, self._ports["HTTP"])

    @property
    def _http_host(self) -> str:
        """The address that HTTP is bound to."""
        return self.host if self.expose_http else addresses.loopback(self.host)

    @property
    def grpc_url(self) -> str:
        """host:port of gRPC, likewise."""
        return addresses.url(self.host, self._ports["gRPC"])

    @property
    def metrics_url(self) -> str:
        """host:port of Prometheus metrics (path /metrics), likewise."""
        return addresses.url(self.metrics_host, self._ports["metrics"])

    @property
    def admin_headers(self) -> dict[str, str]:
        """What to send over HTTP, or as metadata over gRPC, for administration and statistics."""
        return {"admin-key": self._admin_key, "triton-grpc-protocol-admin-key": self._admin_key}

    @property
    def model_count(self) -> int:
        """The number of models to load."""
        return sum(1 for repository in self._repositories for _ in repository.glob("*/config.pbtxt"))

    @property
    def pid(self) -> int:
        """Of the tritonserver process, which leads a process group of its own."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start Triton and return when every model is ready.

        Raises:
            TritonError: one line that says what is wrong and what to do about it.
        """
        self.manifest = check_repository(self.repository)
        config = check_config(self._repositories, self.config)
        if self.manifest:
            check_exports(self.repository, config)
        if self.speech:
            check_speech()
        installation = find_triton()
        check_release(installation, config)
        if self.expose_http:
            self.http_warning = http_warning(installation)
        self.host, self.metrics_host = addresses.resolve(self.host), addresses.resolve(self.metrics_host)
        self._ports = free_ports(self.host, self._ports, {"HTTP": self._http_host, "metrics": self.metrics_host})
        self._remove_regions()  # of one that was killed together with its launcher, as by a container's memory limit
        try:
            self._scratch = tempfile.TemporaryDirectory(prefix="emoserve-")
            scratch = Path(self._scratch.name)
            if not is_shell_safe(scratch):
                raise TritonError(
                    f"the directory for temporary files {str(scratch.parent)!r} can't be used: Triton needs one "
                    "without spaces and other characters that are special to a shell; set TMPDIR to such a directory"
                )
            repositories = [
                shell_safe(path.resolve(), scratch / f"repository-{number}")
                for number, path in enumerate(self._repositories, start=1)
            ]
            backends = prepare_backends(installation, scratch / "backends")
        except OSError as error:
            # shutil lists what it could not copy, and why
            reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
            raise TritonError(
                f"temporary files can't be written ({reason}); make room for 2 MiB in /tmp, or in what TMPDIR names"
            ) from None
        command = [
            str(installation.binary),
            *(f"--model-repository={repository}" for repository in repositories),
            f"--backend-directory={backends}",
            f"--cache-directory={installation.caches}",
            f"--http-address={addresses.for_http(self._http_host)}",
            f"--http-port={self._ports['HTTP']}",
            f"--grpc-address={addresses.for_grpc(self.host)}",
            f"--grpc-port={self._ports['gRPC']}",
            f"--metrics-address={addresses.for_http(self.metrics_host)}",
            f"--metrics-port={self._ports['metrics']}",
            f"--http-restricted-api={self._restricted}:admin-key={self._admin_key}",
            f"--grpc-restricted-protocol={self._restricted}:admin-key={self._admin_key}",
            f"--grpc-max-connection-age={1000 * CONNECTION_AGE}",
            f"--exit-timeout-secs={EXIT_TIMEOUT}",
            "--rate-limit=execution_count",  # the encoders' instance groups say what they share
            *(f"--backend-config={name},shm-region-prefix-name={self._region}" for name in ("python", "onnxruntime")),
            "--metrics-config=summary_latencies=true",  # p99 for those who watch
            # our configurations say everything; completing them would load every model twice
            "--disable-auto-complete-config",
            *([f"--model-config-name={config}"] if config else []),
            *(["--log-verbose=1"] if self.log_level == "verbose" else []),
            *self.arguments,
        ]
        self._process = subprocess.Popen(
            command,
            env=environment(installation)
            | {METRICS_URL: f"http://{self.metrics_url}/metrics", HTTP_URL: self.http_url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us; we tell Triton
            # the kernel means the thread that starts it: others end before this process does
            preexec_fn=_end_with_parent if threading.current_thread() is threading.main_thread() else None,
        )
        self._reader = threading.Thread(target=self._read_log, name="triton-log", daemon=True)
        self._reader.start()
        try:
            self._wait_ready()
            triton = psutil.Process(self.pid)
            self._processes[triton] = "Triton"
            for stage in triton.children():  # whose command line is STUB MODEL/1/FILE ...
                self._processes[stage] = f"a process of model '{Path(stage.cmdline()[1]).parts[-3]}'"
        except BaseException:
            self.stop()
            raise

    def wait(self, timeout: float | None = None) -> int | None:
        """Triton's exit status when it ends, or None if it still runs after `timeout` seconds."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def watch(self) -> NoReturn:
        """Wait until Triton has ended, or can't answer any more.

        Triton itself stays live and ready where a Python stage died (its requests fail from then on), is stopped (they
        fail after a second each, and Triton crashes when it continues), or is stuck in a loop. So this process looks.

        Raises:
            TritonError: in the end; one sentence that says what happened.
        """
        stopped: set[psutil.Process] = set()  # at the check before
        asked, failed_probes, stalls = time.monotonic(), 0, StallDetector()
        while (status := self.wait(POLL_INTERVAL_S)) is None:
            states = {process: _state(process) for process in self._processes}
            now_stopped = {process for process, state in states.items() if state == psutil.STATUS_STOPPED}
            for process, name in self._processes.items():
                if process.pid != self.pid and states[process] in _GONE:
                    raise self._broken(f"{name} died")
                if process in stopped & now_stopped:
                    raise self._broken(f"{name} is stopped")
            stopped = now_stopped
            if time.monotonic() - asked > 1:
                asked = time.monotonic()
                live = _answers(f"http://{self.http_url}/v2/health/live", timeout=1)
                failed_probes = 0 if live else failed_probes + 1
                if failed_probes == MAX_FAILED_PROBES:  # counted and not timed, as machines sleep
                    raise self._broken(f"Triton did not answer {MAX_FAILED_PROBES} times in a row")
                if stuck := stalls.stuck_model(self._metrics()):
                    raise self._broken(f"model '{stuck}' has answered nothing for minutes while requests waited")
        raise TritonError(f"Triton ended by itself with exit status {status}; start it again")

    def drain(self, limit: float) -> None:
        """Go on serving until no client has been connected to gRPC for 5 s, but for `limit` seconds at most.

        Triton refuses requests from the moment when it is told to stop, so callers must have left by then.
        """
        now = time.monotonic()
        end, quiet_since = now + limit, now
        while now < min(end, quiet_since + QUIET) and self.wait(0.25) is None:
            now = time.monotonic()
            if self._is_connected():
                quiet_since = now

    def stop(self) -> None:
        """Stop Triton: requests in flight are finished, and no process is left behind."""
        if self._process is not None:
            self._process.terminate()
            if self.wait(self._exit_timeout) is None:
                self._process.kill()
                self._process.wait()
            with contextlib.suppress(ProcessLookupError):  # stubs whose server was killed with SIGKILL
                os.killpg(self._process.pid, signal.SIGKILL)
            self._remove_regions()
            assert self._reader is not None
            self._reader.join(timeout=5)
        if self._scratch is not None:
            self._scratch.cleanup()

    def __enter__(self) -> "Triton":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _broken(self, what: str) -> TritonError:
        self._exit_timeout = BROKEN_EXIT_TIMEOUT
        return TritonError(f"{what}, so that requests fail; start the server again")

    def _is_connected(self) -> bool:
        """Whether a client is connected to gRPC."""
        return any(
            connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == self._ports["gRPC"]
            for connection in psutil.Process(self.pid).net_connections("tcp")
        )

    @property
    def _restricted(self) -> str:
        """What is answered only to those who send the key, as Triton's flags have it."""
        return ",".join(name for name in ADMINISTRATION if not (self.open_statistics and name == "statistics"))

    @property
    def _region(self) -> str:
        """What the names of its shared memory begin with: no other Triton has this address and port of this machine."""
        address = re.sub("[^0-9a-f]", "-", self.host)
        return f"triton_{platform.node()}_{address}_{self._ports['gRPC']}_"

    def _remove_regions(self) -> None:
        """Remove its shared memory, which outlives a Triton that is killed with SIGKILL."""
        for region in _SHARED_MEMORY.glob(f"{self._region}*"):
            region.unlink(missing_ok=True)

    def _metrics(self) -> str:
        """What Triton counts, in Prometheus' text format; empty where it does not answer."""
        try:
            return get(f"http://{self.metrics_url}/metrics", timeout=1)
        except OSError:
            return ""

    def _read_log(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            line = line.rstrip("\n")
            self._log.append(line)
            if model := log.loaded(line):
                self.loaded.add(model)
            log.relay(line, self.log_level)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while time.monotonic() < deadline:
            if (status := self.wait(0.05)) is not None:
                assert self._reader is not None
                self._reader.join(timeout=5)
                raise TritonError(
                    log.failure(self._log) or f"Triton ended with exit status {status}: {self._last_line()}"
                )
            # Triton opens the port of its metrics last
            if _answers(f"http://{self.http_url}/v2/health/ready", timeout=5) and self._metrics():
                return
        raise TritonError(f"Triton was not ready within {READY_TIMEOUT:.0f} s; its last line: {self._last_line()}")

    def _last_line(self) -> str:
        return next((line for line in reversed(self._log) if line.strip()), "(it said nothing)")


def _end_with_parent() -> None:
    """In Triton's process: have the kernel stop it when ours is killed, or it would keep the ports."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _answers(url: str, timeout: float) -> bool:
    """Whether a health endpoint says yes within `timeout` seconds."""
    try:
        get(url, timeout)
    except OSError:
        return False
    return True


def _state(process: psutil.Process) -> str:
    """As psutil names it; a process that is gone is dead."""
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_DEAD)


def free_ports(host: str, wanted: dict[str, int], other_hosts: Mapping[str, str] | None = None) -> dict[str, int]:
    """Return the ports to use by protocol: each the one wanted, or any free one where that is 0.

    Args:
        host: the IP address to bind to.
        wanted: ports by protocol.
        other_hosts: addresses of the protocols that are bound to another one than `host`.

    Raises:
        TritonError: a port is taken. Triton itself would share its gRPC port with another server in silence.
    """
    found: dict[str, int] = {}
    sockets: list[socket.socket] = []
    try:
        for protocol, port in wanted.items():
            address = (other_hosts or {}).get(protocol, host)
            for candidate in [port] if port else random.SystemRandom().sample(FREE_PORTS, 100):
                probe = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
                sockets.append(probe)
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((address, candidate))
                    probe.listen()  # or SO_REUSEADDR would let two protocols have one port
                    break
                except (OSError, OverflowError) as error:
                    reason = error.strerror if isinstance(error, OSError) else "ports go from 0 to 65535"
            else:
                raise TritonError(
                    f"{protocol} port {port} on {address} can't be used ({reason}); choose another with "
                    f"--{protocol.lower()}-port, or 0 for any free one"
                )
            found[protocol] = probe.getsockname()[1]
    finally:
        for probe in sockets:
            probe.close()
    return found
