"""The README keeps its word: every command and snippet in it is run."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines()]


def in_this_environment(command: str) -> str:
    """The command with the running environment's programs in place of .venv's, which are the same under `make test`."""
    return command.replace(".venv/bin/", f"{Path(sys.executable).parent}/")


def test_every_command_has_a_test() -> None:
    tested = {
        "make demo": "test_make_demo",
        "make test": "is what runs this",
        "make serve": "the fixture `served`",
        "make web": "tests/web/test_make_web.py",
        "make bench-quick": "tests/benchmarks/test_bench.py",
        "make install-training": "is part of what `make test` installs",
        ".venv/bin/python -m training fit --corpus iemocap --root IEMOCAP_full_release": "tests/training/test_fit.py",
        "make export CHECKPOINT=build/runs/iemocap/session-1/checkpoint": "the fixture `repository` in conftest.py",
    }
    for command in commands():
        assert command in tested or command.startswith(".venv/bin/emotion-client "), f"nothing runs: {command}"


def test_make_demo(repository: Path) -> None:
    command = ["make", "demo", f"REPOSITORY={repository}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for line in ("Triton 2.51.0", "against eager PyTorch", "alone against in a batch", "joyful voice", "text alone"):
        assert line in done.stdout
    assert done.stdout.count(" READY") == 6
    assert "untrained" not in done.stdout
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
    command = ["make", target, f"REPOSITORY={repository}", f"ARGS={options}", "--old-file=web/ui/dist/index.html"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert error in done.stderr


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[None]:
    """`make serve`, on the ports that the README names."""
    process = subprocess.Popen(
        ["make", "serve", f"REPOSITORY={repository}"],
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


def test_served_ports(served: None) -> None:
    with urllib.request.urlopen("http://127.0.0.1:8000/v2/models/emotion/ready", timeout=10) as answer:
        assert answer.status == 200
    with urllib.request.urlopen("http://127.0.0.1:8002/metrics", timeout=10) as answer:
        assert b"nv_inference_request_success" in answer.read()


def test_client_commands(served: None) -> None:
    wanted = [command for command in commands() if "emotion-client" in command]
    assert wanted
    for command in wanted:
        done = subprocess.run(
            in_this_environment(command), shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "untrained" not in done.stdout


def test_python_snippets(served: None) -> None:
    wanted = blocks("python")
    assert wanted
    for snippet in wanted:
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "neutral" in done.stdout


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "clients" / "README.md"]
    for page in pages:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
            linked = page.parent / target if target else page
            if "://" not in target:
                assert linked.exists(), f"{page.name}: {target}"
                assert not anchor or anchor in anchors(linked), f"{page.name}: {target}#{anchor}"
