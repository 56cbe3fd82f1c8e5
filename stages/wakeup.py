"""Wakes Triton's batcher when a batch is done, because Triton does not (seen on 24.10; unchanged at 26.06).

A queue that has a limit, deadlines or priorities hands out its next batch when an instance is idle. But neither a
request that comes while all instances are busy nor the end of the batch wakes the batcher: it sleeps until another
request comes, 0.5 s at most. On a quiet server the second of two callers would wait that long; on a busy one the
instances would idle after every batch. So each batch is followed by a request with a timeout of 1 us. It wakes the
batcher, which takes the requests that wait, and rejects this one (REJECTED in the model's metrics) when its turn comes.
"""

import json
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HTTP_URL = "EMOSERVE_HTTP_URL"  # environment variable with Triton's HOST:PORT or [IPV6]:PORT; serving.Triton sets it
# before each attempt: the first may come before Triton has noticed that the batch is done, and is then not answered
PAUSES_S = (0.001, 0.003, 0.01, 0.03, 0.1)
PATIENCE_S = 0.002  # beyond the pause, for an answer
MAX_UNANSWERED = 64  # connections kept open, as their requests still wait for their turn


class BatcherWaker:
    """Wakes the batcher of one model from one of its instances."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Start to wake, where the model's queue needs it and Triton's address is known.

        Args:
            config: the model's configuration, as Triton hands it to its stages.
        """
        self._began = 0  # batches
        self._ended = threading.Event()
        self._unanswered: deque[socket.socket] = deque()
        policy = config.get("dynamic_batching", {}).get("default_queue_policy", {})
        url = os.environ.get(HTTP_URL)
        # a queue without all that wakes by itself; one that does not heed a request's own timeout would run the request
        if url and policy.get("allow_timeout_override"):
            host, _, port = url.rpartition(":")
            self._address = host.strip("[]"), int(port)
            self._request = expired(config)
            threading.Thread(target=self._keep_waking, name="waker", daemon=True).start()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Mark a block during which a batch runs."""
        self._began += 1
        try:
            yield
        finally:
            self._ended.set()

    def _keep_waking(self) -> None:
        while True:
            self._ended.wait()
            self._ended.clear()
            began = self._began
            for pause in PAUSES_S:
                time.sleep(pause)
                if self._began > began or self._wake(pause + PATIENCE_S):  # a batch that began means that it is awake
                    break

    def _wake(self, patience: float) -> bool:
        """Return whether the batcher answered within `patience` seconds."""
        try:
            connection = socket.create_connection(self._address, timeout=patience)
        except OSError:
            return False
        try:
            connection.sendall(self._request)
            answered = bool(connection.recv(1))
        except OSError:
            if len(self._unanswered) == MAX_UNANSWERED:
                self._unanswered.popleft().close()
            self._unanswered.append(connection)
            return False
        connection.close()
        return answered


def expired(config: dict[str, Any]) -> bytes:
    """Return an HTTP request to a model that expires before it runs.

    Args:
        config: the model's configuration; the inputs are as it asks, and hold nothing.
    """
    inputs = []
    for entry in config["input"]:
        shape = [1, *(max(0, int(dim)) for dim in entry["dims"])]
        text = entry["data_type"] == "TYPE_STRING"
        inputs.append(
            {
                "name": entry["name"],
                "shape": shape,
                "datatype": "BYTES" if text else entry["data_type"].removeprefix("TYPE_"),
                "data": ["" if text else 0] * math.prod(shape),
            }
        )
    body = json.dumps({"parameters": {"timeout": 1}, "inputs": inputs})  # us
    return (
        f"POST /v2/models/{config['name']}/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
