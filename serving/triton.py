"""Start, watch, drain and stop a Triton process; the class is a context manager."""

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
import sys
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
from serving.auto_config import AUTO, auto_config
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

# below Linux's default range for outgoing connections (32768 to 60999), which could take a port before Triton binds it
FREE_PORTS = range(10_240, 32_768)
READY_TIMEOUT_S = 300.0  # the full-size model loads in seconds; a cold network disk takes longer
EXIT_TIMEOUT_S = 20  # time for requests in flight when Triton stops; Kubernetes kills a pod after 30 s by default
# gRPC closes a connection after this time, plus or minus a tenth, and after its running calls, so that clients find new
# servers and leave stopping ones
MAX_CONNECTION_AGE_S = 20
# Triton's protocols that require the admin key
ADMINISTRATION = ("model-repository", "shared-memory", "statistics", "trace", "logging")
_GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
_SHARED_MEMORY = Path("/dev/shm")
QUIET_S = 5.0  # a drain ends after this time without a connection
POLL_INTERVAL_S = 0.25  # between two checks of Triton's processes
MAX_FAILED_PROBES = 10  # consecutive failed probes of the live endpoint, 1 s each, after which Triton counts as stuck
CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)
CRASH_LOG_LINES = 40  # printed after a crash during the start: the error and the backtrace
BROKEN_EXIT_TIMEOUT_S = 2.0  # exit timeout with a broken stage, because requests for that stage never end


class _StartCrashError(TritonError):
    """Triton ended during its start by a signal of a crash, which a second start seldom repeats."""


class Triton:
    """A Triton process that serves one model repository.

    `with Triton(repository) as server:` runs the block when every model is ready, and stops Triton after it.
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
        """Prepare a server that `start` or a `with` block starts.

        Args:
            repository: the model repository.
            http_port, grpc_port, metrics_port: the ports; 0 is any free port.
            config: name of a configuration in the models' configs/ directories, such as "gpu"; None or "default" is
                config.pbtxt; "auto" is the one that is fastest on this CPU.
            host: IPv4 address, IPv6 address or host name to bind to; 0.0.0.0 is all IPv4 addresses; :: is all IPv6
                addresses and, for gRPC, all IPv4 addresses.
            log_level: lowest level of Triton's log that goes to standard error: verbose, info, warning or error.
            arguments: additional tritonserver flags, passed on unchanged.
            speech: whether to serve `emotion_speech` too, which recognises speech.
            admin_key: the key that administration and statistics require; None for a random key.
            expose_http: whether HTTP listens on `host`. Otherwise it listens on loopback only, because one request
                without a key can crash Triton 24.10 (CVE-2025-23310).
            open_statistics: whether statistics need no key; perf_analyzer reads them without one.
            metrics_host: address that the metrics bind to; None is `host`.
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
        self.http_warning: str | None = None  # why HTTP must not be exposed; set by start()
        self.config_reason: str | None = None  # why `config` was chosen, with "auto"; set by start()
        self.manifest: dict[str, Any] | None = None
        self.loaded: set[str] = set()  # names of the loaded models; grows during the start
        self._ports = {"HTTP": http_port, "gRPC": grpc_port, "metrics": metrics_port}
        self._log: deque[str] = deque(maxlen=500)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._exit_timeout = flags.exit_timeout(self.arguments, EXIT_TIMEOUT_S) + 5.0
        self._processes: dict[psutil.Process, str] = {}  # names of Triton and of its Python processes, for messages

    @property
    def http_url(self) -> str:
        """The address of HTTP as host:port, for clients on this machine; an IPv6 address is in brackets."""
        return addresses.url(self._http_host, self._ports["HTTP"])

    @property
    def _http_host(self) -> str:
        """The address that HTTP is bound to."""
        return self.host if self.expose_http else addresses.loopback(self.host)

    @property
    def grpc_url(self) -> str:
        """The address of gRPC as host:port, for clients on this machine; an IPv6 address is in brackets."""
        return addresses.url(self.host, self._ports["gRPC"])

    @property
    def metrics_url(self) -> str:
        """The address of the Prometheus metrics (path /metrics) as host:port, for clients on this machine."""
        return addresses.url(self.metrics_host, self._ports["metrics"])

    @property
    def admin_headers(self) -> dict[str, str]:
        """The HTTP headers, or gRPC metadata, that administration and statistics require."""
        return {"admin-key": self._admin_key, "triton-grpc-protocol-admin-key": self._admin_key}

    @property
    def model_count(self) -> int:
        """The number of models to load."""
        return sum(1 for repository in self._repositories for _ in repository.glob("*/config.pbtxt"))

    @property
    def pid(self) -> int:
        """The process ID of tritonserver, which leads its own process group."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start Triton and return when every model is ready.

        Triton 24.10 seldom crashes while it starts: one crash is printed to standard error, and Triton starts again.

        Raises:
            TritonError: the start failed; the message is one line with the reason and, if there is one, the remedy.
        """
        self.manifest = check_repository(self.repository)
        if self.config == AUTO:
            self.config, self.config_reason = auto_config(self.repository)
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
        self._remove_regions()  # left by a Triton that was killed with its launcher, for example by the memory limit
        try:
            self._scratch = tempfile.TemporaryDirectory(prefix="emoserve-")
            scratch = Path(self._scratch.name)
            if not is_shell_safe(scratch):
                raise TritonError(
                    f"the directory for temporary files {str(scratch.parent)!r} can't be used: Triton needs a path "
                    "without spaces and other special characters of the shell; set TMPDIR to such a directory"
                )
            repositories = [
                shell_safe(path.resolve(), scratch / f"repository-{number}")
                for number, path in enumerate(self._repositories, start=1)
            ]
            backends = prepare_backends(installation, scratch / "backends")
        except OSError as error:
            # shutil.Error lists (source, destination, reason) of each file
            reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
            raise TritonError(
                f"temporary files can't be written ({reason}); make room for 2 MiB in /tmp, or in the directory that "
                "TMPDIR names"
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
            f"--grpc-max-connection-age={1000 * MAX_CONNECTION_AGE_S}",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            "--rate-limit=execution_count",  # makes the encoders take turns as their rate_limiter says
            *(f"--backend-config={name},shm-region-prefix-name={self._region}" for name in ("python", "onnxruntime")),
            "--metrics-config=summary_latencies=true",  # publishes p99
            # our configurations are complete, and auto-completion would load every model twice
            "--disable-auto-complete-config",
            *([f"--model-config-name={config}"] if config else []),
            *(["--log-verbose=1"] if self.log_level == "verbose" else []),
            *self.arguments,
        ]
        variables = environment(installation)
        variables |= {METRICS_URL: f"http://{self.metrics_url}/metrics", HTTP_URL: self.http_url}
        try:
            try:
                self._launch(command, variables)
            except _StartCrashError as error:
                print(f"warning: {error}; the end of its log follows, and Triton is started again", file=sys.stderr)
                print(*list(self._log)[-CRASH_LOG_LINES:], sep="\n", file=sys.stderr, flush=True)
                self._end()
                self._log.clear()
                self.loaded.clear()
                self._launch(command, variables)
            triton = psutil.Process(self.pid)
            self._processes[triton] = "Triton"
            for stage in triton.children():  # their command line is STUB MODEL/1/FILE ...
                self._processes[stage] = f"a process of model '{Path(stage.cmdline()[1]).parts[-3]}'"
        except BaseException:
            self.stop()
            raise

    def _launch(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        """Run tritonserver and wait until it is ready.

        Raises:
            TritonError: it ended or was not ready in time; `_StartCrashError` if it crashed.
        """
        self._process = subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process only, which stops Triton
            # the signal comes when the starting thread ends, so only the main thread is safe
            preexec_fn=_end_with_parent if threading.current_thread() is threading.main_thread() else None,
        )
        self._reader = threading.Thread(target=self._read_log, name="triton-log", daemon=True)
        self._reader.start()
        self._wait_ready()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for Triton to end, and return its exit status, or None if it still runs after `timeout` seconds."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def watch(self) -> NoReturn:
        """Wait until Triton has ended or can't answer any more.

        Triton's health endpoints report live and ready even if a Python stage is dead (its requests fail), stopped (its
        requests fail after a second each, and Triton crashes when it continues) or stuck in a loop. So this method
        checks the processes and the metrics.

        Raises:
            TritonError: always, at the end; the message is one sentence with the reason.
        """
        stopped: set[psutil.Process] = set()  # processes that were stopped at the previous check
        asked, failed_probes, stalls = time.monotonic(), 0, StallDetector()
        while (status := self.wait(POLL_INTERVAL_S)) is None:
            states = {process: _state(process) for process in self._processes}
            now_stopped = {process for process, state in states.items() if state == psutil.STATUS_STOPPED}
            for process, name in self._processes.items():
                if process.pid != self.pid and states[process] in _GONE:
                    raise self._failure(f"{name} died")
                if process in stopped & now_stopped:
                    raise self._failure(f"{name} is stopped")
            stopped = now_stopped
            if time.monotonic() - asked > 1:
                asked = time.monotonic()
                live = _is_healthy(f"http://{self.http_url}/v2/health/live", timeout=1)
                failed_probes = 0 if live else failed_probes + 1
                if failed_probes == MAX_FAILED_PROBES:  # a count and not a time, because a machine may sleep
                    raise self._failure(f"Triton failed {MAX_FAILED_PROBES} health probes in a row")
                if stuck := stalls.stuck_model(self._metrics()):
                    raise self._failure(f"model '{stuck}' has ended no batch for minutes while requests waited")
        raise TritonError(f"Triton ended unexpectedly with exit status {status}; start it again")

    def drain(self, limit: float) -> None:
        """Continue to serve until no client has been connected to gRPC for QUIET_S, at most for `limit` seconds.

        Triton rejects requests as soon as it stops, so callers must leave before.
        """
        now = time.monotonic()
        end, quiet_since = now + limit, now
        while now < min(end, quiet_since + QUIET_S) and self.wait(0.25) is None:
            now = time.monotonic()
            if self._is_connected():
                quiet_since = now

    def stop(self) -> None:
        """Stop Triton after its requests in flight, and leave no process, shared memory or temporary file behind."""
        if self._process is not None:
            self._process.terminate()
            if self.wait(self._exit_timeout) is None:
                self._process.kill()
                self._process.wait()
            self._end()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _end(self) -> None:
        """End what a Triton that has ended left behind: its stubs, its shared memory and the thread of its log."""
        assert self._process is not None and self._reader is not None
        with contextlib.suppress(ProcessLookupError):  # kills the stubs of a server that was killed with SIGKILL
            os.killpg(self._process.pid, signal.SIGKILL)
        self._remove_regions()
        self._reader.join(timeout=5)

    def __enter__(self) -> "Triton":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _failure(self, what: str) -> TritonError:
        """Return the error for a Triton that can't answer, and shorten the exit timeout."""
        self._exit_timeout = BROKEN_EXIT_TIMEOUT_S
        return TritonError(f"{what}, so that requests fail; start the server again")

    def _is_connected(self) -> bool:
        """Return whether a client is connected to gRPC."""
        return any(
            connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == self._ports["gRPC"]
            for connection in psutil.Process(self.pid).net_connections("tcp")
        )

    @property
    def _restricted(self) -> str:
        """The protocols that require the admin key, in the format of Triton's flags."""
        return ",".join(name for name in ADMINISTRATION if not (self.open_statistics and name == "statistics"))

    @property
    def _region(self) -> str:
        """The prefix of the names of its shared memory; it is unique on this machine, as address and port are."""
        address = re.sub("[^0-9a-f]", "-", self.host)
        return f"triton_{platform.node()}_{address}_{self._ports['gRPC']}_"

    def _remove_regions(self) -> None:
        """Remove its shared memory, which remains if Triton is killed with SIGKILL."""
        for region in _SHARED_MEMORY.glob(f"{self._region}*"):
            region.unlink(missing_ok=True)

    def _metrics(self) -> str:
        """Return Triton's metrics in Prometheus' text format; "" if Triton does not answer."""
        try:
            return get(f"http://{self.metrics_url}/metrics", timeout=1)
        except OSError:
            return ""

    def _read_log(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            line = line.rstrip("\n")
            self._log.append(line)
            if model := log.loaded_model(line):
                self.loaded.add(model)
            log.relay(line, self.log_level)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if (status := self.wait(0.05)) is not None:
                assert self._reader is not None
                self._reader.join(timeout=5)
                if -status in CRASHES:
                    raise _StartCrashError(f"Triton crashed during its start with {signal.Signals(-status).name}")
                raise TritonError(
                    log.failure_reason(self._log) or f"Triton ended with exit status {status}: {self._last_line()}"
                )
            # Triton opens the port of its metrics last
            if _is_healthy(f"http://{self.http_url}/v2/health/ready", timeout=5) and self._metrics():
                return
        raise TritonError(f"Triton was not ready within {READY_TIMEOUT_S:.0f} s; its last line: {self._last_line()}")

    def _last_line(self) -> str:
        return next((line for line in reversed(self._log) if line.strip()), "(no output)")


def _end_with_parent() -> None:
    """Let the kernel stop Triton when the launcher is killed, so that the ports are freed; runs in Triton's process."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _is_healthy(url: str, timeout: float) -> bool:
    """Return whether a health endpoint answers with success within `timeout` seconds."""
    try:
        get(url, timeout)
    except OSError:
        return False
    return True


def _state(process: psutil.Process) -> str:
    """Return the status of a process as psutil names it; a process that no longer exists is dead."""
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_DEAD)


def free_ports(host: str, wanted: dict[str, int], other_hosts: Mapping[str, str] | None = None) -> dict[str, int]:
    """Return the port of each protocol: the wanted one, or any free port if the wanted one is 0.

    Args:
        host: the IP address to bind to.
        wanted: ports by protocol.
        other_hosts: addresses of protocols that do not bind to `host`.

    Raises:
        TritonError: a port can't be bound. Triton itself would silently share its gRPC port with another server.
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
                    probe.listen()  # without it, SO_REUSEADDR would allow two protocols on one port
                    break
                except (OSError, OverflowError) as error:
                    reason = error.strerror if isinstance(error, OSError) else "accepted are 0 to 65535"
            else:
                option = f"--{protocol.lower()}-port" if len(wanted) > 1 else "--port"  # a single port needs no name
                raise TritonError(
                    f"{protocol} port {port} on {address} can't be used ({reason}); choose another with {option}, or "
                    "0 for any free one"
                )
            found[protocol] = probe.getsockname()[1]
    finally:
        for probe in sockets:
            probe.close()
    return found
