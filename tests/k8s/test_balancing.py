"""Two servers behind one client: calls are balanced, and none fails when one server is killed or drained."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from dnslib import QTYPE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer
from emotion_client import EmotionClient, EmotionError, channel

from serving.triton import QUIET_S, free_ports

ENVOY = Path(sys.executable).parent / "envoy"
CALLERS = 16
KEY = "opens statistics"
HOSTS = ("127.0.0.1", "127.0.0.2")
NAME = "emoserve-headless"
LIMIT = 40  # s that a server drains at most


class Server:
    """A process of `python -m serving`, started as in a pod."""

    def __init__(self, repository: Path, host: str, port: int, log: Path) -> None:
        self.host, self.port = host, port
        command = [sys.executable, "-m", "serving", "--repository", str(repository), "--drain", str(LIMIT)]
        ports = ["--host", host, "--grpc-port", str(port), "--http-port", "0", "--metrics-port", "0"]
        with log.open("w") as errors:
            environment = os.environ | {"EMOSERVE_ADMIN_KEY": KEY}
            self.process = subprocess.Popen(
                [*command, *ports], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        assert self.process.stdout is not None
        ready = re.match(r"ready: gRPC (\S+), HTTP (\S+),", self.process.stdout.readline())
        assert ready, log.read_text()
        self.grpc_url, self.http_url = ready.groups()

    def answered(self) -> int:
        """Return the number of requests that were answered since the start."""
        url = f"http://{self.http_url}/v2/models/emotion/stats"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"admin-key": KEY}), timeout=10) as answer:
            return int(json.load(answer)["model_stats"][0]["inference_stats"]["success"]["count"])

    def kill(self) -> None:
        """Kill all processes of the server at once, as when a node is lost."""
        for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
            process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def all_servers() -> Iterator[list[Server]]:
    """Yield every server that was started; the last two may still run."""
    started: list[Server] = []
    yield started
    for server in started:
        if server.process.poll() is None:
            server.kill()
        assert server.process.stdout is not None
        server.process.stdout.close()


@pytest.fixture
def servers(repository: Path, all_servers: list[Server], tmp_path: Path) -> list[Server]:
    """Return two running servers: those of the previous test if they still run, else new ones."""
    running = {server.host: server for server in all_servers if server.process.poll() is None}
    ports = {server.port for server in running.values()}
    # the same port for both, as in pods
    port = ports.pop() if ports else free_ports(HOSTS[0], {"gRPC": 0})["gRPC"]
    for host in HOSTS:
        if host not in running:
            running[host] = Server(repository, host, port, tmp_path / host)
            all_servers.append(running[host])
    return [running[host] for host in HOSTS]


class Name(BaseResolver):  # type: ignore[misc]
    """A DNS server that resolves one name, that of a headless Service."""

    def __init__(self, servers: list[Server]) -> None:
        self.forward_to(servers)
        dns = DNSServer(self, address="127.0.0.1", port=0, logger=DNSLogger("-request,-reply"))
        dns.start_thread()
        self.stop = dns.stop
        authority = f"127.0.0.1:{dns.server.server_address[1]}"
        self.target = f"dns://{authority}/{NAME}:{servers[0].grpc_url.split(':')[1]}"

    def forward_to(self, servers: list[Server]) -> None:
        """Set the addresses to answer with."""
        self._addresses = [server.grpc_url.split(":")[0] for server in servers]

    def resolve(self, request: DNSRecord, handler: object) -> DNSRecord:
        """Answer a query; dnslib calls this method."""
        reply = request.reply()
        if request.q.qtype == QTYPE.A:
            for address in self._addresses:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=1))
        return reply


class Proxy:
    """An Envoy process and the list of servers that it forwards to."""

    def __init__(self, servers: list[Server], directory: Path) -> None:
        self._endpoints = directory / "endpoints.json"
        self.forward_to(servers)
        port = free_ports("127.0.0.1", {"gRPC": 0})["gRPC"]
        self.target = f"127.0.0.1:{port}"
        template = (Path(__file__).parent / "envoy.yaml").read_text()
        configuration = yaml.safe_load(template.replace("PORT", str(port)).replace("ENDPOINTS", str(self._endpoints)))
        configuration["node"] = {"id": "test", "cluster": "test"}  # Envoy requires it for a dynamic list
        (directory / "envoy.yaml").write_text(yaml.safe_dump(configuration))
        command = [str(ENVOY), "--config-path", str(directory / "envoy.yaml")]
        with (directory / "envoy.log").open("w") as log:
            options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
            self._process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline, (directory / "envoy.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop Envoy."""
        self._process.terminate()
        self._process.wait(10)

    def forward_to(self, servers: list[Server]) -> None:
        """Write the list of ready endpoints; the file is moved into place, because Envoy ignores changes in place."""
        addresses = [server.grpc_url.split(":") for server in servers]
        endpoints = [
            {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}
            for host, port in addresses
        ]
        kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
        resource = {"@type": kind, "cluster_name": "triton", "endpoints": [{"lb_endpoints": endpoints}]}
        written = self._endpoints.with_suffix(".new")
        written.write_text(json.dumps({"resources": [resource]}))
        written.rename(self._endpoints)


@pytest.fixture(params=["name", "proxy"])
def service(
    request: pytest.FixtureRequest, servers: list[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Name | Proxy]:
    """Yield one address for both servers: a DNS name, over which our client balances, or a proxy that balances."""
    made: Name | Proxy
    if request.param == "proxy":
        made = Proxy(servers, tmp_path)
    else:
        made = Name(servers)
        monkeypatch.setattr(channel, "_target", lambda endpoints: made.target)  # which DNS server to ask
    yield made
    made.stop()


@contextmanager
def load(target: str, clip: bytes) -> Iterator[Counter[str]]:
    """Run callers without pauses on one channel; yield the number of calls by outcome."""
    outcomes: Counter[str] = Counter()
    ended = threading.Event()
    with EmotionClient(target) as client:

        def call() -> None:
            while not ended.is_set():
                try:
                    client.analyze(clip, "now it is quite another thing")
                    outcomes["answered"] += 1
                except EmotionError as error:
                    outcomes[str(error)] += 1

        for _ in range(2):  # connect to both servers
            client.analyze(text="hello")
        time.sleep(0.5)
        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        try:
            yield outcomes
        finally:
            ended.set()
            for caller in callers:
                caller.join()


@pytest.fixture
def clip(recordings: dict[str, bytes]) -> bytes:
    return recordings["austen-0890.flac"]


def test_calls_are_balanced_over_both_servers(service: Name | Proxy, servers: list[Server], clip: bytes) -> None:
    before = [server.answered() for server in servers]
    with load(service.target, clip) as outcomes:
        time.sleep(6)
    assert set(outcomes) == {"answered"}
    time.sleep(0.5)  # Triton counts a request after its answer has left
    shares = [server.answered() - earlier for server, earlier in zip(servers, before, strict=True)]
    assert sum(shares) >= outcomes["answered"] > 30
    assert abs(shares[0] - shares[1]) <= 0.1 * sum(shares), shares


def test_no_call_fails_when_a_server_is_killed(service: Name | Proxy, servers: list[Server], clip: bytes) -> None:
    with load(service.target, clip) as outcomes:
        time.sleep(2)
        servers[0].kill()
        answered = outcomes["answered"]
        time.sleep(3)
    assert outcomes["answered"] > answered + CALLERS  # calls continue after the kill
    assert set(outcomes) == {"answered"}


def test_no_call_fails_when_a_server_drains(service: Name | Proxy, servers: list[Server], clip: bytes) -> None:
    """As in a rollout, the server gets SIGTERM first and leaves the endpoints a moment later."""
    with load(service.target, clip) as outcomes:
        time.sleep(2)
        servers[0].process.send_signal(signal.SIGTERM)
        terminated = time.monotonic()
        time.sleep(1)
        service.forward_to(servers[1:])
        assert servers[0].process.wait(90) == 0
        drained = time.monotonic() - terminated
        time.sleep(1)
    assert set(outcomes) == {"answered"}
    assert QUIET_S < drained < LIMIT
