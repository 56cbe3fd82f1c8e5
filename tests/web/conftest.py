"""Fixtures that run the gateway in front of a real Triton and build the page."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from filelock import FileLock

from serving import Triton
from web.gateway.app import SERVER_OPTIONS, create_app
from web.gateway.metrics import Metrics
from web.gateway.settings import PAGE, Settings

ROOT = Path(__file__).parent.parent.parent
Gateway = Callable[..., AbstractContextManager[str]]


@contextmanager
def running(settings: Settings, metrics: Metrics | None = None) -> Iterator[str]:
    """Run the gateway over real HTTP and yield its address."""
    app = create_app(settings, metrics or Metrics())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", **SERVER_OPTIONS))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def gateway(speech_server: Triton) -> Gateway:
    """Return a context manager that runs a gateway with given settings: `with gateway(in_flight=1) as address:`."""

    def start(metrics: Metrics | None = None, **settings: Any) -> AbstractContextManager[str]:
        return running(Settings(**({"endpoints": [speech_server.grpc_url]} | settings)), metrics)

    return start


@pytest.fixture(scope="session")
def address(gateway: Gateway) -> Iterator[str]:
    """Yield the address of a gateway with default settings."""
    with gateway() as address:
        yield address


@pytest.fixture(scope="session")
def require() -> Callable[[str], None]:
    """Return a function that skips the test if a program is missing, such as "npm"; with CI set it fails the test."""

    def check(program: str) -> None:
        if shutil.which(program) is None:
            if "CI" in os.environ:
                pytest.fail(f"{program} is not installed")
            pytest.skip(f"{program} is not installed")

    return check


@pytest.fixture(scope="session")
def page_files(require: Callable[[str], None]) -> Path:
    """Build the page with the documented command and return its directory."""
    require("npm")
    with FileLock(ROOT / "build" / "page.lock"):
        done = subprocess.run(
            ["make", "web/ui/dist/index.html"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return PAGE
