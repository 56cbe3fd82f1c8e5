"""Notices a model that runs in circles: requests wait for it, and none of its batches ends."""

import re

# looks, one a second. The largest batch that is accepted, 32 recordings of 60 s, takes its time (docs/reliability.md);
# a server that is started anew in the middle of it would be a gift to whoever sends it
PATIENCE = 300
_METRIC = re.compile(r'(?m)^nv_inference_(pending_request_count|exec_count){model="([^"]+)",.*} (\S+)')


class Progress:
    """Looks at Triton's metrics, one look after the other."""

    def __init__(self) -> None:
        self._batches: dict[str, float] = {}  # that each model had ended at the last look
        self._vain: dict[str, int] = {}  # looks in a row at which requests waited and nothing had ended

    def stuck(self, metrics: str) -> str | None:
        """A model that nothing came out of at 300 looks in a row although requests waited; usually None.

        Args:
            metrics: as Triton gives them, at this moment.
        """
        values = {(name, model): float(value) for name, model, value in _METRIC.findall(metrics)}
        for model in {model for _, model in values}:
            batches = values.get(("exec_count", model), 0.0)
            vain = values.get(("pending_request_count", model), 0.0) > 0 and batches == self._batches.get(model)
            self._batches[model] = batches
            self._vain[model] = self._vain.get(model, 0) + 1 if vain else 0
        return next((model for model, looks in self._vain.items() if looks >= PATIENCE), None)
