"""Reading Triton's metrics over a persistent connection."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from stages.triton_metrics import MetricsReader, parse

SAMPLE = 'nv_inference_count{model="vggish",version="1"} 3\n'


class Endpoint(BaseHTTPRequestHandler):
    """An endpoint that closes each connection after one request, although HTTP/1.1 would keep it open."""

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


def test_parse_leaves_out_quantiles_and_counts_absent_models_as_zero() -> None:
    text = """
# HELP nv_inference_request_failure Number of failed inference requests
nv_inference_request_failure{model="queue",reason="REJECTED",version="1"} 3
nv_inference_request_failure{model="queue",reason="OTHER",version="1"} 4
nv_inference_pending_request_count{model="vggish",version="1"} 2
nv_inference_queue_summary_us{model="vggish",version="1",quantile="0.5"} 7
nv_cpu_utilization 0.5
"""
    values = parse(text)
    assert values["request_failure", "queue"] == 7
    assert values["pending_request_count", "vggish"] == 2
    assert values["pending_request_count", "bert"] == pytest.approx(0)


def test_parse_finds_the_model_behind_other_labels() -> None:
    """Triton sorts labels by name."""
    assert parse('nv_inference_count{gpu_uuid="GPU-1",model="vggish",version="1"} 3\n') == {("count", "vggish"): 3.0}


def test_parse_sums_by_reason_outcome_and_priority_too() -> None:
    text = """\
nv_inference_request_failure{model="vggish",reason="CANCELED",version="1"} 1
nv_inference_request_failure{model="vggish",reason="BACKEND",version="1"} 2
emoserve_stage_requests_total{model="queue",outcome="canceled",process="queue_0_0"} 3
emoserve_stage_waiting_requests{model="preprocess",priority="bulk",process="preprocess_0_0"} 4
emoserve_stage_waiting_requests{model="preprocess",priority="bulk",process="preprocess_0_1"} 5
"""
    assert parse(text) == {
        ("request_failure", "vggish"): 3.0,
        ("request_failure:CANCELED", "vggish"): 1.0,
        ("request_failure:BACKEND", "vggish"): 2.0,
        ("stage_requests_total", "queue"): 3.0,
        ("stage_requests_total:canceled", "queue"): 3.0,
        ("stage_waiting_requests", "preprocess"): 9.0,
        ("stage_waiting_requests:bulk", "preprocess"): 9.0,
    }


def test_metrics_reader_with_a_closed_connection_reconnects(endpoint: HTTPServer) -> None:
    read = MetricsReader(f"http://127.0.0.1:{endpoint.server_port}/metrics")
    Endpoint.connections = 0
    for _ in range(3):
        assert read() == {("count", "vggish"): 3.0}
    assert Endpoint.connections == 3


def test_metrics_reader_without_an_endpoint_raises_oserror(endpoint: HTTPServer) -> None:
    read = MetricsReader(f"http://127.0.0.1:{endpoint.server_port}/metrics")
    endpoint.server_close()
    with pytest.raises(OSError, match="does not answer"):
        read()
    with pytest.raises(OSError, match="EMOSERVE_METRICS_URL"):
        MetricsReader("")()
