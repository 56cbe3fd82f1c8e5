"""Reading Triton's metrics over a connection that stays open."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from stages.triton_metrics import CANCELED, MetricsReader, parse

SAMPLE = 'nv_inference_count{model="vggish",version="1"} 3\n'


class Endpoint(BaseHTTPRequestHandler):
    """Answers one request a connection, and closes it although it promised to keep it."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def do_GET(self) -> None:
        type(self).connections += 1
        body = SAMPLE.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def endpoint() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_parse_sums_samples_that_differ_in_further_labels() -> None:
    text = SAMPLE + 'nv_inference_count{model="vggish",version="2"} 4\nnv_gpu_count{model="vggish",version="1"} 5\n'
    assert parse(text) == {("count", "vggish"): 7.0}


def test_parse_counts_canceled_requests_alone_too() -> None:
    rows = (("queue", "CANCELED", 4), ("queue", "REJECTED", 2), ("vggish", "CANCELED", 1))
    text = "".join(
        f'nv_inference_request_failure{{model="{model}",reason="{reason}",version="1"}} {count}\n'
        for model, reason, count in rows
    )
    assert parse(text) == {
        ("request_failure", "queue"): 6.0,
        ("request_failure", "vggish"): 1.0,
        (CANCELED, "queue"): 4.0,
        (CANCELED, "vggish"): 1.0,
    }


def test_reading_over_a_connection_that_was_closed_meanwhile_connects_again(endpoint: HTTPServer) -> None:
    read = MetricsReader(f"http://127.0.0.1:{endpoint.server_port}/metrics")
    Endpoint.connections = 0
    for _ in range(3):
        assert read() == {("count", "vggish"): 3.0}
    assert Endpoint.connections == 3


def test_reading_without_an_endpoint_raises_oserror(endpoint: HTTPServer) -> None:
    read = MetricsReader(f"http://127.0.0.1:{endpoint.server_port}/metrics")
    endpoint.server_close()
    with pytest.raises(OSError, match="does not answer"):
        read()
    with pytest.raises(OSError, match="EMOSERVE_METRICS_URL"):
        MetricsReader("")()
