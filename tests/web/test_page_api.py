"""Test the API page in a real Chromium."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parent.parent.parent
AXE = ROOT / "web" / "ui" / "node_modules" / "axe-core" / "axe.min.js"
LIBRARY_FAULTS = {"label"}  # Swagger UI's input of a file has no label
ANSWER_TIMEOUT_MS = 30_000  # other tests may run at the same time
SENTENCE = "I got the job! I am so happy, I can't wait to start!"
KEY = "open sesame"
Gateway = Callable[..., AbstractContextManager[str]]  # the fixture `gateway`


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Yield a page, and check afterwards that it logged no error and asked no other host."""
    context = browser.new_context()
    page = context.new_page()
    errors: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    yield page
    assert not errors
    assert not [url for url in requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    context.close()


def execute(page: Page, path: str, text: str) -> dict[str, Any]:
    """Fill in the text of a call, send it, and return the answer."""
    call = page.locator(".opblock", has_text=path)
    call.locator(".opblock-summary-control").click()
    call.get_by_placeholder("text", exact=True).fill(text)
    with page.expect_response(f"**{path}", timeout=ANSWER_TIMEOUT_MS) as response:
        call.get_by_role("button", name="Execute").click()
    answer: dict[str, Any] = json.loads(response.value.text())
    return answer


def test_call_is_sent_from_the_api_page(page: Page, site: str) -> None:
    page.goto(site)
    page.get_by_role("link", name="API", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("API of emoserve")
    assert page.title() == "API – emoserve"
    expect(page.get_by_text(f"curl -F audio=@recording.wav {site}/api/analyze")).to_be_visible()
    assert execute(page, "/api/analyze", SENTENCE)["label"] == "excitement"
    expect(page.locator(".live-responses-table")).to_contain_text('"excitement"')
    page.get_by_role("link", name="Back to the page").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("emoserve")


def test_recording_is_sent_from_the_api_page(page: Page, site: str, recordings: dict[str, bytes]) -> None:
    page.goto(f"{site}/api-docs.html")
    call = page.locator(".opblock", has_text="/api/analyze")
    call.locator(".opblock-summary-control").click()
    file: Any = {"name": "clip.flac", "mimeType": "audio/flac", "buffer": recordings["austen-0870.flac"]}
    call.locator("input[type=file]").set_input_files(file)
    with page.expect_response("**/api/analyze", timeout=ANSWER_TIMEOUT_MS) as response:
        call.get_by_role("button", name="Execute").click()
    assert response.value.json()["seconds"] == pytest.approx(7.1, abs=0.1)


def test_key_is_entered_on_the_api_page(page: Page, gateway: Gateway, page_files: Path) -> None:
    with gateway(page=page_files, api_key=KEY) as address:
        page.goto(f"{address}/api-docs.html")
        expect(page.get_by_text(f"curl -H 'X-API-Key: KEY' -F audio=@recording.wav {address}")).to_be_visible()
        page.get_by_role("button", name="Authorize").click()
        page.get_by_label("Value:").fill(KEY)
        page.get_by_role("button", name="Apply credentials").click()
        page.get_by_role("button", name="Close", exact=True).click()
        assert execute(page, "/api/analyze", SENTENCE)["label"] == "excitement"


def test_key_of_the_page_is_used_on_the_api_page(page: Page, gateway: Gateway, page_files: Path) -> None:
    with gateway(page=page_files, api_key=KEY) as address:
        page.goto(address)
        page.evaluate(f"sessionStorage.setItem('emoserve.key', '{KEY}')")
        page.goto(f"{address}/api-docs.html")
        assert execute(page, "/api/analyze", SENTENCE)["label"] == "excitement"


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_api_page_has_no_accessibility_violations_of_its_own(
    browser: Browser, site: str, width: int, scheme: Any
) -> None:
    context = browser.new_context(base_url=site, color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto("/api-docs.html")
    page.locator(".opblock-summary-control").last.click()
    page.get_by_role("button", name="Execute").wait_for()
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    nodes = [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]
    assert {one["id"] for one in found} <= LIBRARY_FAULTS, nodes
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
