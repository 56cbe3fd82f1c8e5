"""One Triton with unusual options: paths with spaces, IPv6, speech, a response cache, and a terminal."""

import os
import pty
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from emotion_client import EmotionClient
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from serving import Triton, TritonError
from serving.addresses import resolve
from serving.installation import Installation, http_warning
from stages.loopback import get
from stages.triton_metrics import METRICS_URL
from tests.conftest import ROOT, copy_repository

PACKAGES = ("emotion", "serving", "speech_repository", "stages")


@dataclass
class Launched:
    """A `python -m serving` process that is ready.

    Attributes:
        configuration: the line that says which configuration was chosen.
        terminal: what its standard error, a terminal, has shown so far, in bytes.
    """

    process: psutil.Process
    grpc_url: str
    http_url: str
    metrics_url: str
    configuration: str
    terminal: bytearray

    def metric(self, name: str) -> float:
        """Return the sum of a metric over all models."""
        found = re.findall(rf"(?m)^{name}{{.*}} (\S+)$", get(self.metrics_url, timeout=5))
        return sum(map(float, found))


@pytest.fixture(scope="module")
def launched(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    checkout = tmp_path_factory.mktemp("check out & $HOME's")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, checkout / package)
    served = copy_repository(repository, checkout / "model repository")
    config = (served / "emotion" / "config.pbtxt").read_text()
    (served / "emotion" / "config.pbtxt").unlink()
    (served / "emotion" / "config.pbtxt").write_text(f"{config}\nresponse_cache {{ enable: true }}\n")
    options = ["--repository", "model repository", "--speech", "--host", "::1", "--open-statistics"]
    options += ["--config", "auto"]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    command = [sys.executable, "-m", "serving", *options, *ports, "--", "--cache-config=local,size=4194304"]
    ours, terminal = pty.openpty()
    process = psutil.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=terminal, text=True)
    os.close(terminal)
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                shown.extend(data)
        except OSError:  # Linux raises it when no process has the terminal open
            os.close(ours)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        ready = re.match(r"ready: gRPC (\S+), HTTP (\S+), metrics (\S+)\n", process.stdout.readline())
        assert ready, shown.decode()
        yield Launched(process, ready[1], ready[2], ready[3], process.stdout.readline(), shown)
    finally:
        process.terminate()
        process.wait(60)
        reader.join()
        process.stdout.close()


def test_launch_from_paths_with_special_characters_serves_both_repositories(
    launched: Launched, recordings: dict[str, bytes]
) -> None:
    with EmotionClient(launched.grpc_url) as client:
        assert client.analyze(text="from a path with spaces").probabilities
        assert client.analyze(recordings["austen-0890.flac"], transcribe=True).transcript


def test_launch_with_automatic_configuration_says_what_it_took(launched: Launched) -> None:
    """The repository has no int8 files."""
    assert re.fullmatch(
        r"configuration default: (int8.* would be chosen, as .*; run: .*|int8 is measured .*)\n", launched.configuration
    )


def test_launch_on_ipv6_listens_on_ipv6_only(launched: Launched) -> None:
    (triton,) = launched.process.children()
    listening = [one.laddr.ip for one in triton.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert set(listening) == {"::1"}
    for url in (launched.grpc_url, launched.http_url):
        assert re.fullmatch(r"\[::1\]:\d+", url)
    get(f"http://{launched.http_url}/v2/health/ready", timeout=5)


def test_launch_with_open_statistics_opens_them_and_nothing_else(launched: Launched) -> None:
    assert "model_stats" in get(f"http://{launched.http_url}/v2/models/stats", timeout=5)
    with InferenceServerClient(launched.grpc_url) as client:
        assert client.get_inference_statistics().model_stats
        for closed in (client.get_log_settings, client.get_trace_settings, client.get_model_repository_index):
            with pytest.raises(InferenceServerException, match="expecting header 'triton-grpc-protocol-admin-key'"):
                closed()


def test_launch_on_ipv6_reaches_metrics_and_instances(launched: Launched) -> None:
    (triton,) = launched.process.children()
    assert "nv_inference_pending_request_count" in get(triton.children()[0].environ()[METRICS_URL], timeout=5)
    deadline = time.monotonic() + 10
    while not launched.metric("emoserve_model_instances"):  # the stage `queue` reads them over HTTP
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_launch_with_a_response_cache_answers_the_same_request_from_it(launched: Launched) -> None:
    with EmotionClient(launched.grpc_url) as client:
        first = client.analyze(text="the same words again")
        hits = launched.metric("nv_cache_num_hits_per_model")
        assert client.analyze(text="the same words again").probabilities == first.probabilities
    deadline = time.monotonic() + 10
    while launched.metric("nv_cache_num_hits_per_model") != hits + 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_launch_on_a_terminal_shows_one_line_that_is_updated_and_cleared(launched: Launched) -> None:
    clear, line = rb"\r\x1b\[K", rb"starting Triton: \d+ of (\d+) models loaded, \d+ s"
    deadline = time.monotonic() + 10
    while not (shown := re.fullmatch(rb"(?:%b%b)+%b" % (clear, line, clear), launched.terminal)):
        assert time.monotonic() < deadline, launched.terminal
        time.sleep(0.1)
    served = [*ROOT.glob("model_repository/*/config.pbtxt"), *ROOT.glob("speech_repository/*/config.pbtxt")]
    assert int(shown[1]) == len(served)


def test_launch_with_temporary_files_in_a_path_with_spaces_is_rejected(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary files").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary files"))
    with (
        pytest.raises(TritonError, match=r"^the directory for temporary files '.*/temporary files' .* set TMPDIR to"),
        Triton(repository, http_port=0, grpc_port=0, metrics_port=0),
    ):
        pytest.fail("Triton started")
    assert not list((tmp_path / "temporary files").iterdir())


@pytest.mark.parametrize(
    ("host", "grpc_url"),
    [
        ("127.0.0.1", "127.0.0.1:8001"),
        ("0.0.0.0", "127.0.0.1:8001"),
        ("::", "[::1]:8001"),
        ("fd00::2", "[fd00::2]:8001"),
    ],
)
def test_grpc_url_of_each_kind_of_address_is_reachable_from_this_machine(
    tmp_path: Path, host: str, grpc_url: str
) -> None:
    assert Triton(tmp_path, host=host).grpc_url == grpc_url


@pytest.mark.parametrize(
    ("host", "http_url"),
    [
        ("127.0.0.1", "127.0.0.1:8000"),
        ("127.0.0.2", "127.0.0.2:8000"),
        ("0.0.0.0", "127.0.0.1:8000"),
        ("192.0.2.1", "127.0.0.1:8000"),
        ("::", "127.0.0.1:8000"),
        ("::1", "[::1]:8000"),
        ("fd00::2", "127.0.0.1:8000"),
    ],
)
def test_http_listens_on_loopback_unless_it_is_exposed(tmp_path: Path, host: str, http_url: str) -> None:
    server = Triton(tmp_path, host=host)
    assert server.http_url == http_url
    exposed = Triton(tmp_path, host=host, expose_http=True)
    assert exposed.http_url == exposed.grpc_url.replace("8001", "8000")


@pytest.mark.parametrize(
    ("release", "warning"),
    [
        ("24.10", "HTTP is exposed. Triton 24.10 can be crashed by one HTTP request"),
        (None, "HTTP is exposed. A Triton older than 25.08 can be crashed by one HTTP request"),
        ("25.08", None),
        ("26.09", None),
    ],
)
def test_http_warning_of_a_vulnerable_release_is_a_sentence(release: str | None, warning: str | None) -> None:
    found = http_warning(Installation(Path(), Path(), Path(), release=release))
    assert found is None if warning is None else found is not None and found.startswith(warning)


@pytest.mark.parametrize(("host", "address"), [("localhost", "127.0.0.1"), ("[::1]", "::1"), ("::", "::")])
def test_resolve_returns_an_address_that_triton_can_bind_to(host: str, address: str) -> None:
    assert resolve(host) == address


@pytest.mark.parametrize("host", ["no-such-host.invalid", "", "a..b"])
def test_resolve_unknown_host_is_rejected(host: str) -> None:
    with pytest.raises(TritonError, match=r"^--host .* can't be used \(.*\); give an address of this machine"):
        resolve(host)
