"""What Prometheus sees of the gateway."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from web.gateway.errors import Failure

SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 8, 12, 20)


class Metrics:
    """A registry of its own, so that several gateways can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._outcomes = Counter(
            "emoserve_gateway_analyses", "Analyses by outcome", ["outcome"], registry=self.registry
        )
        self._seconds = Histogram(
            "emoserve_gateway_analysis_seconds",
            "Duration of answered analyses, upload not included",
            ["transcribed"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("emoserve_gateway_in_flight", "Analyses under way", registry=self.registry)

    def answered(self, transcribed: bool, seconds: float) -> None:
        """Count an answer."""
        self._outcomes.labels("answered").inc()
        self._seconds.labels(str(transcribed).lower()).observe(seconds)

    def refused(self, failure: Failure) -> None:
        """Count a failure, by its code."""
        self._outcomes.labels(failure.code).inc()
