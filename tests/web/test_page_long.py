"""Test long recordings and batches of files on the page in a real Chromium."""

import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from emotion_client import EMOTIONS
from playwright.sync_api import Browser, Page, expect

from emotion import audio, decoding
from tests.encoding import encode, encode_with_ffmpeg
from tests.web.conftest import accept_notice
from tests.web.test_page import ANSWER_TIMEOUT_MS, AXE, alert, saved_file

LONG_TIMEOUT_MS = 4 * ANSWER_TIMEOUT_MS  # for the whole of a long recording
TALK_S = 75
RECORD_ANSWER = """() => {
    const fetch = window.fetch;
    window.fetch = async (path, options) => {
        const response = await fetch(path, options);
        if (path === "/api/utterances") window.received = response.clone().text();
        return response;
    };
}"""


@pytest.fixture(scope="module")
def talk(recordings: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a FLAC file of 75 s: clips with pauses between them."""
    clips = [decoding.decode(data) for name, data in sorted(recordings.items()) if name.startswith("austen")]
    pause = np.zeros(audio.SAMPLE_RATE, np.float32)
    parts = itertools.chain.from_iterable((clip, pause) for clip in itertools.cycle(clips))
    waveform = np.concatenate(list(itertools.islice(parts, 40)))[: TALK_S * audio.SAMPLE_RATE]
    assert len(waveform) == TALK_S * audio.SAMPLE_RATE
    path = tmp_path_factory.mktemp("long") / "talk.flac"
    soundfile.write(path, waveform, audio.SAMPLE_RATE)
    return path


def upload(page: Page, *files: Any) -> None:
    page.get_by_role("tab", name="File").click()
    page.get_by_label("Choose recordings").set_input_files(list(files))


def rows(page: Page) -> Any:
    return page.get_by_role("table", name="Utterances").locator("tbody tr")


def wait_for_end(page: Page) -> None:
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0, timeout=LONG_TIMEOUT_MS)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_long_recording_shows_its_utterances_and_is_saved(page: Page, talk: Path) -> None:
    page.evaluate(RECORD_ANSWER)
    upload(page, talk)
    expect(page.get_by_text(re.compile(r"^\d+ of \d+ utterances$"))).to_be_visible(timeout=ANSWER_TIMEOUT_MS)
    expect(rows(page).first).to_be_visible()
    wait_for_end(page)
    expect(page.locator("#answer")).to_be_focused()
    first, *utterances, last = [json.loads(line) for line in page.evaluate("window.received").splitlines()]
    assert (first["type"], last["type"]) == ("recording", "end")
    assert first["utterances"] == len(utterances) > 5
    expect(rows(page)).to_have_count(len(utterances))
    expect(rows(page).filter(has_text=re.compile("selfish", re.IGNORECASE)).first).to_be_visible()
    shares = page.locator(".shares .number").all_inner_texts()
    assert sum(int(share.removesuffix(" %")) for share in shares) == pytest.approx(100, abs=3)

    name, contents = saved_file(page, "JSON")
    assert name == "talk-emotions.json"
    assert json.loads(contents)["utterances"] == [
        {key: value for key, value in one.items() if key != "type"} for one in utterances
    ]
    table = list(csv.DictReader(io.StringIO(saved_file(page, "CSV")[1].decode("utf-8-sig"), newline="")))
    assert [(float(row["start"]), row["label"], row["text"]) for row in table] == [
        (one["start"], one["label"], one["transcript"]) for one in utterances
    ]
    recent = list(csv.DictReader(io.StringIO(saved_file(page, "Save as CSV")[1].decode("utf-8-sig"), newline="")))
    assert [(row["name"], float(row["seconds"]), int(row["utterances"])) for row in recent] == [
        ("talk.flac", TALK_S, len(utterances))
    ]
    assert recent[0]["label"] in EMOTIONS

    page.reload()
    expect(rows(page)).to_have_count(len(utterances))
    expect(page.get_by_label("The recording", exact=True)).to_have_count(0)


def test_recording_plays_from_an_utterance_with_the_keyboard(page: Page, talk: Path) -> None:
    upload(page, talk)
    expect(rows(page).nth(1)).to_be_visible(timeout=ANSWER_TIMEOUT_MS)
    button = rows(page).nth(1).get_by_role("button")
    minutes, seconds = button.inner_text().split(":")
    button.press("Enter")
    player = page.get_by_label("The recording", exact=True)
    expect(rows(page).nth(1)).to_have_attribute("aria-current", "true")
    page.wait_for_timeout(500)
    assert player.evaluate("(player) => !player.paused")
    assert 0 < player.evaluate("(player) => player.currentTime") - 60 * int(minutes) - int(seconds) < 4
    player.evaluate("(player) => player.pause()")
    page.get_by_label("Position in the recording").press("Home")
    assert player.evaluate("(player) => player.currentTime") == 0


def test_cancelled_long_recording_keeps_what_arrived(page: Page, talk: Path) -> None:
    upload(page, talk)
    expect(rows(page).nth(1)).to_be_visible(timeout=ANSWER_TIMEOUT_MS)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("The analysis ended early")).to_be_visible()
    assert 2 <= rows(page).count() < 10
    kept = page.get_by_role("region", name="Your recording")
    expect(kept.get_by_role("button", name="Analyse the first 60 s")).to_be_visible()
    expect(page.get_by_role("region", name="Recent analyses").get_by_text("1:15 long")).to_be_visible()


@pytest.mark.parametrize("kind", ["webm as it is recorded", "mp4 in fragments", "aac", "AIFF"])
def test_long_recording_is_recognised_in_any_format(page: Page, talk: Path, kind: str) -> None:
    """Check formats that do not begin with their length, and AIFF, which Chromium can't read."""
    waveform, _ = soundfile.read(talk, dtype="float32")
    data = encode(waveform, kind) if kind == "AIFF" else encode_with_ffmpeg(waveform, kind)
    file: Any = {"name": "talk", "mimeType": "", "buffer": data}
    with page.expect_request("**/api/utterances", timeout=ANSWER_TIMEOUT_MS):
        upload(page, file)
    expect(rows(page).first).to_be_visible(timeout=ANSWER_TIMEOUT_MS)


def test_recording_over_the_longest_length_is_not_sent(page: Page, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "day.flac", np.zeros(660 * 8000, np.int16), 8000)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    upload(page, tmp_path / "day.flac")
    assert "The recording is too long (11:00); at most 10 min are accepted." in alert(page)
    kept = page.get_by_role("region", name="Your recording")
    expect(kept.get_by_role("button", name="Analyse the first 60 s")).to_be_visible()
    expect(kept.get_by_role("button", name="Analyse the recording")).to_have_count(0)
    assert not [url for url in requests if url.endswith(("/analyze", "/utterances"))]


def test_unusable_file_does_not_stop_a_batch(page: Page, recordings: dict[str, bytes]) -> None:
    clip = recordings["austen-0880.flac"]
    files: list[Any] = [
        {"name": "one.flac", "mimeType": "audio/flac", "buffer": clip},
        {"name": "notes.wav", "mimeType": "audio/wav", "buffer": b"these are notes"},
        {"name": "three.flac", "mimeType": "audio/flac", "buffer": clip},
    ]
    upload(page, *files)
    expect(page.get_by_text("1 of 3 files")).to_be_visible()
    recent = page.get_by_role("region", name="Recent analyses")
    for name in ("one.flac", "three.flac"):
        expect(recent.get_by_text(f"{name}, ")).to_be_visible(timeout=ANSWER_TIMEOUT_MS)
    wait_for_end(page)
    problems = page.get_by_role("log", name="Files without an answer")
    expect(problems.get_by_role("listitem")).to_have_count(1)
    expect(problems).to_contain_text("notes.wav")
    expect(problems).to_contain_text("not an audio file")


def test_long_answer_has_no_accessibility_violations(browser: Browser, site: str, talk: Path) -> None:
    context = accept_notice(browser.new_context(base_url=site))
    page = context.new_page()
    page.goto("/")

    schemes: tuple[Any, ...] = ("light", "dark")

    def check() -> None:
        page.evaluate(AXE.read_text())
        for width, scheme in itertools.product((320, 1440), schemes):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            found = page.evaluate("axe.run()")["violations"]
            assert not [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]
            assert page.evaluate("document.documentElement.scrollWidth") <= width

    upload(page, talk)
    expect(rows(page).first).to_be_visible(timeout=ANSWER_TIMEOUT_MS)
    page.get_by_role("button", name="Cancel").click()
    check()
    page.get_by_role("button", name="Analyse the recording").click()
    expect(page.get_by_role("progressbar", name="Utterances")).to_be_visible(timeout=ANSWER_TIMEOUT_MS)
    check()
    wait_for_end(page)
    rows(page).first.get_by_role("button").click()
    check()
    context.close()
