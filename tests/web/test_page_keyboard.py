"""Walk through the page in a real Chromium with the keyboard alone, and check what a screen reader hears."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

ANSWER_TIMEOUT_MS = 30_000  # other tests may run at the same time
MAX_STEPS = 40  # with the Tab key to one element
# what is wrong with the element that has the focus; a ring may be around the label or the box of a hidden input
FOCUS_FAULTS = """() => {
    const focused = document.activeElement;
    if (!focused || focused === document.body) return ["the focus is lost"];
    const boxes = [focused, focused.closest("label"), focused.parentElement].filter(Boolean);
    const visible = boxes.find((box) => box.getBoundingClientRect().width > 2) ?? focused;
    const { left, right, top, bottom } = visible.getBoundingClientRect();
    const faults = [];
    const ring = (box) => {
        const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(box);
        return (outlineStyle !== "none" && parseFloat(outlineWidth) >= 1) || boxShadow !== "none";
    };
    if (!boxes.some(ring)) faults.push("no focus ring");
    if (bottom <= 0 || top >= innerHeight || right <= 0 || left >= innerWidth) faults.push("outside of the viewport");
    const y = (Math.max(top, 0) + Math.min(bottom, innerHeight)) / 2;
    const x = (Math.max(left, 0) + Math.min(right, innerWidth)) / 2;
    const above = document.elementFromPoint(x, y);
    if (!above || !(visible.contains(above) || above.contains(visible))) faults.push("covered");
    return faults.map((fault) => `${fault}: ${focused.outerHTML.slice(0, 150)}`);
}"""
Gateway = Callable[..., AbstractContextManager[str]]  # the fixture `gateway`


@pytest.fixture(scope="module")
def site(page_files: Path, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a gateway that stores feedback, with the page, and yield its address."""
    with gateway(page=page_files, feedback=tmp_path_factory.mktemp("feedback")) as address:
        yield address


class Walk:
    """A person with a keyboard: every step checks the element that has the focus."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def focused(self) -> str:
        """Return the role, the name and the state of the element that has the focus, as a screen reader gets them."""
        own, *content = self.page.locator(":focus").aria_snapshot().splitlines()
        return f"{own} {content[0].strip()}" if own.endswith("paragraph:") else own

    def check(self, named: bool = True) -> None:
        assert not self.page.evaluate(FOCUS_FAULTS)
        if named:
            assert re.search(r"\w+ \"\S.*\"|\w+: \S", self.focused()), f"no accessible name: {self.focused()}"

    def press(self, key: str, named: bool = True) -> None:
        self.page.keyboard.press(key)
        self.check(named)

    def to(self, target: str, key: str = "Tab", named: bool = True) -> None:
        """Press a key until the element whose role and name match has the focus; those before may have no name."""
        passed: list[str] = []
        for _ in range(MAX_STEPS):
            self.press(key, named)
            passed.append(self.focused())
            if re.search(target, passed[-1]):
                return
        pytest.fail(f"{key} does not reach {target!r}: {passed}")

    def wait_for_answer(self, headline: str) -> None:
        """Wait until the headline has the focus, with which a screen reader reads it."""
        expect(self.page.locator("#answer")).to_be_focused(timeout=ANSWER_TIMEOUT_MS)
        self.check()
        assert re.search(headline, self.focused())


@pytest.mark.parametrize("width", [375, 1440])
def test_page_is_used_with_the_keyboard_alone(browser: Browser, site: str, width: int) -> None:
    context = browser.new_context(
        base_url=site, viewport={"width": width, "height": 800}, permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    walk = Walk(page)
    page.goto("/")
    expect(page.get_by_text("Ready")).to_be_visible()

    walk.to('link "Skip to the content"')
    page.keyboard.press("Enter")
    walk.to("About the model")
    walk.press("Space")
    expect(page.get_by_text("of 2,511 test comments")).to_be_visible()
    walk.to('button "I understand"')
    walk.press("Enter")
    assert 'heading "Say something"' in walk.focused()

    walk.to('tab "Speak"')
    walk.press("ArrowRight")
    assert 'tab "File"' in walk.focused()
    walk.to("Choose recordings")
    walk.to('tab "File"', "Shift+Tab")
    walk.press("ArrowRight")
    walk.to('textbox "Text to analyse"')

    # waiting and the answer
    held: list[Any] = []
    page.route("**/api/analyze", lambda route: held.append(route), times=1)  # Playwright takes no built-in functions
    walk.to(r'button "frustration \(words\)')
    walk.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Reading the words")).to_be_visible()
    walk.check()  # the button is disabled while the page waits
    while not held:
        page.wait_for_timeout(10)
    held[0].continue_()
    walk.wait_for_answer("frustration")

    # views, words, saving
    walk.to('button "Both together" .*pressed')
    walk.press("Space")
    assert "pressed" not in walk.focused()
    walk.to('textbox "The words"')
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("I miss her so much. The house is so empty without her.")
    walk.to('button "Analyse again"')
    walk.press("Enter")
    walk.wait_for_answer("sadness")
    walk.to('button "Copy"')
    walk.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Copied")).to_be_visible()

    # an error
    page.route("**/api/analyze", lambda route: route.abort(), times=1)
    walk.to('textbox "Text to analyse"', "Shift+Tab")
    page.keyboard.type("I got the job!")
    walk.to('button "Analyse"')
    walk.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("can't be reached")
    walk.to('button "Try (again|now)"')
    walk.press("Enter")
    walk.wait_for_answer("excitement")
    expect(page.get_by_role("alert")).to_have_count(0)

    # feedback
    walk.to("This is wrong")
    walk.press("Enter")
    walk.to('radio "')
    walk.press("ArrowDown")
    assert re.search(r'radio "frustration" .*checked', walk.focused())
    walk.to('checkbox "I agree')
    walk.press("Space")
    walk.to('button "Send"')
    page.keyboard.press("Enter")
    expect(page.locator(".thanks")).to_be_focused()
    walk.check()

    # recent analyses
    walk.to('button "Open"')
    page.keyboard.press("Enter")
    walk.wait_for_answer("excitement")
    walk.to('button "Compare"')
    walk.press("Space")
    assert "pressed" in walk.focused()
    walk.to('button "Clear"', "Shift+Tab")
    walk.press("Enter")

    # footer and API page
    walk.to('button "What is sent and kept"')
    walk.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    walk.press("Escape")
    assert 'button "What is sent and kept"' in walk.focused()
    walk.to('link "API"')
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("API of emoserve")
    expect(page.get_by_role("button", name="POST /api/analyze Analyze")).to_be_visible()
    walk.to('link "Skip to the content"')
    walk.to('link "Back to the page"')
    walk.to('link "/api/openapi.json"')
    walk.to('button "POST /api/analyze')
    walk.press("Enter")
    walk.to('button "Execute"', named=False)  # Swagger UI's inputs of a form have no names
    walk.to('link "Back to the page"', "Shift+Tab", named=False)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("emoserve")
    context.close()
