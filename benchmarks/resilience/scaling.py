"""`python -m benchmarks scaling`: what an autoscaler, alerts and probes see as an overload comes and goes.

A real Prometheus scrapes a real Triton with the rules of k8s/components/monitoring: at rest, at a multiple of the
capacity, at rest again. Meanwhile the probes of k8s/base ask as the kubelet does.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import yaml

from benchmarks import output
from benchmarks.errors import BenchmarkError
from benchmarks.load import runner
from benchmarks.load.workload import tokenizer_file
from benchmarks.processes import HOST, ROOT, free_port, http_ready, running
from serving import Triton

K8S = ROOT / "k8s"
INTERVAL_S = 5.0  # of scrapes and of the rules' evaluation


@dataclass(frozen=True)
class PrometheusClient:
    """Queries a Prometheus, given its URL."""

    url: str

    def query(self, query: str, at: float) -> list[dict[str, Any]]:
        """Return the series of a query at a moment."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query, "time": at}, timeout=10)
        return list(answer.raise_for_status().json()["data"]["result"])

    def series(self, query: str, start: float, end: float) -> list[tuple[float, float]]:
        """Return (time, value) of a query with one series, between two moments."""
        found = self.query(f"{query}[{end - start:.0f}s]", end)
        return [(float(moment), float(value)) for moment, value in found[0]["values"]] if found else []

    def firing(self, start: float, end: float) -> dict[str, float]:
        """Return the alerts that fired, with the seconds from `start` to the first time, earliest first."""
        alerts = self.query(f'ALERTS{{alertstate="firing"}}[{end - start:.0f}s]', end)
        found: dict[str, float] = {}
        for one in sorted(alerts, key=lambda one: float(one["values"][0][0])):
            found.setdefault(one["metric"]["alertname"], float(one["values"][0][0]) - start)
        return found


@contextmanager
def prometheus(metrics_url: str) -> Iterator[PrometheusClient]:
    """Run a Prometheus that scrapes a server, while the block lasts. Raises BenchmarkError if it cannot be started."""
    binary = shutil.which("prometheus")
    if binary is None:
        raise BenchmarkError("no prometheus found: install it (Debian: apt-get install prometheus)")
    rules = yaml.safe_load((K8S / "components" / "monitoring" / "rules.yaml").read_text())["spec"]
    interval = f"{INTERVAL_S:g}s"
    target = {"targets": [metrics_url], "labels": {"namespace": "emoserve", "pod": "triton-0"}}
    configuration = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "emoserve/triton", "static_configs": [target]}],
    }
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="emoserve-prometheus-") as name:
        directory = Path(name)
        (directory / "rules.yml").write_text(yaml.safe_dump(rules))
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        command = [binary, f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"]
        command.append(f"--web.listen-address={HOST}:{port}")
        url = f"http://{HOST}:{port}"
        with running("prometheus", command, http_ready(f"{url}/-/ready"), os.environ):
            yield PrometheusClient(url)


HEALTH_CHECK, SERVING = "/grpc.health.v1.Health/Check", b"\x08\x01"  # HealthCheckResponse(status=SERVING)
WINDOW_S = 60.0  # over which the rules take rates
MAX_RISE_S = 30.0  # from the start of the overload until the signal is above its target
SIGNALS = {
    "waiting": "emoserve:queue_seconds:rate1m",
    "utilisation": "emoserve:utilisation:rate1m",
    "answered": "emoserve:requests:rate1m",
    "failing": "emoserve:failure_ratio:rate1m",
}


@dataclass
class Probe:
    """A probe of the kubelet, and its results."""

    period: float  # s
    timeout: float  # s
    threshold: int  # failures in a row at which the kubelet acts
    asked: int = 0  # number of probes
    failed: int = 0  # most failures in a row
    slowest: float = 0.0  # s
    _row: int = field(default=0, repr=False)

    def ask(self, grpc_url: str, ended: threading.Event) -> None:
        """Ask gRPC's health service over a new connection each time, until the event is set."""
        while not ended.is_set():
            begun = time.monotonic()
            try:
                with grpc.insecure_channel(grpc_url) as channel:
                    answer = channel.unary_unary(HEALTH_CHECK)(b"", timeout=self.timeout)
                self._row = 0 if answer == SERVING else self._row + 1
            except grpc.RpcError:
                self._row += 1
            took = time.monotonic() - begun
            self.asked += 1
            self.failed, self.slowest = max(self.failed, self._row), max(self.slowest, took)
            ended.wait(max(0.0, self.period - took))


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 if the signal was late or stayed, or liveness failed, else 0."""
    tokenizer = tokenizer_file(arguments.repository)
    probes, target, ended = read_probes(), read_target(), threading.Event()
    with (
        Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0) as triton,
        prometheus(triton.metrics_url) as client,
        ThreadPoolExecutor() as threads,
    ):
        host = f"grpc://{triton.grpc_url}"
        capacity = runner.capacity(host, tokenizer)
        rate = arguments.overload * capacity
        for probe in probes.values():
            threads.submit(probe.ask, triton.grpc_url, ended)
        try:
            with output.console.status("at rest"):
                time.sleep(2 * WINDOW_S)
            with output.console.status(f"{rate:.1f} utterances/s for {arguments.minutes:g} minutes"):
                load = runner.run(host, tokenizer, seconds=60 * arguments.minutes, rate=rate)
            over = time.time()
            with output.console.status("at rest again"):
                time.sleep(2 * WINDOW_S)
        finally:
            ended.set()
        begun, end = float(load.start[0]), time.time()
        series = {name: client.series(query, begun - WINDOW_S, end) for name, query in SIGNALS.items()}
        fired = client.firing(begun, end)
    above = [moment for moment, value in series["waiting"] if value > target]
    rise = next((moment - begun for moment in above if moment >= begun), None)
    fall = above[-1] + INTERVAL_S - over if above and above[-1] <= end - 2 * INTERVAL_S else None
    print(f"{len(load.failure)} requests at {rate:.1f}/s ({arguments.overload:g} x {capacity:.1f}/s)")
    print(f"answered: {int(load.answered.sum())}, {dict(load.failures)}")
    largest = (f"{name} {np.nanmax([value for _, value in found], initial=0):.2f}" for name, found in series.items())
    print(f"target of the waiting time: {target:g} s; largest values: {', '.join(largest)}")
    risen, fallen = ("never" if value is None else f"{value:.0f} s" for value in (rise, fall))
    print(f"above target {risen} after the overload began, below it {fallen} after the last answer")
    for name, probe in probes.items():
        slowest = f"slowest {1e3 * probe.slowest:.0f} ms (of {probe.timeout:g} s)"
        failed = f"at most {probe.failed} failures in a row (of {probe.threshold})"
        print(f"{name}: asked {probe.asked} times, {slowest}, {failed}")
    for name, after in fired.items():
        print(f"alert {name}: fired {after:.0f} s after the overload began")
    healthy = probes["livenessProbe"].failed < probes["livenessProbe"].threshold
    return int(rise is None or rise > MAX_RISE_S or fall is None or not healthy)


def read_probes() -> dict[str, Probe]:
    """Return the readiness and liveness probes of k8s/base."""
    deployment = yaml.safe_load((K8S / "base" / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    keys = ("periodSeconds", "timeoutSeconds", "failureThreshold")
    return {name: Probe(*map(container[name].get, keys)) for name in ("readinessProbe", "livenessProbe")}


def read_target() -> float:
    """Return the seconds that a request may wait before the autoscaler acts."""
    text = (K8S / "components" / "autoscaling-keda" / "scaledobject.yaml").read_text()
    triggers = yaml.safe_load(text)["spec"]["triggers"]
    (found,) = (one for one in triggers if SIGNALS["waiting"] in one["metadata"]["query"])
    return float(found["metadata"]["threshold"])
