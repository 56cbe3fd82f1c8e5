"""Take the pictures of the page for the documentation: every state, wide and on a phone, in light and dark colours.

    .venv/bin/python docs/pictures.py              # all states; needs `make web` once and Debian's chromium
    .venv/bin/python docs/pictures.py answer busy  # some

It starts Triton, the gateway and the page, and drives them with a real browser. What a healthy service does not show,
such as an outage, is played by answers that Playwright gives in place of the gateway.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from emotion import decoding  # noqa: E402  (the root is not on the path of a script in docs/)

PICTURES = ROOT / "docs" / "images" / "states"
SPEECH = ROOT / "examples" / "speech"
WIDE, PHONE = (1440, 1000), (375, 812)  # CSS pixels
HEIGHT = 640  # pixels of each of the four pictures, so that text stays readable and a file has about 80 kB
GAP = 12  # pixels between the four pictures
QUALITY = 70  # of WebP
TIMEOUT_MS = 60_000
ANSWER, LIVE = "#answer", ".live"

# pictures of other pages, in docs/images: a state, a size and a colour scheme
SINGLE: dict[str, tuple[str, tuple[int, int], str]] = {
    "web-answer.png": ("understood", WIDE, "light"),
    "web-live.png": ("live", WIDE, "light"),
    "web-phone.png": ("answer", PHONE, "dark"),
}

State = Callable[[Page], None]
STATES: dict[str, State] = {}


def state(function: State) -> State:
    """Register a function that brings an opened page into a state, named after the function."""
    STATES[function.__name__.replace("_", "-")] = function
    return function


def recordings() -> dict[str, bytes]:
    """Return the WAV files that the states need, by name."""
    clips = {path.stem: decoding.decode(path.read_bytes()) for path in sorted(SPEECH.glob("*.flac"))}
    pause = np.zeros(16_000, np.float32)
    talk = np.concatenate([part for clip in clips.values() for part in (clip, pause)])
    made = {"call.wav": np.resize(talk, 75 * 16_000), "one.wav": clips["austen-0890"], "two.wav": clips["austen-0930"]}
    return {name: wav(samples) for name, samples in made.items()} | {"notes.wav": b"these are notes"}


def wav(samples: Any) -> bytes:
    """Return 16-bit mono samples at 16 kHz as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


FILES = recordings()


def choose(page: Page, *names: str) -> None:
    """Choose files on the page."""
    page.get_by_role("tab", name="File").click()
    files: list[Any] = [{"name": name, "mimeType": "audio/wav", "buffer": FILES[name]} for name in names]
    page.get_by_label("Choose recordings").set_input_files(files)


def type_text(page: Page, text: str) -> None:
    """Type a text and analyse it."""
    page.get_by_role("tab", name="Type").click()
    page.get_by_label("Text to analyse").fill(text)
    page.get_by_role("button", name="Analyse", exact=True).click()


def show(page: Page, selector: str) -> None:
    """Wait for an element, and scroll it to the top on a phone, where it is below the input."""
    expect(page.locator(selector).first).to_be_visible(timeout=TIMEOUT_MS)
    page.locator(selector).first.evaluate("(it) => it.closest('section, [role=alert]')?.scrollIntoView()")


def record(page: Page) -> None:
    """Record the fake microphone for 6 s."""
    page.get_by_role("button", name="Record").click()
    page.wait_for_timeout(6000)


@state
def notice(page: Page) -> None:
    """The notice before the first use."""
    page.evaluate("localStorage.setItem('emoserve.notice', 'false')")
    page.reload()
    expect(page.get_by_role("button", name="I understand")).to_be_visible()


@state
def speak(page: Page) -> None:
    """Nothing has been recorded yet."""


@state
def file(page: Page) -> None:
    """Recordings can be chosen or dropped."""
    page.get_by_role("tab", name="File").click()


@state
def words(page: Page) -> None:
    """A text can be typed."""
    page.get_by_role("tab", name="Type").click()


@state
def live(page: Page) -> None:
    """Somebody speaks."""
    record(page)
    show(page, LIVE)


@state
def kept(page: Page) -> None:
    """A recording that was stopped to be listened to first."""
    record(page)
    page.get_by_role("button", name="Stop and listen first").click()
    show(page, ".kept")


@state
def waiting(page: Page) -> None:
    """The answer is on its way."""
    page.evaluate("() => { window.fetch = () => new Promise(() => {}); }")
    type_text(page, "This is wonderful, thank you so much!")
    show(page, ".waiting")


@state
def answer(page: Page) -> None:
    """A sure answer to a recording."""
    page.get_by_role("button", name="excitement (voice)").click()
    show(page, ANSWER)


@state
def understood(page: Page) -> None:
    """An answer to a recording whose words were understood."""
    page.get_by_role("button", name="neutral (voice)").click()
    show(page, ANSWER)


@state
def unsure(page: Page) -> None:
    """An answer that the model is not sure of."""
    page.get_by_role("button", name="anger (voice)").click()
    show(page, ANSWER)


@state
def contradiction(page: Page) -> None:
    """Voice and words express different emotions."""
    page.get_by_role("button", name="sadness (voice)").click()
    expect(page.locator(ANSWER)).to_be_visible(timeout=TIMEOUT_MS)
    page.locator(".words textarea").fill("I got the job! I am so happy, I can't wait to start!")
    page.get_by_role("button", name="Analyse again").click()
    expect(page.get_by_text("disagree")).to_be_visible(timeout=TIMEOUT_MS)
    show(page, ANSWER)


@state
def feedback(page: Page) -> None:
    """A correction is about to be sent."""
    type_text(page, "It is so annoying that this form never works.")
    expect(page.locator(ANSWER)).to_be_visible(timeout=TIMEOUT_MS)
    page.get_by_text("This is wrong").click()
    page.locator(".feedback").get_by_label("frustration").check()
    page.locator(".feedback").evaluate("(it) => it.scrollIntoView({ block: 'center' })")


@state
def long_recording(page: Page) -> None:
    """The utterances of a recording of 75 s."""
    choose(page, "call.wav")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible(timeout=TIMEOUT_MS)
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0, timeout=2 * TIMEOUT_MS)
    show(page, ANSWER)


@state
def batch(page: Page) -> None:
    """Three files, of which one is not a recording."""
    choose(page, "one.wav", "notes.wav", "two.wav")
    expect(page.get_by_role("log", name="Files without an answer")).to_contain_text("notes.wav", timeout=TIMEOUT_MS)
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0, timeout=TIMEOUT_MS)
    page.get_by_role("log", name="Files without an answer").scroll_into_view_if_needed()


@state
def comparison(page: Page) -> None:
    """Two recent analyses side by side."""
    for text in ("I got the job! I am so happy!", "It is so annoying that this form never works."):
        type_text(page, text)
        expect(page.locator(".recent")).to_contain_text(text, timeout=TIMEOUT_MS)
    for button in page.locator(".recent").get_by_role("button", name="Compare").all()[:2]:
        button.click()
    show(page, ".comparison")


@state
def unusable(page: Page) -> None:
    """A file that is not a recording."""
    choose(page, "notes.wav")
    show(page, "[role=alert]")


@state
def busy(page: Page) -> None:
    """The service is busy, and the page tries again."""

    def reject(route: Route) -> None:
        body = {"code": "busy", "message": "Many people are using this right now; please try again in about 20 s."}
        route.fulfill(status=503, headers={"Retry-After": "20"}, json=body)

    page.route("**/api/analyze", reject)
    type_text(page, "This is wonderful, thank you so much!")
    show(page, "[role=alert]")


@state
def key(page: Page) -> None:
    """The service needs an access key."""
    message = {"code": "key", "message": "This service needs an access key, sent as X-API-Key."}
    page.route("**/api/analyze", lambda route: route.fulfill(status=401, json=message))
    type_text(page, "This is wonderful, thank you so much!")
    show(page, "[role=alert]")


@state
def unavailable(page: Page) -> None:
    """The service cannot be reached."""
    page.route("**/api/health", lambda route: route.abort())
    expect(page.get_by_text("Service unavailable")).to_be_visible(timeout=TIMEOUT_MS)


@state
def terms(page: Page) -> None:
    """What is sent and kept, as the footer shows it."""
    page.get_by_role("button", name="What is sent and kept").click()


@state
def api(page: Page) -> None:
    """The API page."""
    page.goto("/api-docs.html")
    expect(page.get_by_text("/api/utterances").first).to_be_visible(timeout=TIMEOUT_MS)
    page.wait_for_timeout(1000)


@contextmanager
def running_page() -> Iterator[str]:
    """Run `python -m web` on a free port, with feedback, and yield the page's address."""
    with tempfile.TemporaryDirectory(prefix="emoserve-") as directory:
        environment = os.environ | {"EMOSERVE_FEEDBACK": f"{directory}/feedback", "EMOSERVE_REQUEST_LOG": "false"}
        command = [sys.executable, "-m", "web", "--port", "0"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("open "):
                    yield line.split()[1]
                    return
            raise SystemExit("error: the page did not start; its output is above")
        finally:
            process.terminate()
            process.wait()


def take(browser: Browser, address: str, show_state: State, size: tuple[int, int], scheme: Any) -> Image.Image:
    """Return the picture of a state."""
    width, height = size
    context = browser.new_context(
        base_url=address, viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.add_init_script("if (localStorage.length === 0) localStorage.setItem('emoserve.notice', 'true')")
    context.grant_permissions(["microphone"])
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto("/")
    expect(page.get_by_text("Ready")).to_be_visible(timeout=TIMEOUT_MS)
    show_state(page)
    page.wait_for_timeout(500)  # charts are drawn
    picture = Image.open(io.BytesIO(page.screenshot()))
    context.close()
    return picture


def mount(pictures: list[Image.Image]) -> Image.Image:
    """Return one picture of four: wide and phone in light colours above the same in dark colours."""
    widths = [round(one.width * HEIGHT / one.height) for one in pictures]
    pictures = [
        one.resize((width, HEIGHT), Image.Resampling.LANCZOS) for one, width in zip(pictures, widths, strict=True)
    ]
    wide, phone = pictures[0].width, pictures[2].width
    sheet = Image.new("RGB", (wide + GAP + phone, 2 * HEIGHT + GAP), "white")
    for row in range(2):
        sheet.paste(pictures[row], (0, row * (HEIGHT + GAP)))
        sheet.paste(pictures[2 + row], (wide + GAP, row * (HEIGHT + GAP)))
    return sheet


def main() -> None:
    """Take the pictures of the named states, or of all."""
    parser = argparse.ArgumentParser(description="Take the pictures of docs/page-states.md.")
    parser.add_argument("states", nargs="*", metavar="STATE", help=f"one of {', '.join(STATES)} (default: all)")
    chosen = parser.parse_args().states or list(STATES)
    if unknown := set(chosen) - STATES.keys():
        parser.error(f"unknown states: {', '.join(sorted(unknown))}")
    PICTURES.mkdir(parents=True, exist_ok=True)
    schemes = ("light", "dark")
    with (
        tempfile.TemporaryDirectory(prefix="emoserve-") as directory,
        running_page() as address,
        sync_playwright() as playwright,
    ):
        voice = Path(directory, "voice.wav")
        voice.write_bytes(FILES["one.wav"])
        flags = ["--no-sandbox", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={voice}"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for name in chosen:
            pictures = {
                (size, scheme): take(browser, address, STATES[name], size, scheme)
                for size in (WIDE, PHONE)
                for scheme in schemes
            }
            mount([*pictures.values()]).save(PICTURES / f"{name}.webp", quality=QUALITY, method=6)
            for single, (pictured, size, scheme) in SINGLE.items():
                if pictured == name:
                    pictures[size, scheme].convert("P", palette=Image.Palette.ADAPTIVE).save(PICTURES.parent / single)
            print(f"written: {(PICTURES / f'{name}.webp').relative_to(ROOT)}", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
