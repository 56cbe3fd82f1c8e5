"""An OpenTelemetry collector for tests, which receives OTLP/HTTP as JSON (Triton) or protobuf (OpenTelemetry's SDK).

`python -m tests.web.collector` listens on 127.0.0.1:4318 and prints each span, until Ctrl-C.
"""

import base64
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

IDS = ("traceId", "spanId", "parentSpanId")


@dataclass(frozen=True)
class Span:
    """A span, with its ids in hexadecimal; `parent` is empty for a root span. Times are in ms."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    start: float
    duration: float
    attributes: dict[str, str]


class Collector(ThreadingHTTPServer):
    """HTTP server of the collector; `spans` holds the spans received so far."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.spans: list[Span] = []

    def of_trace(self, trace: str, timeout: float, until: Callable[[dict[str, Span]], bool]) -> dict[str, Span]:
        """Return the spans of a trace by name, as soon as `until` accepts them or after `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            found = {span.name: span for span in self.spans.copy() if span.trace == trace}
            if until(found) or time.monotonic() > end:
                return found
            time.sleep(0.05)


class Handler(BaseHTTPRequestHandler):
    """Handler of one export request."""

    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        if self.headers["Content-Type"] == "application/json":
            request = json_format.ParseDict(_protobuf_ids(json.loads(body)), ExportTraceServiceRequest())
        else:
            request = ExportTraceServiceRequest.FromString(body)
        self.server.spans.extend(_spans(request))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Do not log requests."""


def _protobuf_ids(value: Any) -> Any:
    """Return OTLP's JSON, whose ids are in hexadecimal, as protobuf's JSON, whose bytes are in base64."""
    if isinstance(value, list):
        return [_protobuf_ids(item) for item in value]
    if isinstance(value, dict):
        return {
            key: base64.b64encode(bytes.fromhex(item)).decode() if key in IDS else _protobuf_ids(item)
            for key, item in value.items()
        }
    return value


def _spans(request: Any) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                start, end = span.start_time_unix_nano / 1e6, span.end_time_unix_nano / 1e6
                trace, identity, parent = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                yield Span(service, span.name, trace, identity, parent, start, end - start, _attributes(span))


def _attributes(owner: Any) -> dict[str, str]:
    return {each.key: str(getattr(each.value, each.value.WhichOneof("value") or "")) for each in owner.attributes}


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """Run a collector while the block runs; port 0 takes any free port."""
    with Collector(port) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


if __name__ == "__main__":
    with collecting(4318) as running, suppress(KeyboardInterrupt):
        shown = 0
        while True:
            for one in running.spans[shown:]:
                shown += 1
                ids = f"{one.trace} {one.parent or '-':16} -> {one.id}"
                print(f"{ids} {one.duration:8.1f} ms {one.service}: {one.name}", flush=True)
            time.sleep(0.2)
