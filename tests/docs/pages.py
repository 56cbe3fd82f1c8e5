"""The documentation as tests read it: its pages, their headings, links and code blocks."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

FENCE = re.compile(r"^( *)```([\w-]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"<!-- generated: .*?<!-- end -->", re.DOTALL)
SHELL = ("bash", "sh")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        page: path of its page below the root.
        language: what stands behind the opening fence; "" if nothing does.
        text: its lines.
    """

    page: str
    language: str
    text: str


def pages() -> list[Path]:
    """Return every page that people read, apart from those about test data."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "clients/README.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    """Return the path of a page below the root."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, apart from generated ones."""
    text = GENERATED.sub("", page.read_text())
    return [Block(name(page), language, code) for _, language, code in FENCE.findall(text)]


def commands(text: str) -> list[str]:
    """Return the commands of a shell block: continued and quoted lines joined, comments and blank lines left out."""
    found: list[str] = []
    pending = ""
    for line in text.replace("\\\n", " ").splitlines():
        pending = f"{pending}\n{line}" if pending else line
        if _open_quote(pending) or pending.rstrip().endswith("|"):
            continue
        command = re.sub(r"(^|\s+)# .*$", "", pending).strip()
        if command and not command.startswith("#"):
            found.append(re.sub(r"\s*\n\s*", " ", command) if '"' not in command else command)
        pending = ""
    assert not pending, f"a command that does not end: {pending}"
    return found


def _open_quote(text: str) -> bool:
    """Return whether a quotation mark is still open at the end of a shell text."""
    quote = ""
    for previous, character in zip(" " + text, text, strict=False):
        if quote:
            quote = "" if character == quote and previous != "\\" else quote
        elif character in "\"'" and previous != "\\":
            quote = character
        elif character == "#" and previous.isspace():
            break
    return bool(quote)


def without_code(text: str) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
