"""Detect a model that is stuck in a loop: requests wait for it, and none of its batches ends."""

from stages.triton_metrics import PENDING, REQUESTS, WAITING, parse

# 300 readings are 300 s. A batch of 32 recordings of 60 s is accepted and slow (docs/reliability.md), and a restart
# during it would let a single caller interrupt the service.
MAX_STALLED_READINGS = 300


class StallDetector:
    """Compares each reading of Triton's metrics with the one before."""

    def __init__(self) -> None:
        """Create a detector without readings."""
        self._batches: dict[str, float] = {}  # executed batches of each model at the last reading
        self._stalled: dict[str, int] = {}  # consecutive readings with waiting requests and no ended batch

    def stuck_model(self, metrics: str) -> str | None:
        """Add a reading, and return a model with MAX_STALLED_READINGS stalled readings in a row, or None.

        A reading is stalled if requests wait for the model and it has ended no batch since the reading before.

        Args:
            metrics: Triton's metrics in Prometheus' text format, read once a second; "" if Triton did not answer.
        """
        values = parse(metrics)
        for model in {model for _, model in values}:
            # a stage with its own queue accepts each request immediately, and publishes its own count of answers
            batches = values.get((REQUESTS if (REQUESTS, model) in values else "exec_count", model), 0.0)
            waiting = values.get((PENDING, model), 0.0) + values.get((WAITING, model), 0.0) > 0
            stalled = waiting and batches == self._batches.get(model)
            self._batches[model] = batches
            self._stalled[model] = self._stalled.get(model, 0) + 1 if stalled else 0
        return next((model for model, readings in self._stalled.items() if readings >= MAX_STALLED_READINGS), None)
