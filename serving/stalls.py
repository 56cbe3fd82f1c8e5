"""Notices a model that is stuck in a loop: requests wait for it, and none of its batches ends."""

from stages.triton_metrics import PENDING, REQUESTS, WAITING, parse

# One reading a second. The largest batch that is accepted, 32 recordings of 60 s, takes its time (docs/reliability.md),
# and a restart in the middle of it would let one caller take the server down.
MAX_STALLED_READINGS = 300


class StallDetector:
    """Compares each reading of Triton's metrics with the one before."""

    def __init__(self) -> None:
        """Start without a reading."""
        self._batches: dict[str, float] = {}  # executions of each model at the last reading
        self._stalled: dict[str, int] = {}  # readings in a row at which requests waited and no batch had ended

    def stuck_model(self, metrics: str) -> str | None:
        """Return a model that ended no batch for MAX_STALLED_READINGS readings although requests waited, or None.

        Args:
            metrics: Triton's metrics at this moment, in Prometheus' text format.
        """
        values = parse(metrics)
        for model in {model for _, model in values}:
            # a stage with a queue of its own takes each request from Triton at once, and counts what it has answered
            batches = values.get((REQUESTS if (REQUESTS, model) in values else "exec_count", model), 0.0)
            waiting = values.get((PENDING, model), 0.0) + values.get((WAITING, model), 0.0) > 0
            stalled = waiting and batches == self._batches.get(model)
            self._batches[model] = batches
            self._stalled[model] = self._stalled.get(model, 0) + 1 if stalled else 0
        return next((model for model, readings in self._stalled.items() if readings >= MAX_STALLED_READINGS), None)
