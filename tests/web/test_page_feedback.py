"""Test "This is wrong" on the page in a real Chromium: what people send is stored with their consent."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from emotion import audio, decoding
from web.gateway.recordings import decode

ROOT = Path(__file__).parent.parent.parent
AXE = ROOT / "web" / "ui" / "node_modules" / "axe-core" / "axe.min.js"
ANSWER_TIMEOUT_MS = 30_000  # other tests may run at the same time
SENTENCE = "This is wonderful, thank you so much!"
Gateway = Callable[..., AbstractContextManager[str]]  # the fixture `gateway`


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory in which the gateway stores feedback."""
    return tmp_path_factory.mktemp("feedback")


@pytest.fixture(scope="module")
def site(page_files: Path, gateway: Gateway, directory: Path) -> Iterator[str]:
    """Run a gateway that stores feedback, with the page, and yield its address."""
    with gateway(page=page_files, feedback=directory) as address:
        yield address


def open_page(browser: Browser, address: str, **options: Any) -> Page:
    context = browser.new_context(base_url=address, **options)
    context.add_init_script("localStorage.setItem('emoserve.notice', 'true')")
    page = context.new_page()
    page.goto("/")
    expect(page.get_by_text("Ready")).to_be_visible()
    return page


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    page = open_page(browser, site)
    yield page
    page.context.close()


def submit_text(page: Page) -> None:
    page.get_by_role("tab", name="Type").click()
    page.get_by_label("Text to analyse").fill(SENTENCE)
    page.get_by_role("button", name="Analyse", exact=True).click()
    expect(page.locator("#answer")).to_be_focused(timeout=ANSWER_TIMEOUT_MS)


def submit_file(page: Page, recording: bytes) -> None:
    page.get_by_role("tab", name="File").click()
    file: Any = {"name": "clip.flac", "mimeType": "audio/flac", "buffer": recording}
    page.get_by_label("Choose recordings").set_input_files(file)
    expect(page.locator("#answer")).to_be_focused(timeout=ANSWER_TIMEOUT_MS)


def send_feedback(page: Page, emotion: str) -> str:
    """Send feedback, and return the number that the page shows."""
    page.get_by_text("This is wrong").click()
    page.get_by_role("radio", name=emotion).check()
    page.get_by_role("checkbox", name="I agree").check()
    page.get_by_role("button", name="Send", exact=True).click()
    thanks = page.get_by_text("Thank you.")
    expect(thanks).to_be_focused()
    return thanks.locator("code").inner_text()


def stored(directory: Path, number: str) -> dict[str, str]:
    """Return the line of the manifest with this number."""
    lines = (directory / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in map(json.loads, lines) if line["id"] == number]
    return dict(line)


def test_recording_and_words_are_stored_with_the_emotion(
    page: Page, directory: Path, recordings: dict[str, bytes]
) -> None:
    submit_file(page, recordings["austen-0890.flac"])
    words = page.get_by_label("What was heard").input_value()
    line = stored(directory, send_feedback(page, "frustration"))
    assert (line["emotion"], line["text"]) == ("frustration", words)
    expected = decoding.decode(recordings["austen-0890.flac"])
    assert len(decode((directory / line["audio"]).read_bytes(), 60.0)) == pytest.approx(len(expected), abs=2)
    assert expected.size > audio.SAMPLE_RATE


def test_text_alone_is_stored_after_a_reload(page: Page, directory: Path, recordings: dict[str, bytes]) -> None:
    """The page keeps no recording over a reload."""
    submit_file(page, recordings["austen-0890.flac"])
    page.reload()
    words = page.get_by_label("What was heard").input_value()
    line = stored(directory, send_feedback(page, "anger"))
    assert {key: line[key] for key in line if key != "id"} == {"emotion": "anger", "text": words}


def test_nothing_is_sent_without_consent(page: Page) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    submit_text(page)
    page.get_by_text("This is wrong").click()
    page.get_by_role("radio", name="anger").check()
    consent = page.get_by_role("checkbox", name="I agree")
    expect(consent).not_to_be_checked()
    page.get_by_role("button", name="Send", exact=True).click()
    expect(consent).to_be_focused()  # the browser says what is missing
    assert not [url for url in requests if "feedback" in url]


def test_rejected_feedback_shows_why(page: Page) -> None:
    body = {"code": "full", "message": "This service takes no more recordings: its space for them is used up."}
    page.route("**/api/feedback", lambda route: route.fulfill(status=503, json=body), times=1)
    submit_text(page)
    page.get_by_text("This is wrong").click()
    page.get_by_role("radio", name="anger").check()
    page.get_by_role("checkbox", name="I agree").check()
    page.get_by_role("button", name="Send", exact=True).click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(body["message"])
    expect(alert).to_be_in_viewport()
    alert.get_by_role("button", name="Close").click()
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_focused()


def test_examples_get_no_feedback(page: Page) -> None:
    page.get_by_role("button", name="frustration (words)").click()
    expect(page.locator("#answer")).to_be_focused(timeout=ANSWER_TIMEOUT_MS)
    expect(page.get_by_text("This is wrong")).to_have_count(0)
    page.reload()
    expect(page.locator("#answer")).to_be_visible()
    expect(page.get_by_text("This is wrong")).to_have_count(0)


def test_notice_says_what_feedback_stores(page: Page) -> None:
    page.get_by_role("button", name="What is sent and kept").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("except those that you send with “This is wrong”")
    expect(dialog).to_contain_text("on the service’s disk, to train later models")


def test_feedback_is_not_offered_by_default(browser: Browser, page_files: Path, gateway: Gateway) -> None:
    with gateway(page=page_files) as address:
        page = open_page(browser, address)
        submit_text(page)
        expect(page.get_by_text("This is wrong")).to_have_count(0)
        page.get_by_role("button", name="What is sent and kept").click()
        expect(page.get_by_role("dialog")).not_to_contain_text("This is wrong")
        page.context.close()


@pytest.mark.parametrize("width", [320, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_feedback_has_no_accessibility_violations(browser: Browser, site: str, width: int, scheme: Any) -> None:
    page = open_page(browser, site, color_scheme=scheme, viewport={"width": width, "height": 900})
    page.evaluate(AXE.read_text())

    def violations() -> list[str]:
        found = page.evaluate("axe.run()")["violations"]
        return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]

    submit_text(page)
    page.get_by_text("This is wrong").click()
    assert not violations()
    page.get_by_text("This is wrong").click()
    send_feedback(page, "sadness")
    assert not violations()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()
