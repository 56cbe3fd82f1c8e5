"""`python -m benchmarks scaling`: what an autoscaler, alerts and probes see as an overload comes and goes.

A real Prometheus scrapes a real Triton with the rules of k8s/components/monitoring: at rest, at a multiple of the
capacity, at rest again. Meanwhile the probes of k8s/base ask as the kubelet does.
"""

import argparse
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import yaml
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import plotting
from benchmarks.load import runner
from benchmarks.load.sampling import STAGES
from benchmarks.load.workload import tokenizer_file
from benchmarks.plotting import Curve, Panel
from benchmarks.resilience.prometheus import INTERVAL_S, K8S, PrometheusClient, prometheus
from export.repository import ONNX_MODELS
from serving import Triton

HEALTH_CHECK, SERVING = "/grpc.health.v1.Health/Check", b"\x08\x01"  # HealthCheckResponse(status=SERVING)
WINDOW_S = 60.0  # over which the rules take rates
MAX_RISE_S = 30.0  # from the start of the overload until the signal is above its target
SIGNALS = {
    "waiting": "emoserve:queue_seconds:rate1m",
    "utilisation": "emoserve:utilisation:rate1m",
    "answered": "emoserve:requests:rate1m",
    "failing": "emoserve:failure_ratio:rate1m",
}
Series = Sequence[tuple[float, float]]


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m benchmarks scaling`."""
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the exported models")
    parser.add_argument("--overload", type=float, default=2.0, metavar="X", help="of the capacity (default: 2)")
    parser.add_argument("--minutes", type=float, default=3.0, metavar="N", help="duration of the overload (default: 3)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save a picture, as PNG or SVG")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 if the signal was late or stayed, or liveness failed, else 0."""
    tokenizer = tokenizer_file(arguments.repository)
    console = Console(stderr=True)
    probes, target = read_probes(), read_target()
    with (
        Triton(arguments.repository, http_port=0, grpc_port=0, metrics_port=0) as triton,
        prometheus(triton.metrics_url) as client,
    ):
        host = f"grpc://{triton.grpc_url}"
        with console.status("capacity"):
            capacity = runner.capacity(host, tokenizer)
        rate = arguments.overload * capacity
        with _asking(probes, triton.grpc_url):
            with console.status("at rest"):
                time.sleep(2 * WINDOW_S)
            with console.status(f"{rate:.1f} utterances/s for {arguments.minutes:g} minutes"):
                load = runner.run(host, tokenizer, seconds=60 * arguments.minutes, rate=rate)
            over = time.time()
            with console.status("at rest again"):
                time.sleep(2 * WINDOW_S)
        begun, end = float(load.start[0]), time.time()
        series = {name: client.series(query, begun - WINDOW_S, end) for name, query in SIGNALS.items()}
        fired = client.firing(begun, end)
        deviation = max(_deviations(client, begun, over))
    above = [moment for moment, value in series["waiting"] if value > target]
    rise = next((moment - begun for moment in above if moment >= begun), None)
    fall = above[-1] + INTERVAL_S - over if above and above[-1] <= end - 2 * INTERVAL_S else None
    print(f"{len(load.failure)} requests at {rate:.1f}/s ({arguments.overload:g} x {capacity:.1f}/s)")
    print(f"answered: {int(load.answered.sum())}, {dict(load.failures)}")
    print(f"waiting time: target {target:g} s, largest {max(value for _, value in series['waiting']):.1f} s")
    print(f"above target {_seconds(rise)} after the overload began, below it {_seconds(fall)} after the last answer")
    print(f"recorded against calculated from the raw counters: {deviation:.2%} apart at most")
    for name, probe in probes.items():
        print(
            f"{name}: asked {probe.asked} times, slowest {1e3 * probe.slowest:.0f} ms (of {probe.timeout:g} s), "
            f"at most {probe.failed} failures in a row (of {probe.threshold})"
        )
    for name, after in fired.items():
        print(f"alert {name}: fired {after:.0f} s after the overload began")
    if arguments.plot:
        plotting.save(plot(series, begun, over, target, rate), arguments.plot)
        print(f"plot: {arguments.plot}")
    healthy = probes["livenessProbe"].failed < probes["livenessProbe"].threshold
    return int(rise is None or rise > MAX_RISE_S or fall is None or not healthy)


def read_probes() -> dict[str, Probe]:
    """Return the readiness and liveness probes of k8s/base."""
    deployment = yaml.safe_load((K8S / "base" / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    probes = {name: container[name] for name in ("readinessProbe", "livenessProbe")}
    return {
        name: Probe(probe["periodSeconds"], probe["timeoutSeconds"], probe["failureThreshold"])
        for name, probe in probes.items()
    }


def read_target() -> float:
    """Return the seconds that a request may wait before the autoscaler acts."""
    text = (K8S / "components" / "autoscaling-keda" / "scaledobject.yaml").read_text()
    triggers = yaml.safe_load(text)["spec"]["triggers"]
    (found,) = (one for one in triggers if SIGNALS["waiting"] in one["metadata"]["query"])
    return float(found["metadata"]["threshold"])


@contextmanager
def _asking(probes: Mapping[str, Probe], grpc_url: str) -> Iterator[None]:
    ended = threading.Event()
    threads = [threading.Thread(target=probe.ask, args=(grpc_url, ended)) for probe in probes.values()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _deviations(client: PrometheusClient, start: float, end: float) -> Iterator[float]:
    """Yield the relative distance of each recorded "waiting" from what the raw counters of its minute give."""

    def grown(selector: str, at: float) -> float:
        found = client.query(f"{selector}[{WINDOW_S:g}s]", at)
        return sum(float(series["values"][-1][1]) - float(series["values"][0][1]) for series in found)

    def waited_s(stage: str, at: float) -> float:
        label = f'{{model="{stage}"}}'
        if stage in ONNX_MODELS:
            seconds = grown(f"nv_inference_queue_duration_us{label}", at) / 1e6
            return seconds / grown(f"nv_inference_request_success{label}", at)
        seconds = grown(f"emoserve_stage_wait_seconds_total{label}", at)
        return seconds / grown(f"emoserve_stage_requests_total{label}", at)

    (recorded,) = client.query(f"{SIGNALS['waiting']}[{end - start:.0f}s]", end)
    for moment, value in recorded["values"]:
        if moment > start + WINDOW_S:
            yield abs(float(value) / sum(waited_s(stage, moment) for stage in STAGES) - 1)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} s"


def plot(series: Mapping[str, Series], begun: float, over: float, target: float, rate: float) -> Figure:
    """Draw the signals of SIGNALS over time; the overload from `begun` to `over` is shaded."""
    curves: dict[str, Curve] = {
        name: ([moment - begun for moment, _ in values], [value for _, value in values])
        for name, values in series.items()
    }
    at = curves["waiting"][0]
    panels = [
        Panel({"waiting": curves["waiting"], f"target, {target:g} s": (at, [target] * len(at))}, "s a request waits"),
        Panel({"utilisation": curves["utilisation"], "failing": curves["failing"]}, "share", {"ylim": (0, 1.05)}),
        Panel({"answered": curves["answered"], "offered": ((0, over - begun), (rate, rate))}, "requests/s"),
    ]
    return plotting.stack(panels, "s since the overload began", (0, over - begun))
