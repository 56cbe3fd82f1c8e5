"""Fixtures that run the gateway in front of a real Triton, build the page, and open it in a real Chromium."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import uvicorn
from filelock import FileLock
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright

from emotion import decoding
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


@pytest.fixture(scope="module")
def playwright(require: Callable[[str], None]) -> Iterator[Playwright]:
    require("chromium")
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def spoken(recordings: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a WAV file for the fake microphone to repeat: a clip followed by a pause."""
    waveform = decoding.decode(recordings["austen-0890.flac"])
    path = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    soundfile.write(path, np.concatenate([waveform, np.zeros(16_000, np.float32)]), 16_000, subtype="PCM_16")
    return path


def launch(playwright: Playwright, *flags: str) -> Browser:
    return playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", *flags])


@pytest.fixture(scope="module")
def browser(playwright: Playwright, spoken: Path) -> Iterator[Browser]:
    """Run Chromium with a fake microphone that plays `spoken`."""
    flags = ("--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={spoken}")
    browser = launch(playwright, *flags)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def site(page_files: Path, gateway: Gateway) -> Iterator[str]:
    """Run the gateway with the page and yield its address."""
    with gateway(page=page_files) as address:
        yield address


def accept_notice(context: BrowserContext) -> BrowserContext:
    """Let the pages of a fresh browser start as if its user had accepted the notice, and return the context."""
    context.add_init_script("localStorage.setItem('emoserve.notice', 'true')")
    return context


@pytest.fixture
def context(browser: Browser, site: str) -> Iterator[BrowserContext]:
    context = accept_notice(browser.new_context(base_url=site))
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Open the page, and check afterwards that it logged no error and loaded nothing from another site."""
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("/")
    expect(page.get_by_text("Ready")).to_be_visible()
    yield page
    assert not [
        error for error in errors if "Failed to load resource" not in error
    ]  # logged for every rejected request
