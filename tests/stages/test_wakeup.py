"""Batcher wake-up: a request that comes while a batch runs is taken when the batch ends."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import quantiles
from typing import Any

import pytest
from emotion_client import EmotionClient

from serving import Triton
from stages.loopback import get
from stages.wakeup import HTTP_URL, BatcherWaker, expired

PAIRS = 16


def test_the_second_of_two_callers_does_not_wait_for_a_third(server: Triton, recordings: dict[str, bytes]) -> None:
    """Where nobody wakes Triton's batcher it sleeps for half a second, in every other pair or so."""
    clip = recordings["austen-0880.flac"]
    slower = []
    with EmotionClient(server.grpc_url) as client, ThreadPoolExecutor(2) as pool:

        def ask(_: int) -> float:
            began = time.monotonic()
            client.analyze(clip, "hello there")
            return time.monotonic() - began

        ask(0)
        for _ in range(PAIRS):
            slower.append(max(pool.map(ask, range(2))))
            time.sleep(0.05)
    assert quantiles(slower, n=4)[2] < 0.45, slower


def test_what_wakes_is_never_worked_on(server: Triton) -> None:
    def counted(metric: str) -> dict[str, float]:
        text = get(f"http://{server.metrics_url}/metrics", timeout=5)
        return {model: float(value) for model, value in re.findall(rf'(?m)^{metric}{{model="(\w+)".*}} (\S+)', text)}

    with EmotionClient(server.grpc_url) as client:
        client.analyze(text="hello")
        time.sleep(0.5)
        before = counted("nv_inference_count")
        rejected = counted(r'nv_inference_request_failure(?={model="\w+",reason="REJECTED")')
        for _ in range(10):
            client.analyze(text="hello")
        time.sleep(0.5)
    after = counted("nv_inference_count")
    assert {model: after[model] - before[model] for model in after} == dict.fromkeys(after, 10)
    more = counted(r'nv_inference_request_failure(?={model="\w+",reason="REJECTED")')
    assert all(more[model] > rejected[model] for model in ("preprocess", "queue"))
    assert all(more[model] == rejected[model] for model in ("emotion", "vggish", "bert", "fusion"))


def test_a_request_that_would_be_worked_on_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HTTP_URL, "127.0.0.1:1")
    configs: list[dict[str, Any]] = [
        {},
        {"dynamic_batching": {}},
        {"dynamic_batching": {"default_queue_policy": {"max_queue_size": 8}}},
    ]
    for config in configs:
        waker = BatcherWaker({"name": "m", "input": [], **config})
        with waker.batch():
            pass
        assert not hasattr(waker, "_request")


def test_a_request_has_the_inputs_that_the_model_asks_for() -> None:
    inputs = [
        {"name": "A", "data_type": "TYPE_STRING", "dims": ["1"]},
        {"name": "B", "data_type": "TYPE_FP32", "dims": ["-1", "2"]},
    ]
    request = expired({"name": "m", "input": inputs}).decode()
    assert request.startswith("POST /v2/models/m/infer HTTP/1.1\r\n")
    assert '{"name": "A", "shape": [1, 1], "datatype": "BYTES", "data": [""]}' in request
    assert '{"name": "B", "shape": [1, 0, 2], "datatype": "FP32", "data": []}' in request
