"""Prometheus metrics of the gateway, and the HTTP server that Prometheus reads them from."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from web.gateway.errors import ApiError

DURATION_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 8, 12, 20)


class Metrics:
    """Metrics in a registry of their own, so that several gateways can run in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._outcomes = Counter(
            "emoserve_gateway_analyses", "Analyses by outcome", ["outcome"], registry=self.registry
        )
        self._seconds = Histogram(
            "emoserve_gateway_analysis_seconds",
            "Duration of answered analyses, upload not included",
            ["transcribed"],
            buckets=DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self.in_flight = Gauge("emoserve_gateway_in_flight", "Analyses under way", registry=self.registry)
        self.streams = Gauge("emoserve_gateway_live_streams", "Live streams under way", registry=self.registry)
        self._stream_outcomes = Counter(
            "emoserve_gateway_ended_streams", "Live streams by outcome", ["outcome"], registry=self.registry
        )

    @contextmanager
    def served(self, host: str, port: int) -> Iterator[int]:
        """Serve the metrics over plain HTTP on a port of their own while the block runs.

        Args:
            host: address to listen on; empty for all addresses.
            port: port to listen on; 0 for any free port.

        Yields:
            The port.

        Raises:
            OSError: the address or the port can't be used.
        """
        every = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
        server, thread = start_http_server(port, host or every, self.registry)
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def record_success(self, transcribed: bool, seconds: float) -> None:
        """Count an answered analysis.

        Args:
            transcribed: whether the server recognised the text.
            seconds: duration of the analysis.
        """
        self.record_outcome("answered")
        self._seconds.labels(str(transcribed).lower()).observe(seconds)

    def record_error(self, error: ApiError) -> None:
        """Count an analysis that ended in an error, by the error's code."""
        self.record_outcome(error.code)

    def record_outcome(self, outcome: str) -> None:
        """Count an analysis of any length: `answered`, `canceled` or the code of an error."""
        self._outcomes.labels(outcome).inc()

    def record_stream(self, outcome: str) -> None:
        """Count a live stream that has ended: `answered`, `canceled` or the code of an error."""
        self._stream_outcomes.labels(outcome).inc()
