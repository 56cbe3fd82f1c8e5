"""Reads Triton's metrics on this machine."""

import http.client
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from urllib.parse import urlsplit

METRICS_URL = "EMOSERVE_METRICS_URL"  # environment variable that serving.Triton sets for its stages
TIMEOUT_S = 1.0
PENDING = "pending_request_count"  # in Triton's own queue of a model
# what stages/queue_metrics.py adds to Triton's metrics, with the prefix emoserve_
WAITING = "stage_waiting_requests"
REQUESTS = "stage_requests_total"
WAIT_SECONDS = "stage_wait_seconds_total"
WORK_SECONDS = "stage_work_seconds_total"
_SAMPLE = re.compile(r"(?m)^(?:nv_inference_|emoserve_)(\w+){([^}]*)} (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')  # in any order: Triton puts `gpu_uuid` before `model`
_KINDS = ("reason", "outcome", "priority")  # labels by which a value is also returned

Values = Mapping[tuple[str, str], float]


def parse(text: str) -> Values:
    """Return the values of the metrics nv_inference_* and emoserve_* by (name without that prefix, model).

    Samples that differ in further labels only (version, GPU, process) are summed. Where there is a label `reason`,
    `outcome` or `priority`, the sum for each of its values is returned, too, as "request_failure:CANCELED".

    Args:
        text: in Prometheus' text format.
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
    """Asks Triton's metrics endpoint over a connection that stays open."""

    def __init__(self, url: str | None = None) -> None:
        """Connect at the first call.

        Args:
            url: of the endpoint; None for the one that the environment variable METRICS_URL names.
        """
        parts = urlsplit(url or os.environ.get(METRICS_URL, ""))
        self._connection: http.client.HTTPConnection | None = None
        if parts.hostname:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT_S)
        self._path = parts.path

    @property
    def available(self) -> bool:
        """Whether there is an endpoint to ask: Triton may have been started without `python -m serving`."""
        return self._connection is not None

    def __call__(self) -> Values:
        """Return the values at this moment.

        Raises:
            OSError: no answer, or one that is not of the metrics.
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
        """Return status and body; connect anew where Triton has closed the connection in the meantime."""
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
