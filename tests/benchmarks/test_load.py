"""Test the load generator: closed and open loops, slow and late servers, and errors."""

import contextlib
import json
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.load import runner as load
from benchmarks.load.workload import mixed
from benchmarks.speed.tune import link
from serving import Triton
from serving.triton import free_ports
from stages.triton_metrics import MetricsReader
from tests.conftest import running_triton


@pytest.fixture(scope="module")
def tokenizer(repository: Path) -> Path:
    return repository / "preprocess" / "1" / "tokenizer.json"


class FiftyPerSecond(HTTPServer):
    """Server with the peers' API that needs 20 ms for each request, one at a time, and fails every tenth."""

    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked = 0
        self.answered_at: list[float] = []  # time of each answer with status 200, in s since the epoch


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        assert isinstance(self.server, FiftyPerSecond)
        self.server.asked += 1
        assert set(json.loads(self.rfile.read(int(self.headers["Content-Length"])))) == {"audio", "text"}
        time.sleep(0.02)
        if self.server.asked % 10 == 0:
            self.send_error(503)
            return
        answer = json.dumps({"probabilities": [0.2] * 5}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.server.answered_at.append(time.time())
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow_server() -> Iterator[FiftyPerSecond]:
    with FiftyPerSecond() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_run_closed_loop_sends_each_utterance_once(server: Triton, tokenizer: Path) -> None:
    run = load.run(f"grpc://{server.grpc_url}", tokenizer, users=8, requests=20)
    assert Counter(run.kind) == Counter(utterance.kind for utterance in mixed(20, tokenizer))
    assert not run.failures and run.answered.all()
    assert abs(time.time() - run.start[-1]) < 60
    ends = np.sort(run.start + run.latency / 1e3)
    assert run.throughput == pytest.approx(20 / (ends[-1] - run.start[0]))
    # all users start at once and continue after each answer: eight requests are in flight until none is left to send
    assert run.start[7] < ends[0]
    assert (run.start[8:] - ends[:12] < 0.1).all() and (run.start[8:] > ends[:12]).all()


def test_run_open_loop_shows_the_queue_of_a_slow_server(slow_server: FiftyPerSecond, tokenizer: Path) -> None:
    url = f"http://127.0.0.1:{slow_server.server_port}"
    run = load.run(url, tokenizer, rate=100, seconds=1, uniform=(0.0, 12), seed=5)
    due = np.cumsum(np.random.default_rng(5).exponential(0.01, 200))
    assert len(run.start) == (due < 1).sum() > 90
    # the due times, which late answers do not change
    assert np.diff(run.start) == pytest.approx(np.diff(due[due < 1]), abs=1e-6)
    assert run.failures == {"LocustBadStatusCode": len(run.start) // 10}
    # the queue grows: every 10 ms comes a request that takes 20 ms, or more on a busy machine
    waited = run.latency[20:] - run.latency[:-20]
    assert np.median(waited) > 100
    assert run.percentile(100) > 900
    # the throughput by the server's clock, until its last answer
    seconds = max(slow_server.answered_at) - run.start[0]
    assert run.throughput == pytest.approx(len(slow_server.answered_at) / seconds, rel=0.05)
    assert run.throughput < 50


def test_run_with_unusable_options_raises_one_sentence(server: Triton, tokenizer: Path, tmp_path: Path) -> None:
    closed = free_ports("127.0.0.1", {"gRPC": 0})["gRPC"]
    with pytest.raises(BenchmarkError, match=rf"no server could be reached at grpc://127.0.0.1:{closed} \(.*refused\)"):
        load.run(f"grpc://127.0.0.1:{closed}", tokenizer, requests=1)
    with pytest.raises(BenchmarkError, match="host 'localhost:8001' is neither grpc://HOST:PORT"):
        load.run("localhost:8001", tokenizer, requests=1)
    with pytest.raises(BenchmarkError, match="give requests or seconds"):
        load.run(f"grpc://{server.grpc_url}", tokenizer)
    with pytest.raises(BenchmarkError, match=r"^Locust failed: no tokenizer at .*: give the preprocess/"):
        load.run(f"grpc://{server.grpc_url}", tmp_path / "tokenizer.json", requests=1)


def test_run_rounds_seconds_up(server: Triton, repository: Path) -> None:
    found = load.run(f"grpc://{server.grpc_url}", repository / "preprocess/1/tokenizer.json", seconds=1.2, rate=5.0)
    assert found.start[-1] - found.start[0] < 2.5


class DelayingProxy(socketserver.ThreadingTCPServer):
    """Proxy to a local port that forwards the data of each connection two seconds late."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(("127.0.0.1", 0), DelayedConnection)


class DelayedConnection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, DelayingProxy)
        time.sleep(2)
        with socket.create_connection(("127.0.0.1", self.server.port)) as target:
            threading.Thread(target=self.copy, args=(target, self.request), daemon=True).start()
            self.copy(self.request, target)

    @staticmethod
    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_run_with_a_late_server_starts_its_time_at_the_first_answer(server: Triton, tokenizer: Path) -> None:
    with DelayingProxy(int(server.grpc_url.rpartition(":")[2])) as late:
        threading.Thread(target=late.serve_forever, daemon=True).start()
        found = load.run(f"grpc://127.0.0.1:{late.server_address[1]}", tokenizer, seconds=1, rate=20.0)
        late.shutdown()
    assert found.answered.sum() > 5


def test_run_without_a_due_request_raises(server: Triton, tokenizer: Path) -> None:
    with pytest.raises(BenchmarkError, match="no request was due within the run: make it longer"):
        load.run(f"grpc://{server.grpc_url}", tokenizer, seconds=1, rate=0.001)


def test_run_with_rejections_reads_them_at_once(repository: Path, tokenizer: Path, tmp_path: Path) -> None:
    """gRPC under gevent waits for each call in a thread; too few threads would delay the rejections."""
    short = {
        path.parent.name: path.read_text().replace('string_value: "320"', 'string_value: "33"')
        for path in repository.glob("*/config.pbtxt")
    }
    link(repository, short, tmp_path)
    with running_triton(tmp_path) as triton:
        found = load.run(f"grpc://{triton.grpc_url}", tokenizer, users=96, requests=400)
    rejected = np.array([failure == "Unavailable" for failure in found.failure])
    assert set(found.failures) == {"Unavailable"}
    assert found.answered.sum() >= 32
    assert np.median(found.latency[rejected]) < 0.25 * found.percentile(50)


def test_start_with_several_endpoints_loads_until_it_is_stopped(server: Triton, tokenizer: Path) -> None:
    read = MetricsReader(f"http://{server.metrics_url}/metrics")

    def answered() -> float:
        return read().get(("request_success", "emotion"), 0.0)

    before = answered()
    host = f"grpc://{server.grpc_url},{server.grpc_url}"
    with load.start(host, tokenizer, rate=5.0, retries=True) as running:
        while answered() < before + 10:
            assert running.is_running()
            time.sleep(0.1)
        found = running.stop()
    assert not running.is_running()
    assert found.answered.all() and len(found.failure) >= 10
