"""Test the metrics for an autoscaler with a real Prometheus."""

import math
import os
import shutil
import threading
import time

import pytest
from emotion_client import EmotionClient, Utterance

from benchmarks.resilience import scaling
from benchmarks.resilience.scaling import SIGNALS, WINDOW_S, Probe, prometheus
from serving import Triton
from serving.triton import free_ports


def test_read_probes_and_target_reads_the_manifests() -> None:
    probes = scaling.read_probes()
    assert probes["livenessProbe"] == Probe(10, 10, 6)
    assert probes["readinessProbe"] == Probe(5, 5, 3)
    assert scaling.read_target() == 0.5


def test_probe_counts_failures_in_a_row(server: Triton) -> None:
    probe = Probe(0.05, 1.0, 3)
    ended = threading.Event()
    unreachable = f"127.0.0.1:{free_ports('127.0.0.1', {'gRPC': 0})['gRPC']}"
    for url, asked in ((server.grpc_url, 3), (unreachable, 5), (server.grpc_url, 3)):
        ended.clear()
        thread = threading.Thread(target=probe.ask, args=(url, ended))
        before = probe.asked
        thread.start()
        while probe.asked < before + asked:
            time.sleep(0.01)
        ended.set()
        thread.join()
    assert 5 <= probe.failed <= 7


@pytest.mark.skipif(
    not shutil.which("prometheus") and "CI" not in os.environ, reason="Debian's package prometheus is missing"
)
def test_prometheus_records_what_was_served(server: Triton, recordings: dict[str, bytes]) -> None:
    utterances = [Utterance(audio=data, text="so it is") for data in recordings.values()]
    with EmotionClient(server.grpc_url) as client, prometheus(server.metrics_url) as metrics:
        start = time.time()
        client.analyze_many(utterances)
        deadline = time.monotonic() + 60
        while not metrics.query("nv_inference_request_success", time.time()):  # not scraped yet
            assert time.monotonic() < deadline
            time.sleep(0.5)
        client.analyze_many(utterances * 6, concurrency=30)
        while not (waits := metrics.series(SIGNALS["waiting"], start, time.time())) or waits[-1][1] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        end = waits[-1][0]
        series = {name: metrics.series(query, start, end) for name, query in SIGNALS.items()}
        assert metrics.firing(start, end) == {}
        (found,) = metrics.query('nv_inference_request_success{model="emotion"}[1m]', end)
    grown = float(found["values"][-1][1]) - float(found["values"][0][1])
    assert 0 < waits[-1][1] < 10
    assert 0 < grown <= 6 * len(utterances)
    assert series["answered"][-1][1] * WINDOW_S >= grown  # Prometheus extrapolates to the whole minute
    assert 0 < series["utilisation"][-1][1] <= 1.2
    assert math.isclose(series["failing"][-1][1], 0.0)
