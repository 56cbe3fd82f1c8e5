"""The server's side: does it add up to what was sent?"""

import os
from collections import Counter
from typing import ClassVar

import pytest
from emotion_client import EmotionClient, Utterance

from benchmarks.errors import BenchmarkError
from benchmarks.sampling import Sampler, cpu_seconds
from export.repository import ONNX_MODELS
from serving import Triton
from serving.triton import free_ports

MODELS = {"preprocess", "queue", "vggish", "bert", "fusion"}


def test_counts_are_those_of_the_requests_sent(server: Triton, recordings: dict[str, bytes]) -> None:
    utterances = [Utterance(text=f"utterance number {number}") for number in range(300)]  # for some seconds
    utterances += [Utterance(audio=data) for data in recordings.values()]
    with EmotionClient(server.grpc_url) as client:
        client.analyze(text="this one comes before")
        before = cpu_seconds(server.pid)
        with Sampler(server, interval=0.1) as sampler:
            client.analyze_many(utterances, concurrency=48)  # more than a batch holds: some wait
        used = cpu_seconds(server.pid) - before
    result = sampler.result
    assert set(result.models) == MODELS | {"emotion"}
    for name, model in result.models.items():
        assert model.requests == len(utterances), name
        assert sum(model.batch_sizes.values()) == model.executions
        assert sum((Counter({size: size * n for size, n in model.batch_sizes.items()})).values()) == len(utterances)
        assert model.compute_infer_ms > 0
    for name in ONNX_MODELS:
        model = result.models[name]
        assert model.executions < len(utterances)  # batched
        assert model.mean_batch > 1 and model.queue_ms > 0
        # a request's mean is weighted by batch sizes; an execution's is not
        assert 0 < model.busy_seconds < len(utterances) * model.compute_infer_ms / 1e3

    assert set(result.cpu_seconds) == MODELS | {"tritonserver"}
    assert sum(result.cpu_seconds.values()) == pytest.approx(used, rel=0.1)
    timeline = result.timeline
    assert len(timeline) >= 3
    durations = [row["seconds"] - earlier for row, earlier in zip(timeline, [0.0, *_seconds(timeline)], strict=False)]
    answered = sum(row["requests_per_s"] * duration for row, duration in zip(timeline, durations, strict=True))
    assert answered == pytest.approx(len(utterances))
    assert max(row["queued"] for row in timeline) > 0
    assert 0.2 < max(row["cpu_cores"] for row in timeline) < (os.cpu_count() or 1) + 0.5
    assert all(300 < row["rss_mib"] < 4000 for row in timeline)


def _seconds(timeline: list[dict[str, float]]) -> list[float]:
    return [row["seconds"] for row in timeline]


class Nowhere:
    http_url = metrics_url = f"127.0.0.1:{free_ports('127.0.0.1', {'HTTP': 0})['HTTP']}"
    admin_headers: ClassVar[dict[str, str]] = {}
    pid = os.getpid()


def test_a_server_that_is_gone_is_named() -> None:
    with (
        pytest.raises(BenchmarkError, match=r"no statistics from the server at .*: is it still running"),
        Sampler(Nowhere()),
    ):
        pass
