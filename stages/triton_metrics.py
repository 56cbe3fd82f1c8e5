"""Read Triton's metrics on this machine."""

import http.client
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from urllib.parse import urlsplit

METRICS_URL = "EMOSERVE_METRICS_URL"  # environment variable that serving.Triton sets for its stages
TIMEOUT_S = 1.0
PENDING = "pending_request_count"  # requests in Triton's own queue of a model
# metrics of stages/queue_metrics.py, without the prefix emoserve_
WAITING = "stage_waiting_requests"
REQUESTS = "stage_requests_total"
WAITING_COST = "stage_waiting_cost"
COST = "stage_cost_total"
WAIT_SECONDS = "stage_wait_seconds_total"
WORK_SECONDS = "stage_work_seconds_total"
_SAMPLE = re.compile(r"(?m)^(?:nv_inference_|emoserve_)(\w+){([^}]*)} (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')  # the order varies: Triton puts `gpu_uuid` before `model`
_KINDS = ("reason", "outcome", "priority")  # labels for whose values parse() also returns sums

Values = Mapping[tuple[str, str], float]


def parse(text: str) -> Values:
    """Return the values of the metrics nv_inference_* and emoserve_* by (name without that prefix, model).

    Samples that differ only in other labels (version, GPU, process) are summed. For the labels `reason`, `outcome` and
    `priority`, the sum for each value is also returned, under a name such as "request_failure:CANCELED".

    Args:
        text: metrics in Prometheus' text format.
    """
    values: defaultdict[tuple[str, str], float] = defaultdict(float)
    for name, label_text, value in _SAMPLE.findall(text):
        labels = dict(_LABEL.findall(label_text))
        if model := labels.get("model"):
            values[name, model] += float(value)
            for kind in _KINDS:
                if kind in labels:
                    values[f"{name}:{labels[kind]}", model] += float(value)
    return values


class MetricsReader:
    """Reads Triton's metrics endpoint over a persistent connection."""

    def __init__(self, url: str | None = None) -> None:
        """Create a reader that connects at its first call.

        Args:
            url: URL of the endpoint; None for the value of the environment variable METRICS_URL.
        """
        parts = urlsplit(url or os.environ.get(METRICS_URL, ""))
        self._connection: http.client.HTTPConnection | None = None
        if parts.hostname:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT_S)
        self._path = parts.path

    @property
    def available(self) -> bool:
        """True if an endpoint is known; it is unknown if Triton was started without `python -m serving`."""
        return self._connection is not None

    def __call__(self) -> Values:
        """Return the current values, as `parse` does.

        Raises:
            OSError: the endpoint is unknown, does not answer, or answers with another status than 200.
        """
        if self._connection is None:
            raise OSError(f"the environment variable {METRICS_URL} is not set")
        try:
            status, body = self._get(self._connection)
        except (http.client.HTTPException, OSError) as error:
            raise OSError(f"Triton's metrics endpoint does not answer: {error!r}") from error
        if status != 200:
            raise OSError(f"Triton's metrics endpoint answers with status {status}")
        return parse(body.decode(errors="replace"))

    def _get(self, connection: http.client.HTTPConnection) -> tuple[int, bytes]:
        """Return the status and the body; reconnect if Triton has closed the connection since the last request."""
        reused = connection.sock is not None
        try:
            connection.request("GET", self._path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            if reused and isinstance(error, ConnectionError | http.client.HTTPException):
                return self._get(connection)
            raise
