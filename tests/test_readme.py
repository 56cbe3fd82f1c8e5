"""Tests of the README: its commands and snippets run, and its figures are in docs/performance.md."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MAKE
from tests.docs.pages import blocks, commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def snippets(language: str) -> list[str]:
    """Return the code of the README in a language."""
    found = [block.text for block in blocks(ROOT / "README.md") if block.language == language]
    assert found, f"the README has no {language}"
    return found


def shell_commands() -> list[str]:
    """Return the README's commands."""
    return [command for text in snippets("bash") for command in commands(text)]


def in_this_environment(command: str) -> str:
    """Return the command with the programs of the running environment instead of those of .venv."""
    return command.replace(".venv/bin/", f"{Path(sys.executable).parent}/")


def run(command: str | list[str], timeout: float = 60) -> str:
    """Run a command in the root and return what it prints; it must succeed."""
    shell = isinstance(command, str)
    done = subprocess.run(command, shell=shell, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_demo(repository: Path) -> None:
    stdout = run([*MAKE, "demo", f"REPOSITORY={repository}"], timeout=300)
    for line in ("Triton 2.51.0", "against eager PyTorch", "alone against in a batch", "joyful voice", "text alone"):
        assert line in stdout
    assert stdout.count(" READY") == 6
    assert "untrained" not in stdout
    assert (ROOT / "build" / "radar.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("target", "options", "error"),
    [
        ("serve", "--config gqu", "error: no model has a configuration 'gqu'"),
        ("serve", "-- --grpc-port=9001", "error: tritonserver's flag --grpc-port=9001 can't be passed on"),
        ("web", "--port nine", "error: argument --port: invalid int value: 'nine'"),
    ],
)
def test_make_args_reach_the_command(repository: Path, target: str, options: str, error: str) -> None:
    # --old-file: don't build the page
    command = [*MAKE, target, f"REPOSITORY={repository}", f"ARGS={options}", "--old-file=web/ui/dist/index.html"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert error in done.stderr


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[None]:
    """Run `make serve` on the ports that the README names."""
    process = subprocess.Popen(
        [*MAKE, "serve", f"REPOSITORY={repository}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("ready: gRPC 127.0.0.1:8001, HTTP 127.0.0.1:8000, metrics http://127.0.0.1:8002/metrics"):
            break
    else:
        pytest.fail("".join(lines))
    yield
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def gateway_addresses(served: None) -> Iterator[tuple[str, str]]:
    """Start the gateway as in the README, but on free ports, and yield its address and that of its metrics."""
    command = next(command for command in shell_commands() if "web.gateway" in command)
    process = subprocess.Popen(
        [*in_this_environment(command).split(), "--port", "0", "--metrics-port", "0"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    metrics = ""
    for line in process.stderr:
        if found := re.search(r"^metrics on port (\d+)", line):
            metrics = f"http://127.0.0.1:{found[1]}"
        if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
            break
    else:
        pytest.fail("the gateway did not start")
    yield found[1], metrics
    process.terminate()
    process.communicate(timeout=30)


@pytest.fixture
def gateway(gateway_addresses: tuple[str, str]) -> str:
    """Return the address of the gateway."""
    return gateway_addresses[0]


def test_served_ports(served: None) -> None:
    with urllib.request.urlopen("http://127.0.0.1:8000/v2/models/emotion/ready", timeout=10) as answer:
        assert answer.status == 200
    with urllib.request.urlopen("http://127.0.0.1:8002/metrics", timeout=10) as answer:
        assert b"nv_inference_request_success" in answer.read()


def test_client_commands(served: None) -> None:
    wanted = [command for command in shell_commands() if "emotion-client" in command]
    assert wanted
    for command in wanted:
        stdout = run(in_this_environment(command))
        assert json.loads(stdout)["untrained"] == [] if "--json" in command else "untrained" not in stdout


def test_python_snippets(served: None) -> None:
    for snippet in snippets("python"):
        assert "neutral" in run([sys.executable, "-c", snippet])


def test_curl_returns_the_json_of_the_readme(gateway: str) -> None:
    command = next(command for command in shell_commands() if command.startswith("curl "))
    answer = json.loads(run(f"{command.replace('http://localhost:8080', gateway)} --silent --show-error --fail"))
    (shown,) = (json.loads(text) for text in snippets("json"))
    for name, value in shown.items():
        if isinstance(value, dict):
            assert answer[name] == pytest.approx(value, abs=0.02), name
        elif isinstance(value, float):
            assert answer[name] == pytest.approx(value, abs=0.05), name
        else:
            assert answer[name] == value, name


@pytest.mark.parametrize(
    ("language", "file", "program"),
    [
        ("js", "analyze.mjs", ["node"]),
        ("go", "analyze.go", ["go", "run"]),
        ("java", "Analyze.java", ["java"]),
    ],
)
def test_snippets_of_other_languages(
    gateway: str, tmp_path: Path, language: str, file: str, program: list[str]
) -> None:
    if not shutil.which(program[0]):
        pytest.skip(f"{program[0]} is not installed")
    (snippet,) = snippets(language)
    (tmp_path / file).write_text(snippet.replace("http://localhost:8080", gateway))
    assert "neutral" in run([*program, str(tmp_path / file)], timeout=120)


def test_metrics_page_names_every_metric(gateway_addresses: tuple[str, str]) -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(emoserve_\w+)`", page, re.MULTILINE))
    printed = set()
    for address in ("http://127.0.0.1:8002", gateway_addresses[1]):
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
            printed |= set(re.findall(r"^# TYPE (emoserve_\w+)", answer.read().decode(), re.MULTILINE))
    assert {name for name in printed if not name.endswith("_created")} == documented


def test_speeds_are_in_the_performance_page() -> None:
    section = README.partition("## Speed")[2].partition("## ")[0]
    results = (ROOT / "docs" / "performance.md").read_text().partition("## Results")[2].partition("## Results")[0]
    figures = re.findall(r"^\|.* \| ([\d.]+) \|$", section, re.MULTILINE)
    assert len(figures) >= 7
    for figure in [*figures, *re.findall(r"(\d+) ms", section)]:
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", results), f"docs/performance.md lacks {figure}"
