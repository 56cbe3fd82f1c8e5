"""Test the page in a real Chromium: speech, files, typed text, and every error."""

import csv
import io
import json
import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from emotion_client import EMOTIONS, EmotionClient
from matplotlib.image import imread
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect

from emotion import audio, decoding
from serving import Triton
from tests.web.conftest import accept_notice, launch
from web.gateway.recordings import decode

ROOT = Path(__file__).parent.parent.parent
UI = ROOT / "web" / "ui"
AXE = UI / "node_modules" / "axe-core" / "axe.min.js"
SENTENCE = "This is wonderful, thank you so much!"
ANSWER_TIMEOUT_MS = 30_000  # other tests may run at the same time
RECORD_UPLOAD = """() => {
    const fetch = window.fetch;
    window.fetch = (path, options) => {
        if (options?.body instanceof FormData) window.sent = options.body.get("audio");
        return fetch(path, options);
    };
}"""
Gateway = Callable[..., AbstractContextManager[str]]  # the fixture `gateway`


def submit_text(page: Page, text: str = SENTENCE) -> None:
    """Type a text and analyse it."""
    page.get_by_role("tab", name="Type").click()
    page.get_by_label("Text to analyse").fill(text)
    page.get_by_role("button", name="Analyse", exact=True).click()


def wait_for_answer(page: Page) -> None:
    expect(page.locator("#answer")).to_be_visible(timeout=ANSWER_TIMEOUT_MS)


def table(page: Page) -> dict[str, list[str]]:
    """Return the numbers of the table by emotion: both views together, voice, words."""
    groups = page.get_by_role("table").locator("tbody").all()
    return {group.locator("th[scope=rowgroup]").inner_text(): group.locator("td").all_inner_texts() for group in groups}


def shares(probabilities: dict[str, float]) -> list[str]:
    return [f"{int(100 * share + 0.5)} %" for share in probabilities.values()]


def saved_file(page: Page, button: str) -> tuple[str, bytes]:
    """Press a button that saves a file, and return the file's name and contents."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button, exact=True).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_recorded_speech_shows_transcript_and_radar_chart(
    page: Page, context: BrowserContext, speech_server: Triton
) -> None:
    """Check that the answer equals that of `emotion` for the same audio and text."""
    context.grant_permissions(["microphone"])
    page.evaluate(RECORD_UPLOAD)
    page.get_by_role("button", name="Record").click()
    page.get_by_text("Listening. Press again").wait_for()
    page.wait_for_timeout(7000)
    page.get_by_role("button", name="Stop and analyse").click()
    wait_for_answer(page)
    transcript = page.get_by_label("What was heard").input_value()
    assert "selfish" in transcript.lower()

    recording = bytes(page.evaluate("window.sent.arrayBuffer().then((buffer) => [...new Uint8Array(buffer)])"))
    assert recording.startswith(b"\x1a\x45\xdf\xa3")
    with EmotionClient(speech_server.grpc_url) as client:
        expected = client.analyze(decode(recording, 60.0), transcript, audio.SAMPLE_RATE)
    columns = [
        shares(getattr(expected, view)) for view in ("probabilities", "audio_probabilities", "text_probabilities")
    ]
    assert table(page) == {emotion: list(row) for emotion, *row in zip(EMOTIONS, *columns, strict=True)}
    expect(page.get_by_role("heading", level=2, name=expected.label)).to_be_visible()
    radar = page.get_by_role("img", name="Radar chart")
    assert "Both together: " in (radar.get_attribute("aria-label") or "")
    assert radar.locator(".recharts-radar-polygon").count() == 3


def test_timeline_follows_playback(page: Page) -> None:
    page.get_by_role("button", name="neutral (voice)").click()
    wait_for_answer(page)
    position = page.get_by_label("Position in the recording")
    expect(page.get_by_role("button", name="Play")).to_be_enabled()
    position.press("End")
    assert float(position.input_value()) == pytest.approx(7.1, abs=0.1)
    position.press("Home")
    page.get_by_role("button", name="Play").click()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Pause").click()
    assert 0.3 < float(position.input_value()) < 3
    assert "At 0:0" in page.locator(".playback .fine").inner_text()


def test_answer_is_saved_as_json_csv_and_png(page: Page) -> None:
    """Save the answer in dark mode: the image has the colours of the light theme on white."""
    page.emulate_media(color_scheme="dark")
    with page.expect_response("**/api/analyze", timeout=ANSWER_TIMEOUT_MS) as response:
        page.get_by_role("button", name="neutral (voice)").click()
    answer = response.value.json()
    wait_for_answer(page)

    name, contents = saved_file(page, "JSON")
    assert name == "Example-neutral-voice-emotions.json"
    assert json.loads(contents) == answer

    rows = list(csv.DictReader(io.StringIO(saved_file(page, "CSV")[1].decode("utf-8-sig"), newline="")))
    assert [row["view"] for row in rows] == ["both", "voice", "words"] + ["voice"] * len(answer["timeline"])
    assert {emotion: float(rows[0][emotion]) for emotion in EMOTIONS} == answer["probabilities"]
    assert (rows[0]["text"], float(rows[0]["confidence"])) == (answer["text"], answer["confidence"])
    assert [float(row["end"]) for row in rows[3:]] == [window["end"] for window in answer["timeline"]]

    recent = list(csv.DictReader(io.StringIO(saved_file(page, "Save as CSV")[1].decode("utf-8-sig"), newline="")))
    assert [(row["name"], row["label"]) for row in recent] == [("Example: neutral (voice)", answer["label"])]

    name, contents = saved_file(page, "PNG")
    assert name == "Example-neutral-voice-emotions.png"
    image = np.round(imread(io.BytesIO(contents), format="png")[..., :3] * 255).astype(int)
    height, width, _ = image.shape
    assert width == 960
    assert 900 < height < 1400
    assert (image[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()  # the corners are white
    for colour in [(0, 95, 153), (179, 71, 0), (0, 115, 83)]:  # of the three views
        assert (image == colour).all(axis=-1).sum() > 200


def test_file_with_corrected_transcript_is_analysed_again(page: Page, recordings: dict[str, bytes]) -> None:
    page.get_by_role("tab", name="File").click()
    file: Any = {"name": "clip.flac", "mimeType": "audio/flac", "buffer": recordings["austen-0880.flac"]}
    page.get_by_label("Choose recordings").set_input_files(file)
    wait_for_answer(page)
    before = table(page)
    page.get_by_label("What was heard").fill("what a wonderful surprise")
    page.get_by_role("button", name="Analyse again").click()
    words = page.get_by_label("The words", exact=True)
    expect(words).to_have_value("what a wonderful surprise", timeout=ANSWER_TIMEOUT_MS)
    after = table(page)
    assert [row[1] for row in after.values()] == [row[1] for row in before.values()]  # the recording is the same
    assert [row[2] for row in after.values()] != [row[2] for row in before.values()]


def test_typed_text_is_analysed_with_the_keyboard_alone(page: Page) -> None:
    page.get_by_role("tab", name="Speak").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    page.keyboard.type(SENTENCE)
    page.keyboard.press("Control+Enter")
    wait_for_answer(page)
    expect(page.locator("#answer")).to_be_focused()
    expect(page.get_by_role("button", name="What the voice says")).to_be_disabled()
    expect(page.get_by_role("heading", name="excitement", level=2)).to_be_visible()


def test_recent_analyses_survive_a_reload_until_cleared(page: Page) -> None:
    submit_text(page)
    wait_for_answer(page)
    page.reload()
    recent = page.get_by_role("region", name="Recent analyses")
    expect(recent.get_by_text(SENTENCE)).to_be_visible()
    recent.get_by_role("button", name="Clear").click()
    page.reload()
    expect(page.get_by_text("Ready")).to_be_visible()
    expect(recent).to_have_count(0)


# --- notice


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent"))


def press_tab_until(page: Page, text: str) -> None:
    """Move the focus with the Tab key to the element with this text."""
    for _ in range(20):
        page.keyboard.press("Tab")
        if focused(page) == text:
            return
    pytest.fail(f"the Tab key does not reach {text!r}")


def test_notice_is_read_and_accepted_once_with_the_keyboard_alone(browser: Browser, site: str) -> None:
    context = browser.new_context(base_url=site)
    page = context.new_page()
    page.goto("/")
    notice = page.get_by_role("region", name="Before you start")
    expect(notice).to_contain_text("It is often wrong.")
    expect(page.get_by_role("button", name="Record")).to_have_count(0)
    press_tab_until(page, "About the model")
    page.keyboard.press("Enter")
    expect(notice.get_by_text("of 2,511 test comments")).to_be_visible()
    press_tab_until(page, "I understand")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Record")).to_be_visible()
    assert focused(page) == "Say something"
    page.reload()
    expect(page.get_by_role("button", name="Record")).to_be_visible()
    expect(page.get_by_role("button", name="I understand")).to_have_count(0)

    press_tab_until(page, "What is sent and kept")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="What is sent and kept")
    expect(dialog).to_contain_text("No recordings and no texts.")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert focused(page) == "What is sent and kept"
    context.close()


def test_figures_of_the_notice_are_those_of_the_model_card(page: Page) -> None:
    page.get_by_role("button", name="About the model").click()
    figures = re.findall(r"([\d.]+)\s%", page.get_by_role("dialog").inner_text())
    card = (ROOT / "docs" / "model-card.md").read_text()
    assert len(figures) == 3
    assert all(f" {float(figure) / 100:.3f} " in card for figure in figures)


def test_footer_links_the_licence(page: Page) -> None:
    link = page.get_by_role("link", name="Licence").get_attribute("href")
    assert page.request.get(str(link)).text() == (ROOT / "LICENSE").read_text()


# --- recordings are not lost


def test_recording_goes_on_while_another_tab_is_shown(page: Page, context: BrowserContext) -> None:
    context.grant_permissions(["microphone"])
    page.get_by_role("button", name="Record").click()
    page.get_by_text("Listening. Press again").wait_for()
    page.get_by_role("tab", name="Type").click()
    page.wait_for_timeout(3000)
    page.get_by_role("tab", name="Speak").click()
    page.get_by_role("button", name="Stop and listen first").click()
    kept = page.get_by_role("region", name="Your recording")
    expect(kept.get_by_text("It is not analysed yet.")).to_be_visible()
    player = kept.locator("audio")
    player.evaluate("(audio) => audio.play()")
    page.wait_for_timeout(1500)
    assert player.evaluate("(audio) => audio.currentTime") > 0.5
    with page.expect_download() as download:
        kept.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "recording.webm"
    assert len(decode(Path(download.value.path()).read_bytes(), 60.0)) > 2 * audio.SAMPLE_RATE
    with page.expect_event("dialog", lambda dialog: dialog.type == "beforeunload") as question:
        page.close(run_before_unload=True)
    question.value.dismiss()
    kept.get_by_role("button", name="Analyse the recording").click()
    wait_for_answer(page)
    expect(kept).to_have_count(0)


def test_recording_without_an_answer_is_kept(page: Page, recordings: dict[str, bytes]) -> None:
    page.route("**/api/analyze", lambda route: route.abort(), times=1)
    page.get_by_role("tab", name="File").click()
    file: Any = {"name": "clip.flac", "mimeType": "audio/flac", "buffer": recordings["austen-0880.flac"]}
    page.get_by_label("Choose recordings").set_input_files(file)
    assert "can't be reached" in alert(page)
    kept = page.get_by_role("region", name="Your recording")
    expect(kept.get_by_text("clip.flac is not analysed yet.")).to_be_visible()
    kept.get_by_role("button", name="Analyse the recording").click()
    wait_for_answer(page)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_files_dropped_anywhere_are_all_analysed(page: Page, recordings: dict[str, bytes]) -> None:
    names = ("austen-0880.flac", "austen-0890.flac")
    transfer = page.evaluate_handle(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, bytes] of files) {
                transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "audio/flac" }));
            }
            return transfer;
        }""",
        [[name, list(recordings[name])] for name in names],
    )
    page.locator("footer").dispatch_event("drop", {"dataTransfer": transfer})
    recent = page.get_by_role("region", name="Recent analyses")
    for name in names:
        expect(recent.get_by_text(f"{name}, ")).to_be_visible(timeout=ANSWER_TIMEOUT_MS)


def test_two_tabs_share_recent_analyses(page: Page, context: BrowserContext) -> None:
    other = context.new_page()
    other.goto("/")
    submit_text(page, "the first tab says this")
    wait_for_answer(page)
    expect(other.get_by_text("the first tab says this")).to_be_visible()
    submit_text(other, "the second tab says that")
    wait_for_answer(other)
    recent = page.get_by_role("region", name="Recent analyses")
    expect(recent.get_by_text("the second tab says that")).to_be_visible()
    expect(recent.get_by_text("the first tab says this")).to_be_visible()


def test_answer_is_shown_again_after_a_reload(page: Page) -> None:
    submit_text(page)
    wait_for_answer(page)
    before = table(page)
    page.reload()
    wait_for_answer(page)
    assert table(page) == before


def test_waiting_and_errors_are_in_view_on_a_phone(browser: Browser, site: str) -> None:
    context = accept_notice(browser.new_context(base_url=site, viewport={"width": 375, "height": 667}))
    page = context.new_page()
    page.goto("/")
    held: list[Any] = []
    page.route("**/api/analyze", lambda route: held.append(route))  # Playwright takes no built-in functions
    submit_text(page)
    expect(page.get_by_text("Reading the words")).to_be_in_viewport()
    held[0].abort()
    expect(page.get_by_role("alert")).to_be_in_viewport()
    context.close()


# --- errors


def alert(page: Page) -> str:
    message = page.get_by_role("alert")
    expect(message).to_be_visible(timeout=ANSWER_TIMEOUT_MS)
    return message.inner_text()


def test_denied_microphone_shows_an_error(playwright: Playwright, site: str) -> None:
    browser = launch(playwright, "--use-fake-device-for-media-stream", "--deny-permission-prompts")
    page = accept_notice(browser.new_context(base_url=site)).new_page()
    page.goto("/")
    page.get_by_role("button", name="Record").click()
    assert "blocked" in alert(page)
    browser.close()


def test_missing_microphone_shows_an_error(playwright: Playwright, site: str) -> None:
    browser = launch(playwright, "--use-fake-ui-for-media-stream")  # grants every permission
    page = accept_notice(browser.new_context(base_url=site)).new_page()
    page.goto("/")
    devices = page.evaluate("navigator.mediaDevices.enumerateDevices()")
    if any(device["kind"] == "audioinput" for device in devices):
        pytest.skip("this machine has a microphone")
    page.get_by_role("button", name="Record").click()
    assert "No microphone was found" in alert(page)
    browser.close()


def test_file_without_audio_shows_an_error(page: Page) -> None:
    page.get_by_role("tab", name="File").click()
    file: Any = {"name": "notes.wav", "mimeType": "audio/wav", "buffer": b"these are notes"}
    page.get_by_label("Choose recordings").set_input_files(file)
    assert "not an audio file" in alert(page)
    page.get_by_role("button", name="Close").click()
    submit_text(page)
    wait_for_answer(page)


def test_recording_over_the_limit_can_be_shortened(page: Page, recordings: dict[str, bytes], tmp_path: Path) -> None:
    waveform = decoding.decode(recordings["austen-0890.flac"])
    soundfile.write(tmp_path / "long.flac", np.tile(waveform, 20)[: 65 * audio.SAMPLE_RATE], audio.SAMPLE_RATE)
    page.get_by_role("tab", name="File").click()
    page.get_by_label("Choose recordings").set_input_files(tmp_path / "long.flac")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Analyse the first 60 s").click()
    wait_for_answer(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert "of 1:00" in page.locator(".playback .time").inner_text()


def test_silent_recording_shows_an_error(page: Page, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(2 * 16_000, np.int16), 16_000)
    page.get_by_role("tab", name="File").click()
    page.get_by_label("Choose recordings").set_input_files(tmp_path / "silence.wav")
    assert "The recording has no sound: check the microphone" in alert(page)


def test_busy_service_is_asked_again_automatically(page: Page) -> None:
    """Reject the first request as the gateway does, and let the second one through."""
    rejected: list[Any] = []

    def reject_once(route: Any) -> None:
        if rejected:
            route.continue_()
            return
        rejected.append(route)
        body = {"code": "busy", "message": "Many people are using this right now; please try again in a moment."}
        route.fulfill(status=503, headers={"Retry-After": "1"}, json=body)

    page.route("**/api/analyze", reject_once)
    submit_text(page)
    assert "Many people" in alert(page)
    wait_for_answer(page)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_unreachable_server_and_gateway_show_errors(
    context: BrowserContext, gateway: Gateway, page_files: Path
) -> None:
    with gateway(page=page_files, endpoints=["127.0.0.1:9"]) as address:  # nothing listens on that port
        page = context.new_page()
        page.goto(address)
        expect(page.get_by_text("Service unavailable")).to_be_visible(timeout=ANSWER_TIMEOUT_MS)
        submit_text(page)
        assert "not running or can't be reached" in alert(page)
    submit_text(page)  # the gateway is stopped as well
    assert "can't be reached. Check your connection" in alert(page)


def test_missing_key_opens_a_form(context: BrowserContext, gateway: Gateway, page_files: Path) -> None:
    with gateway(page=page_files, api_key="open sesame") as address:
        page = context.new_page()
        page.goto(address)
        submit_text(page)
        assert "access key" in alert(page)
        page.get_by_label("Access key").fill("open sesame")
        page.get_by_role("button", name="Use this key").click()
        wait_for_answer(page)


# --- accessibility and size


@pytest.mark.parametrize("width", [320, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_has_no_accessibility_violations(browser: Browser, site: str, width: int, scheme: Any) -> None:
    context = browser.new_context(base_url=site, color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto("/")
    expect(page.get_by_text("Ready")).to_be_visible()
    page.evaluate(AXE.read_text())

    def violations() -> list[str]:
        found = page.evaluate("axe.run()")["violations"]
        return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]

    page.get_by_text("About the model").first.click()
    assert not violations()
    for name in ("What is sent and kept", "About the model"):
        page.get_by_role("button", name=name).click()
        assert not violations()
        page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="I understand").click()
    assert not violations()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("File", "Type"):
        page.get_by_role("tab", name=name).click()
        assert not violations()
    page.get_by_role("button", name="neutral (voice)").click()
    wait_for_answer(page)
    page.wait_for_timeout(500)
    assert not violations()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("tab", name="File").click()
    file: Any = {"name": "notes.wav", "mimeType": "audio/wav", "buffer": b"these are notes"}
    page.get_by_label("Choose recordings").set_input_files(file)
    alert(page)
    assert not violations()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_are_visible_in_forced_colours(page: Page, scheme: Any) -> None:
    page.emulate_media(forced_colors="active", color_scheme=scheme)
    page.get_by_role("button", name="neutral (voice)").click()
    wait_for_answer(page)
    background = page.locator(".recent .card").evaluate("(card) => getComputedStyle(card).backgroundColor")
    for mark in page.locator(".recent .bar span").all():
        assert mark.evaluate("(mark) => getComputedStyle(mark).backgroundColor") != background
    button = page.locator(".record")
    icon = button.locator("svg").evaluate("(icon) => getComputedStyle(icon).fill")
    assert icon != button.evaluate("(button) => getComputedStyle(button).backgroundColor")


def test_page_is_within_its_size_budget(page_files: Path) -> None:
    done = subprocess.run(["npm", "run", "budget"], cwd=UI, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", ["lint", "test"])
def test_page_passes_lint_and_unit_tests(page_files: Path, script: str) -> None:
    done = subprocess.run(["npm", "run", script], cwd=UI, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
