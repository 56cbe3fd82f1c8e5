"""Test distributed tracing with a real collector: one trace from an HTTP request to the model `fusion`."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from emotion_client import EmotionClient
from starlette.datastructures import Headers

from serving import Triton
from serving.triton import free_ports
from tests.conftest import ROOT, running_triton
from tests.web.collector import Collector, Span, collecting
from web.gateway.tracing import trace_headers

MODELS = ("preprocess", "queue", "vggish", "bert", "fusion")
SERVED = "POST /api/analyze"  # the gateway's span
TRACE, CALLER = "4bf9" * 8, "00f0" * 4
SAMPLED = f"00-{TRACE}-{CALLER}-01"
ATTEMPTS = 5  # Triton drops the trace context of 2 to 5 in 100 requests over gRPC (docs/tracing.md)
ARRIVAL_TIMEOUT_S = 4.0  # both exporters send every 0.1 s
QUIET_S = 1.0  # after which no more spans are expected


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def triton(repository: Path, collector: Collector) -> Iterator[Triton]:
    """Run a Triton that traces requests with a sampled trace context."""
    settings = (
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=0",
        f"opentelemetry,url={collector.url}/v1/traces",
        "opentelemetry,bsp_schedule_delay=100",
    )
    with running_triton(repository, arguments=[f"--trace-config={setting}" for setting in settings]) as server:
        yield server


@contextmanager
def gateway_process(triton: Triton, **variables: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Run `python -m web.gateway`; yield its address and a function that reads the next line of its request log."""
    port = str(free_ports("127.0.0.1", {"page": 0})["page"])
    command = [sys.executable, "-m", "web.gateway", "--port", port, "--metrics-port", "0"]
    command += ["--endpoints", json.dumps([triton.grpc_url])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | variables
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stderr:
            if "Uvicorn running" in line:
                break
        yield f"http://127.0.0.1:{port}", process.stdout.readline
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def gateway(triton: Triton, collector: Collector) -> Iterator[tuple[str, Callable[[], str]]]:
    """Run a gateway that exports spans."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_SERVICE_NAME": "emoserve-gateway",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with gateway_process(triton, **variables) as running:
        yield running


def analyze(address: str, headers: dict[str, str]) -> None:
    response = httpx.post(f"{address}/api/analyze", files={"text": (None, "so it is")}, headers=headers, timeout=30)
    assert response.status_code == 200, response.text


def traced(collector: Collector, send: Callable[[str], object], *further: str) -> dict[str, Span]:
    """Call send(trace id) until the trace has all spans of Triton and `further` ones; return its spans by name."""
    wanted = {"InferRequest", "emotion", *MODELS, *further}
    for _ in range(ATTEMPTS):
        trace = secrets.token_hex(16)
        send(trace)
        found = collector.of_trace(trace, ARRIVAL_TIMEOUT_S, lambda spans: wanted <= set(spans))
        if wanted <= set(found):
            return found
    pytest.fail(f"none of {ATTEMPTS} traces was complete")


def test_gateway_request_with_traceparent_is_one_trace_down_to_fusion(
    gateway: tuple[str, Callable[[], str]], collector: Collector
) -> None:
    address, _ = gateway
    spans = traced(collector, lambda trace: analyze(address, {"traceparent": f"00-{trace}-{CALLER}-01"}), SERVED)
    served = spans[SERVED]
    assert (served.service, served.parent) == ("emoserve-gateway", CALLER)
    assert (spans["InferRequest"].service, spans["InferRequest"].parent) == ("triton-inference-server", served.id)
    assert spans["emotion"].parent == spans["InferRequest"].id
    assert {spans[model].parent for model in MODELS} == {spans["emotion"].id}
    starts = [served.start, *(spans[model].start for model in MODELS)]
    assert starts == sorted(starts)


def test_gateway_request_without_traceparent_starts_a_trace_that_the_log_names(
    gateway: tuple[str, Callable[[], str]], collector: Collector
) -> None:
    address, log_line = gateway
    for headers in ({}, {"traceparent": "00-malformed"}, {"traceparent": SAMPLED.upper()}):
        request_id = secrets.token_hex(8)
        analyze(address, headers | {"X-Request-ID": request_id})
        while (entry := json.loads(log_line()))["request_id"] != request_id:
            pass
        spans = collector.of_trace(entry["trace_id"], ARRIVAL_TIMEOUT_S, lambda found: SERVED in found)
        assert spans[SERVED].parent == ""


def test_gateway_request_that_is_not_sampled_has_no_span(
    gateway: tuple[str, Callable[[], str]], collector: Collector
) -> None:
    address, _ = gateway
    trace = secrets.token_hex(16)
    analyze(address, {"traceparent": f"00-{trace}-{CALLER}-00"})
    assert not collector.of_trace(trace, QUIET_S, bool)


def test_gateway_without_collector_passes_the_callers_context_on(triton: Triton, collector: Collector) -> None:
    with gateway_process(triton) as (address, _):
        spans = traced(collector, lambda trace: analyze(address, {"traceparent": f"00-{trace}-{CALLER}-01"}))
    assert SERVED not in spans
    assert spans["InferRequest"].parent == CALLER


def test_client_headers_reach_triton(triton: Triton, collector: Collector) -> None:
    with EmotionClient(triton.grpc_url) as client:

        def send(trace: str) -> None:
            client.analyze(text="hello", request_id="order-7", headers={"traceparent": f"00-{trace}-{CALLER}-01"})

        spans = traced(collector, send)
    assert spans["InferRequest"].parent == CALLER
    assert spans["fusion"].attributes["triton.request_id"] == "order-7"


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ({"traceparent": SAMPLED, "tracestate": "a=1,b=2"}, {"traceparent": SAMPLED, "tracestate": "a=1,b=2"}),
        ({"traceparent": SAMPLED, "tracestate": "not a member"}, {"traceparent": SAMPLED}),
        ({"traceparent": f"01{SAMPLED[2:]}-of-a-later-version"}, {"traceparent": SAMPLED}),
        ({"traceparent": f"{SAMPLED[:-2]}00"}, {}),  # not sampled
        ({"traceparent": f"{SAMPLED}-00"}, {}),
        ({"traceparent": f"ff{SAMPLED[2:]}"}, {}),
        ({"traceparent": f"00-{'0' * 32}-{CALLER}-01"}, {}),
        ({"traceparent": f"00-{TRACE}-{'0' * 16}-01"}, {}),
        ({"traceparent": SAMPLED.upper()}, {}),
        ({"traceparent": "9" * 4096}, {}),
        ({"tracestate": "a=1"}, {}),
        ({}, {}),
    ],
)
def test_trace_headers_pass_on_a_valid_sampled_context(given: Any, passed_on: dict[str, str]) -> None:
    assert trace_headers(Headers(given)) == passed_on
