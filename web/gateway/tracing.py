"""Configure distributed tracing: which requests get spans, and which trace context is sent to Triton.

FastAPI creates the spans and exports them as the standard OTEL_* variables say, if OpenTelemetry's SDK is installed
(extra `tracing`). Without it the gateway creates no span, and passes on the context that the caller sent.
"""

from collections.abc import Collection

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

HEADERS = ("traceparent", "tracestate")  # of W3C Trace Context
_W3C = TraceContextTextMapPropagator()


def telemetry(paths: Collection[str]) -> TelemetryConfig:
    """Return FastAPI's settings: one span for each request to one of `paths`, and neither metrics nor logs."""
    return {
        "auto_configure": True,  # off unless OTEL_EXPORTER_OTLP_ENDPOINT is set
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "exclude": lambda scope: scope.get("path") not in paths,
    }


def trace_headers(request: Headers) -> dict[str, str]:
    """Return `traceparent` and `tracestate` for Triton: of the gateway's span, or else as the caller sent them.

    They are left out for a trace that is not sampled, since Triton records every request that has them
    (read in src/tracer.cc of 24.10 and 26.08; tried with 24.10). A malformed `traceparent` counts as none.

    Args:
        request: the headers of the caller's request.
    """
    context = None  # the current one
    if not trace.get_current_span().get_span_context().is_valid:
        context = _W3C.extract({name: request.getlist(name) for name in HEADERS})
    headers: dict[str, str] = {}
    if trace.get_current_span(context).get_span_context().trace_flags.sampled:
        _W3C.inject(headers, context)
    return headers
