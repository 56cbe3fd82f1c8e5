"""Test the live view of the page in a real Chromium: emotion and words while somebody records."""

import re
from pathlib import Path

from emotion_client import EMOTIONS
from playwright.sync_api import BrowserContext, Page, expect

from tests.web.test_page import ANSWER_TIMEOUT_MS, AXE, Gateway, wait_for_answer

VOICE = re.compile(rf"The voice: ({'|'.join(EMOTIONS)}) \d+ %")


def record(page: Page, context: BrowserContext) -> None:
    context.grant_permissions(["microphone"])
    page.get_by_role("button", name="Record").click()
    page.get_by_text("Listening. Press again").wait_for()


def test_recording_shows_emotion_and_words_until_it_ends(page: Page, context: BrowserContext) -> None:
    record(page, context)
    live = page.get_by_role("region", name="While you speak")
    expect(live).to_contain_text(VOICE, timeout=ANSWER_TIMEOUT_MS)
    utterances = live.get_by_role("log").get_by_role("listitem")
    expect(utterances.filter(has_text=re.compile("selfish", re.IGNORECASE)).first).to_contain_text(
        re.compile("|".join(EMOTIONS)), timeout=ANSWER_TIMEOUT_MS
    )
    page.evaluate(AXE.read_text())
    assert not page.evaluate("axe.run()")["violations"]
    page.get_by_role("button", name="Stop and analyse").click()
    expect(live).to_have_count(0)
    wait_for_answer(page)
    assert "selfish" in page.get_by_label("What was heard").input_value().lower()


def test_recording_without_live_view_is_answered(context: BrowserContext, gateway: Gateway, page_files: Path) -> None:
    with gateway(page=page_files, streams=0) as address:
        page = context.new_page()
        page.goto(address)
        context.grant_permissions(["microphone"], origin=address)
        record(page, context)
        live = page.get_by_role("region", name="While you speak")
        expect(live).to_contain_text("The live view is not available")
        expect(live).to_contain_text("The recording and its analysis are not affected.")
        page.wait_for_timeout(7000)
        page.get_by_role("button", name="Stop and analyse").click()
        wait_for_answer(page)
        assert "selfish" in page.get_by_label("What was heard").input_value().lower()


def test_recording_goes_on_when_the_connection_is_lost(page: Page, context: BrowserContext) -> None:
    page.route_web_socket("**/api/live", lambda socket: socket.close(code=1012))
    record(page, context)
    expect(page.get_by_text("The live view is not available")).to_be_visible()
    page.wait_for_timeout(2000)
    page.get_by_role("button", name="Stop and analyse").click()
    wait_for_answer(page)


def test_recording_with_the_live_view_off_opens_no_connection(page: Page, context: BrowserContext) -> None:
    connections: list[str] = []
    page.on("websocket", lambda socket: connections.append(socket.url))
    page.get_by_label("Show the emotion while I speak").uncheck()
    expect(page.get_by_text("Nothing is sent while you record")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Show the emotion while I speak")).not_to_be_checked()
    record(page, context)
    page.wait_for_timeout(7000)
    expect(page.get_by_role("region", name="While you speak")).to_have_count(0)
    page.get_by_role("button", name="Stop and analyse").click()
    wait_for_answer(page)
    assert "selfish" in page.get_by_label("What was heard").input_value().lower()
    assert not connections


def test_stop_button_is_in_view_on_a_small_phone(page: Page, context: BrowserContext) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    record(page, context)
    expect(page.get_by_role("region", name="While you speak")).to_contain_text(VOICE, timeout=ANSWER_TIMEOUT_MS)
    expect(page.get_by_role("button", name="Stop and analyse")).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("button", name="Stop and listen first")).to_be_in_viewport(ratio=1)
