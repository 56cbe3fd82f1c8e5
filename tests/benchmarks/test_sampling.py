"""Test that the sampler's counts equal the requests that were sent."""

import os
from typing import cast

import pytest
from emotion_client import EmotionClient, Utterance

from benchmarks.errors import BenchmarkError
from benchmarks.load.sampling import cpu_seconds, sampled
from export.repository import ONNX_MODELS
from serving import Triton
from serving.triton import free_ports

MODELS = {"preprocess", "queue", "vggish", "bert", "fusion"}


def test_sampler_counts_the_requests_sent(server: Triton, recordings: dict[str, bytes]) -> None:
    utterances = [Utterance(text=f"utterance number {number}") for number in range(300)]  # a load of some seconds
    utterances += [Utterance(audio=data) for data in recordings.values()]
    with EmotionClient(server.grpc_url) as client:
        client.analyze(text="this one comes before")
        before = sum(cpu_seconds(server.pid).values())
        with sampled(server) as result:
            client.analyze_many(utterances, concurrency=48)  # more than a batch, so that some wait in the queue
        used = sum(cpu_seconds(server.pid).values()) - before
    assert set(result.models) == MODELS | {"emotion"}
    for name, model in result.models.items():
        assert model.requests == len(utterances), name
        assert 0 < model.executions <= len(utterances)
        assert model.compute_ms > 0
    for name in ONNX_MODELS:
        model = result.models[name]
        assert model.executions < len(utterances)  # batched
        assert model.mean_batch > 1 and model.queue_ms > 0

    assert set(result.cpu_seconds) == MODELS | {"tritonserver"}
    assert sum(result.cpu_seconds.values()) == pytest.approx(used, rel=0.1)


class UnreachableServer:
    metrics_url = f"127.0.0.1:{free_ports('127.0.0.1', {'HTTP': 0})['HTTP']}"
    pid = os.getpid()


def test_sampler_without_a_server_names_it() -> None:
    with (
        pytest.raises(BenchmarkError, match=r"no metrics from the server at .*: is it still running"),
        sampled(cast("Triton", UnreachableServer())),
    ):
        pass
