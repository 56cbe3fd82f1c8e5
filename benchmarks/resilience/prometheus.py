"""Runs a Prometheus beside a server, with the recording rules and alerts of k8s/components/monitoring."""

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.errors import BenchmarkError
from benchmarks.processes import HOST, ROOT, free_port, http_ready, running

K8S = ROOT / "k8s"
INTERVAL_S = 5.0  # of scrapes and of the rules' evaluation
LABELS = {"namespace": "emoserve", "pod": "triton-0"}


class PrometheusClient:
    """Queries a Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, query: str, at: float) -> list[dict[str, Any]]:
        """Return the series of a query at a moment."""
        return self._get("query", query=query, time=at)

    def query_range(self, query: str, start: float, end: float) -> list[dict[str, Any]]:
        """Return the series of a query between two moments, one value each 5 s."""
        return self._get("query_range", query=query, start=start, end=end, step=INTERVAL_S)

    def series(self, query: str, start: float, end: float) -> list[tuple[float, float]]:
        """Return (time, value) of a query with one series."""
        found = self.query_range(query, start, end)
        return [(float(moment), float(value)) for moment, value in found[0]["values"]] if found else []

    def firing(self, start: float, end: float) -> dict[str, float]:
        """Return the alerts that fired, with the seconds from `start` to the first time."""
        first: dict[str, float] = defaultdict(lambda: float("inf"))
        for one in self.query_range('ALERTS{alertstate="firing"}', start, end):
            name = one["metric"]["alertname"]
            first[name] = min(first[name], float(one["values"][0][0]) - start)
        return dict(sorted(first.items(), key=lambda item: item[1]))

    def _get(self, path: str, **parameters: str | float) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=10)
        return list(answer.raise_for_status().json()["data"]["result"])


@contextmanager
def prometheus(metrics_url: str) -> Iterator[PrometheusClient]:
    """Run a Prometheus that scrapes a server, while the block lasts.

    Raises:
        BenchmarkError: Prometheus is not installed, or does not start.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        raise BenchmarkError("no prometheus found: install it (Debian: apt-get install prometheus)")
    rules = yaml.safe_load((K8S / "components" / "monitoring" / "rules.yaml").read_text())["spec"]
    interval = f"{INTERVAL_S:g}s"
    configuration = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": "emoserve/triton", "static_configs": [{"targets": [metrics_url], "labels": LABELS}]}
        ],
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
