"""`python -m benchmarks scaling`: what an autoscaler would see, and the probes of Kubernetes, as load comes and goes.

A real Prometheus reads a real Triton and records with the rules of k8s/components/monitoring: at rest, at a multiple of
what the server can answer, at rest again. All the while the probes of k8s/base ask as the kubelet would.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import yaml
from rich.console import Console

from benchmarks import load, plots
from benchmarks.errors import BenchmarkError
from benchmarks.soak import CAPACITY_REQUESTS, USERS
from benchmarks.workload import tokenizer_file
from export.repository import ONNX_MODELS
from serving import Triton
from serving.triton import free_ports

K8S = Path(__file__).parent.parent / "k8s"
HEALTH_CHECK, SERVING = "/grpc.health.v1.Health/Check", b"\x08\x01"  # HealthCheckResponse(status=SERVING)
INTERVAL = 5.0  # s from one scrape, and one evaluation of the rules, to the next
WINDOW = 60.0  # s over which the rules take rates
LABELS = {"namespace": "emoserve", "pod": "triton-0"}
ALLOWED_RISE = 30.0  # s from the overload's beginning until the signal is above its target
SIGNALS = {
    "waiting": "emoserve:queue_seconds:rate1m",
    "utilisation": "emoserve:utilisation:rate1m",
    "answered": "emoserve:requests:rate1m",
    "failing": "emoserve:failure_ratio:rate1m",
}


@dataclass
class Probe:
    """One of the kubelet's probes, and how it went.

    Attributes:
        failed: most failures in a row; at `threshold` the kubelet would act.
        slowest: s.
    """

    period: float  # s
    timeout: float  # s
    threshold: int
    asked: int = 0
    failed: int = 0
    slowest: float = 0.0
    _row: int = field(default=0, repr=False)

    def ask(self, grpc_url: str, ended: threading.Event) -> None:
        """Go on asking gRPC's health service until the event is set, with a new connection each time."""
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
            self.failed = max(self.failed, self._row)
            self.slowest = max(self.slowest, took)
            ended.wait(max(0.0, self.period - took))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks scaling`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument("--overload", type=float, default=2.0, metavar="X", help="of what it can answer (default: 2)")
    parser.add_argument("--minutes", type=float, default=3.0, metavar="N", help="of overload (default: 3)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save a picture, as PNG or SVG")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print.

    Returns:
        0, or 1 where the signal was late or stayed, or liveness gave up.
    """
    tokenizer = tokenizer_file(arguments.repository)
    console = Console(stderr=True)
    probes = read_probes()
    target = read_target()
    ended = threading.Event()
    with (
        Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0) as triton,
        prometheus(triton.metrics_url) as asked,
    ):
        host = f"grpc://{triton.grpc_url}"
        with console.status("what it can answer"):
            capacity = load.run(host, tokenizer, users=USERS, requests=CAPACITY_REQUESTS).throughput
        rate = arguments.overload * capacity
        asking = [threading.Thread(target=probe.ask, args=(triton.grpc_url, ended)) for probe in probes.values()]
        for thread in asking:
            thread.start()
        try:
            with console.status("at rest"):
                time.sleep(2 * WINDOW)
            begun = time.time()
            with console.status(f"{rate:.1f} utterances/s for {arguments.minutes:g} minutes"):
                sent = load.run(host, tokenizer, seconds=60 * arguments.minutes, rate=rate)
            over = time.time()
            with console.status("at rest again"):
                time.sleep(2 * WINDOW)
        finally:
            ended.set()
            for thread in asking:
                thread.join()
        start, end = begun - WINDOW, time.time()
        series = {name: asked.series(query, start, end) for name, query in SIGNALS.items()}
        fired = firing(asked, begun, end)
        deviation = max(_deviations(asked, begun, over))
    # Locust needs a few seconds to start, which are not the signal's
    begun = float(sent.start[0])
    rise = next((moment - begun for moment, value in series["waiting"] if moment >= begun and value > target), None)
    last = max((moment for moment, value in series["waiting"] if value > target), default=None)
    fall = None if last is None or last > end - 2 * INTERVAL else last + INTERVAL - over
    print(f"{len(sent.failure)} requests at {rate:.1f}/s ({arguments.overload:g} x {capacity:.1f}/s)")
    print(f"answered: {int(sent.answered.sum())}, {dict(sent.failures)}")
    print(
        f"time that a request waits: target {target:g} s, largest {max(value for _, value in series['waiting']):.1f} s"
    )
    print(
        f"above its target {_seconds(rise)} after the overload began, below it {_seconds(fall)} after the last answer"
    )
    print(f"recorded against calculated from the raw counters: {deviation:.2%} apart at most")
    for name, probe in probes.items():
        print(
            f"{name}: asked {probe.asked} times, slowest {1e3 * probe.slowest:.0f} ms (of {probe.timeout:g} s), "
            f"at most {probe.failed} failures in a row (of {probe.threshold})"
        )
    for name, after in fired.items():
        print(f"alert {name}: fired {after:.0f} s after the overload began")
    if arguments.plot:
        plots.save(plots.scaling(series, begun, over, target, rate), arguments.plot)
        print(f"plot: {arguments.plot}")
    healthy = probes["livenessProbe"].failed < probes["livenessProbe"].threshold
    return int(rise is None or rise > ALLOWED_RISE or fall is None or not healthy)


def read_probes() -> dict[str, Probe]:
    """Readiness and liveness as k8s/base has them."""
    deployment = yaml.safe_load((K8S / "base" / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {
        name: Probe(
            container[name]["periodSeconds"],
            container[name]["timeoutSeconds"],
            container[name]["failureThreshold"],
        )
        for name in ("readinessProbe", "livenessProbe")
    }


def read_target() -> float:
    """Seconds that a request may wait before the autoscaler acts."""
    text = (K8S / "components" / "autoscaling-keda" / "scaledobject.yaml").read_text()
    triggers = yaml.safe_load(text)["spec"]["triggers"]
    (found,) = (one for one in triggers if SIGNALS["waiting"] in one["metadata"]["query"])
    return float(found["metadata"]["threshold"])


class Asked:
    """A Prometheus to ask."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, path: str) -> list[dict[str, Any]]:
        """The result of a call to its API."""
        with urllib.request.urlopen(f"http://{self._url}/api/v1/{path}", timeout=10) as answer:
            return list(json.load(answer)["data"]["result"])

    def series(self, query: str, start: float, end: float) -> list[tuple[float, float]]:
        """(time, value) every 5 s, of a query with one series."""
        found = self.query(f"query_range?query={quote(query)}&start={start}&end={end}&step={INTERVAL}")
        return [(float(moment), float(value)) for moment, value in found[0]["values"]] if found else []

    def samples(self, query: str, at: float) -> list[tuple[float, float]]:
        """(time, value) as scraped, of a query for a range of one series."""
        (found,) = self.query(f"query?query={quote(query)}&time={at}")
        return [(float(moment), float(value)) for moment, value in found["values"]]


@contextmanager
def prometheus(metrics_url: str) -> Iterator[Asked]:
    """A Prometheus that reads the server and records, until the block ends."""
    binary = shutil.which("prometheus")
    if binary is None:
        raise BenchmarkError("no prometheus found: install it (Debian: apt-get install prometheus)")
    port = free_ports("127.0.0.1", {"Prometheus": 0})["Prometheus"]
    rules = yaml.safe_load((K8S / "components" / "monitoring" / "rules.yaml").read_text())["spec"]
    interval = f"{INTERVAL:g}s"
    job = {"job_name": "emoserve/triton", "static_configs": [{"targets": [metrics_url], "labels": LABELS}]}
    with tempfile.TemporaryDirectory(prefix="emoserve-prometheus-") as name:
        directory = Path(name)
        (directory / "rules.yml").write_text(yaml.safe_dump(rules))
        configuration = {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": ["rules.yml"],
            "scrape_configs": [job],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        command = [binary, f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"]
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
        try:
            _await_ready(process, f"http://127.0.0.1:{port}/-/ready")
            yield Asked(f"127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait()


def _await_ready(process: subprocess.Popen[bytes], url: str) -> None:
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise BenchmarkError(f"prometheus ended with exit status {process.returncode}; start it by hand to see why")


def firing(asked: Asked, start: float, end: float) -> dict[str, float]:
    """The first moment of each alert that fired, in s after `start`."""
    query = quote('ALERTS{alertstate="firing"}')
    first: dict[str, float] = defaultdict(lambda: float("inf"))
    for one in asked.query(f"query_range?query={query}&start={start}&end={end}&step={INTERVAL}"):
        name = one["metric"]["alertname"]
        first[name] = min(first[name], float(one["values"][0][0]) - start)
    return dict(sorted(first.items(), key=lambda item: item[1]))


def _deviations(asked: Asked, start: float, end: float) -> Iterator[float]:
    """Yield the relative distance of each recorded "waiting" from what the raw counters of the same minute give."""

    def grown(selector: str, at: float) -> float:
        found = asked.query(f"query?query={quote(f'{selector}[{WINDOW:g}s]')}&time={at}")
        return sum(float(series["values"][-1][1]) - float(series["values"][0][1]) for series in found)

    def waited_s(stage: str, at: float) -> float:
        """Return the mean over the requests of a stage."""
        if stage in ONNX_MODELS:
            seconds = grown(f'nv_inference_queue_duration_us{{model="{stage}"}}', at) / 1e6
            return seconds / grown(f'nv_inference_request_success{{model="{stage}"}}', at)
        seconds = grown(f'emoserve_stage_wait_seconds_total{{model="{stage}"}}', at)
        return seconds / grown(f'emoserve_stage_requests_total{{model="{stage}"}}', at)

    for moment, value in asked.samples(f"{SIGNALS['waiting']}[{end - start:.0f}s]", end):
        if moment > start + WINDOW:
            yield abs(value / sum(waited_s(stage, moment) for stage in plots.STAGES) - 1)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} s"
