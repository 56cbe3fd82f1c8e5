"""Starting and stopping Triton with real processes; each reason of a failed start is one line."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from emotion_client import EmotionClient

from emotion.manifest import digest
from serving import Triton, TritonError, installation
from serving.installation import Installation, check_release, find_triton
from serving.repository import SPEECH_REPOSITORY, check_config
from serving.triton import free_ports
from tests.conftest import copy_repository

ANY_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
HAS_GPU = Path("/dev/nvidiactl").exists()


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the TMPDIR of this test alone, to check what is left in it."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    """Return a copy of the exported repository, whose models can't be loaded."""
    return copy_repository(repository, tmp_path / "copied", loadable=False)


def start_error(*arguments: object, **named: object) -> str:
    """Return the message of the TritonError that a start raises, which must be one line."""
    triton = Triton(*arguments, **{"http_port": 0, "grpc_port": 0, "metrics_port": 0} | named)  # type: ignore[arg-type]
    with pytest.raises(TritonError) as caught, triton:
        pytest.fail("Triton started")
    message = str(caught.value)
    assert message.strip()
    assert "\n" not in message
    return message


def process_group(leader: int) -> list[int]:
    """Return the process IDs of a process group, without zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def child_pid(parent: int) -> int:
    """Return the ID of the only child process of `python -m serving`, which is tritonserver."""
    (pid,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(pid)


@dataclass
class Served:
    """A `python -m serving` process that has printed that it is ready."""

    process: subprocess.Popen[str]
    ready: str
    leader: int  # process ID of Triton, which leads its process group
    errors: Path  # file with its standard error


@contextmanager
def serving(repository: Path, errors: Path, *arguments: str) -> Iterator[Served]:
    """Run the command as a user does, and yield it when it is ready."""
    command = [sys.executable, "-m", "serving", "--repository", str(repository), *ANY_PORTS, *arguments]
    with errors.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("ready: "), errors.read_text()
        yield Served(process, ready, child_pid(process.pid), errors)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        if process.stdout:
            process.stdout.close()


def assert_ends_cleanly(served: Served, number: signal.Signals, scratch: Path) -> None:
    """Send a signal, and check that the command ends within 15 s with status 0 and leaves nothing behind."""
    assert len(process_group(served.leader)) >= 4  # Triton and its three Python processes
    assert len(list(scratch.glob("emoserve-*"))) == 1
    started = time.monotonic()
    served.process.send_signal(number)
    assert served.process.wait(30) == 0
    assert time.monotonic() - started < 15
    assert process_group(served.leader) == []
    assert not list(scratch.glob("emoserve-*"))


# ---- a server that runs


def test_start_on_free_ports_answers_on_three_ports(server: Triton) -> None:
    urls = {server.grpc_url, server.http_url, server.metrics_url}
    assert len(urls) == 3
    assert all(re.fullmatch(r"127\.0\.0\.1:[1-9]\d{3,4}", url) for url in urls)
    for url in (f"http://{server.http_url}/v2/models/emotion/ready", f"http://{server.metrics_url}/metrics"):
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200
    host, port = server.grpc_url.split(":")
    assert int(port) < 32768  # higher ports are used for outgoing connections
    socket.create_connection((host, int(port)), timeout=5).close()


def test_manifest_of_a_running_server_is_that_of_the_repository(server: Triton, repository: Path) -> None:
    assert server.manifest == json.loads((repository / "export.json").read_text())


def test_command_prints_no_log_and_stops_on_sigterm(repository: Path, tmp_path: Path, scratch: Path) -> None:
    with serving(repository, tmp_path / "errors") as served:
        pattern = r"ready: gRPC 127\.0\.0\.1:\d+, HTTP 127\.0\.0\.1:\d+, metrics http://127\.0\.0\.1:\d+/metrics\n"
        assert re.fullmatch(pattern, served.ready)
        assert served.process.stdout is not None
        line = served.process.stdout.readline()
        checkpoint = json.loads((repository / "export.json").read_text())["checkpoint"]
        assert line == f"checkpoint {checkpoint[:12]}, untrained: nothing\n"
        assert_ends_cleanly(served, signal.SIGTERM, scratch)
        if not HAS_GPU:
            # on a slow machine a start of 10 s or more reports its progress
            assert re.fullmatch(r"(starting Triton: \d of \d models loaded, \d+ s\n)*", served.errors.read_text())


def test_untrained_parts_are_named_by_the_command_and_in_answers(repository: Path, tmp_path: Path) -> None:
    models = copy_repository(repository, tmp_path / "models")
    untrained = {"untrained": ["vggish", "fusion"]}
    stage = models / "preprocess/1/checkpoint.json"
    described, manifest = (json.loads(path.read_text()) for path in (stage, models / "export.json"))
    for path in (stage, models / "export.json"):
        path.unlink()  # links to files of `repository`
    stage.write_text(json.dumps(described | untrained))
    manifest["files"]["preprocess/1/checkpoint.json"] = digest(stage)
    (models / "export.json").write_text(json.dumps(manifest | untrained))
    with serving(models, tmp_path / "errors") as served:
        assert served.process.stdout is not None
        assert served.process.stdout.readline().endswith(", untrained: vggish, fusion\n")
        with EmotionClient(served.ready.split()[2].rstrip(",")) as client:
            assert client.analyze(text="hello there").untrained == ("vggish", "fusion")


def test_command_with_log_level_info_prints_tritons_log_and_stops_on_sigint(
    repository: Path, tmp_path: Path, scratch: Path
) -> None:
    with serving(repository, tmp_path / "errors", "--log-level", "info", "--expose-http") as served:
        assert_ends_cleanly(served, signal.SIGINT, scratch)
        shown = served.errors.read_text()
        assert "\nwarning: HTTP is exposed. " in shown
        assert re.search(r"^I\d{4} .*Started GRPCInferenceService at 127\.0\.0\.1:\d+", shown, re.MULTILINE)
        assert re.search(r"^\| emotion +\| 1 +\| READY", shown, re.MULTILINE)
        assert "CudaDriverHelper" not in shown
        assert "Traceback" not in shown


def test_command_fails_when_triton_is_killed(repository: Path, tmp_path: Path, scratch: Path) -> None:
    with serving(repository, tmp_path / "errors") as served:
        regions = set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{served.leader}/maps").read_text()))
        assert len(regions) >= 3  # one for each Python stage
        os.kill(served.leader, signal.SIGKILL)
        assert served.process.wait(30) == 1
        assert served.errors.read_text().endswith(
            "error: Triton ended unexpectedly with exit status -9; start it again\n"
        )
        assert process_group(served.leader) == []  # the stages have ended too
        assert not any(Path(region).exists() for region in regions)
        assert not list(scratch.glob("emoserve-*"))


@pytest.mark.parametrize("crashes", [1, 2])
def test_command_starts_triton_again_after_one_crash_while_models_load(
    repository: Path, scratch: Path, crashes: int
) -> None:
    command = [sys.executable, "-m", "serving", "--repository", str(repository), *ANY_PORTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        crashed: list[int] = []
        try:
            deadline = time.monotonic() + 60
            while len(crashed) < crashes:
                assert time.monotonic() < deadline
                time.sleep(0.01)
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                for child in [int(child) for child in children if int(child) not in crashed]:
                    time.sleep(0.3)
                    os.kill(child, signal.SIGABRT)
                    crashed.append(child)
            assert process.stdout is not None and process.stderr is not None
            ready = process.stdout.readline()
            process.terminate()
            errors = process.stderr.read()
            assert process.wait(30) == (0 if crashes == 1 else 1)
        finally:
            process.kill()
    assert errors.startswith("warning: Triton crashed during its start with SIGABRT; the end of its log follows")
    assert re.search(r"^[IWE]\d{4} [\d:.]+ \d+ ", errors, re.MULTILINE)  # a line of Triton's log
    if crashes == 1:
        assert ready.startswith("ready: ")
    else:
        assert errors.endswith("error: Triton crashed during its start with SIGABRT\n")
    assert [process_group(leader) for leader in crashed] == [[]] * crashes
    assert not list(scratch.glob("emoserve-*"))


def test_command_stops_on_sigterm_while_models_load(repository: Path, scratch: Path) -> None:
    command = [sys.executable, "-m", "serving", "--repository", str(repository), *ANY_PORTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 30
            while not (children := Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
        finally:
            process.kill()
        assert process.stdout is not None
        assert "ready" not in process.stdout.read()
    assert process_group(int(children[0])) == []
    assert not list(scratch.glob("emoserve-*"))


# ---- starts that fail


@pytest.mark.parametrize("protocol", ["HTTP", "gRPC", "metrics"])
def test_start_with_a_taken_port_fails(repository: Path, protocol: str) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = start_error(repository, **{f"{protocol.lower()}_port": port})
    assert message == (
        f"{protocol} port {port} on 127.0.0.1 can't be used (Address already in use); choose another with "
        f"--{protocol.lower()}-port, or 0 for any free one"
    )


def test_free_ports_with_a_taken_single_port_names_its_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TritonError, match=f"^page port {port} on 127.0.0.1 .*; choose another with --port, or 0 "):
            free_ports("127.0.0.1", {"page": port})


@pytest.mark.parametrize("port", [-1, 65536])
def test_start_with_an_invalid_port_fails(repository: Path, port: int) -> None:
    message = start_error(repository, grpc_port=port)
    assert str(port) in message
    assert "--grpc-port" in message


def test_start_with_one_port_for_two_protocols_fails(repository: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert f"port {port}" in start_error(repository, http_port=port, grpc_port=port)


def test_start_with_an_address_of_another_machine_fails(repository: Path) -> None:
    assert "on 192.0.2.1 can't be used (Cannot assign requested address)" in start_error(repository, host="192.0.2.1")


def test_start_without_a_repository_fails(tmp_path: Path) -> None:
    message = start_error(tmp_path / "nowhere")
    assert (
        message == f"there is no model repository {tmp_path / 'nowhere'}; create one with: python -m export CHECKPOINT"
    )


def test_start_without_exported_models_fails(copied: Path) -> None:
    (copied / "export.json").unlink()
    assert start_error(copied) == f"{copied} contains no exported models, or an interrupted export; run: make export"


def test_start_with_a_damaged_manifest_fails(copied: Path) -> None:
    (copied / "export.json").unlink()
    (copied / "export.json").write_text("{")
    assert str(copied / "export.json") in start_error(copied)


def test_start_without_an_exported_file_fails(copied: Path) -> None:
    (copied / "bert/1/model.onnx").unlink()
    assert start_error(copied) == f"{copied / 'bert/1/model.onnx'} is missing; run: make export"


@pytest.mark.parametrize(("config", "precision"), [("int8", "int8"), ("gpu", "fp16")])
def test_start_with_a_configuration_without_exported_weights_fails(
    repository: Path, config: str, precision: str
) -> None:
    message = start_error(repository, config=config)
    assert re.fullmatch(
        rf"{re.escape(str(repository))}/\w+/1/model\.{precision}\.onnx is missing; the configuration {config} of "
        rf"the model '\w+' needs it; run: make export PRECISION={precision} "
        r"\(and CHECKPOINT=DIR if the checkpoint is not the demo's\)",
        message,
    )


def test_start_with_the_default_configuration_without_exported_weights_fails(copied: Path) -> None:
    """The repository is that of `make export PRECISION=int8`, whose manifest lists no model.onnx."""
    manifest = json.loads((copied / "export.json").read_text())
    manifest["files"] = {name: digest for name, digest in manifest["files"].items() if not name.endswith(".onnx")}
    (copied / "export.json").unlink()
    (copied / "export.json").write_text(json.dumps(manifest))
    (missing := next(iter(sorted(copied.glob("*/1/model.onnx"))))).unlink()
    assert start_error(copied) == (
        f"{missing} is missing; the configuration default of the model '{missing.parts[-3]}' needs it; "
        "run: make export PRECISION=fp32 (and CHECKPOINT=DIR if the checkpoint is not the demo's)"
    )


@pytest.mark.parametrize("config", ["gqu", "int8.pbtxt", "configs/int8", " "])
def test_start_with_an_unknown_configuration_fails(repository: Path, config: str) -> None:
    names = sorted({path.stem for path in repository.glob("*/configs/*.pbtxt")})
    assert {"gpu", "int8"} <= set(names)
    assert start_error(repository, config=config) == (
        f"no model has a configuration {config!r}; choose from default, {', '.join(names)} with --config or "
        "EMOSERVE_CONFIG"
    )


def test_command_with_an_unknown_configuration_in_the_environment_fails(repository: Path) -> None:
    command = [sys.executable, "-m", "serving", "--repository", str(repository), *ANY_PORTS]
    environ = os.environ | {"EMOSERVE_CONFIG": "gqu"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no model has a configuration 'gqu'; choose from ")


def test_check_config_default_is_config_pbtxt(repository: Path) -> None:
    """The Kubernetes manifests use the name `default`."""
    assert check_config([repository], "default") is check_config([repository], "") is None
    assert check_config([repository], "gpu") == "gpu"


def test_check_config_accepts_a_configuration_of_the_speech_repository(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    assert check_config([tmp_path, SPEECH_REPOSITORY], "gpu") == "gpu"


@pytest.mark.parametrize("name", ["preprocess/1/tokenizer.json", "bert/1/model.onnx"])
def test_start_with_a_flipped_bit_in_an_exported_file_fails(copied: Path, name: str) -> None:
    path = copied / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
    assert start_error(copied) == f"{path} has changed since the export (its SHA-256 differs); run: make export"


def test_start_with_a_model_that_does_not_load_fails(repository: Path, tmp_path: Path, scratch: Path) -> None:
    copied = copy_repository(repository, tmp_path / "models")
    path = copied / "fusion" / "config.pbtxt"
    config = path.read_text()
    path.unlink()
    path.write_text(config.replace("dims: [ 5 ]", "dims: [ 4 ]", 1))
    message = start_error(copied)
    assert message.startswith("model 'fusion' failed to load: ")
    assert "'PROBABILITIES'" in message
    assert "[4]" in message
    assert "[-1, 5]" in message
    assert "At:" not in message  # the backend's traceback
    assert not list(scratch.glob("emoserve-*"))


def test_start_without_space_for_temporary_files_fails(repository: Path) -> None:
    command = ["prlimit", "--fsize=65536", sys.executable, "-m", "serving", "--repository", str(repository), *ANY_PORTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"error: temporary files can't be written \(.*File too large.*\); make room .*\n", done.stderr)


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_start_with_the_gpu_configuration_without_a_gpu_fails(copied: Path) -> None:
    for model in copied.glob("*/1/model.onnx"):
        (model.parent / "model.fp16.onnx").hardlink_to(model)
    command = [sys.executable, "-m", "serving", "--repository", str(copied), *ANY_PORTS, "--config", "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert re.match(r"error: model '\w+' failed to load: .*no GPUs are available$", last)
    assert "Traceback" not in done.stderr


def test_start_with_a_flag_unknown_to_triton_fails(repository: Path) -> None:
    """The message contains the reason, which Triton prints before a page of usage."""
    assert "--nonsense" in start_error(repository, arguments=["--nonsense=1"])


# ---- finding Triton


def script(path: Path) -> Path:
    """Create an executable script, and return its path."""
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


LIBPYTHON = f"libpython{installation.PYTHON_VERSION}.so.1.0"


def test_find_triton_prefers_tritonserver_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout is that of NVIDIA's container: /opt/tritonserver with the directories bin and backends."""
    binary = script(tmp_path / "opt" / "tritonserver" / "bin" / "tritonserver")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tritonserver").symlink_to(binary)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    found = find_triton()
    assert found.binary == binary
    assert found.backends == tmp_path / "opt" / "tritonserver" / "backends"
    assert found.caches == tmp_path / "opt" / "tritonserver" / "caches"
    assert found.libraries == ()
    assert found.stub is None


def test_find_triton_returns_the_complete_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = find_triton()
    assert found.binary.name == "tritonserver"
    assert os.access(found.binary, os.X_OK)
    assert (found.backends / "python" / "libtriton_python.so").is_file()
    assert found.stub is not None
    assert found.stub.is_file()
    assert all(library.is_dir() for library in found.libraries)
    assert list(found.libraries[-1].glob(LIBPYTHON))


def test_find_triton_without_a_triton_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TritonError, match=r"^no Triton found: .* pip install nvidia-pytriton==0\.7\.0$"):
        find_triton()


def test_find_triton_without_a_stub_for_this_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(installation, "PYTHON_VERSION", "3.99")
    with pytest.raises(
        TritonError, match=r"has no stub for Python 3\.99: use Python 3\.11 or 3\.12, or put .* on PATH$"
    ):
        find_triton()


def test_find_triton_without_libpython_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sysconfig, "get_config_vars", lambda: {"LIBDIR": str(tmp_path), "MULTIARCH": "none-linux-gnu"})
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(TritonError) as caught:
        find_triton()
    message = str(caught.value)
    assert message.startswith(f"{LIBPYTHON} is not on this machine")
    assert f"apt-get install {LIBPYTHON.removesuffix('.so.1.0')}" in message
    assert "--enable-shared" in message


def test_find_triton_finds_libpython_in_debians_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    library = tmp_path / "x86_64-linux-gnu" / LIBPYTHON
    library.parent.mkdir()
    library.touch()
    variables = {"LIBDIR": str(tmp_path), "MULTIARCH": "x86_64-linux-gnu"}
    monkeypatch.setattr(sysconfig, "get_config_vars", lambda: variables)
    assert find_triton().libraries[-1] == library.parent


def installed(release: str | None) -> Installation:
    """Return an installation of a Triton release."""
    return Installation(Path("tritonserver"), Path("backends"), Path("caches"), release=release)


@pytest.mark.parametrize("release", ["24.10", "26.04"])
def test_check_release_parallel_on_an_old_triton_is_rejected(release: str) -> None:
    with pytest.raises(TritonError, match=rf"needs Triton 26\.05 or newer, and this one is {release}: it crashes"):
        check_release(installed(release), "parallel")


@pytest.mark.parametrize(
    ("release", "config"), [("26.05", "parallel"), (None, "parallel"), ("24.10", "int8"), ("24.10", None)]
)
def test_check_release_other_combinations_are_accepted(release: str | None, config: str | None) -> None:
    check_release(installed(release), config)


def test_start_with_parallel_steps_on_the_wheel_fails(repository: Path) -> None:
    if find_triton().release != "24.10":
        pytest.skip("another Triton is on PATH")
    assert start_error(repository, config="parallel").startswith(
        "the configuration parallel needs Triton 26.05 or newer"
    )
