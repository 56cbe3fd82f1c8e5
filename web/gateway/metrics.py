"""Prometheus metrics of the gateway."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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

    def record_success(self, transcribed: bool, seconds: float) -> None:
        """Count an answered analysis.

        Args:
            transcribed: whether the server recognised the text.
            seconds: duration of the analysis.
        """
        self._outcomes.labels("answered").inc()
        self._seconds.labels(str(transcribed).lower()).observe(seconds)

    def record_error(self, error: ApiError) -> None:
        """Count an analysis that ended in an error, by the error's code."""
        self._outcomes.labels(error.code).inc()
