"""The pages of the documentation: their links, their lines, and their place on the site."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.docs.pages import GENERATED, anchors, blocks, name, pages, without_code

WIDTH = 160  # characters
PAGES = pytest.mark.parametrize("page", pages(), ids=name)
SITE = ROOT / "mkdocs.yml"


@PAGES
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        if "://" in target:
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), f"{name(page)}: {target}"
        assert not anchor or anchor in anchors(linked), f"{name(page)}: {target}#{anchor}"


@PAGES
def test_lines_fit_the_width(page: Path) -> None:
    """A line may be longer only in a code block, where a command must paste as it is."""
    text = without_code(GENERATED.sub("", page.read_text()))
    wide = [line for line in text.splitlines() if len(line) > WIDTH]
    assert not wide, f"{name(page)}: {len(wide)} lines over {WIDTH} characters, such as: {wide[0]}"


@PAGES
def test_code_blocks_name_their_language(page: Path) -> None:
    plain = [block.text.splitlines()[0] for block in blocks(page) if not block.language]
    assert not plain, f"{name(page)}: write the language behind ``` (bash, python, text ...) before: {plain}"


@PAGES
def test_source_line_holds_one_sentence(page: Path) -> None:
    """Two sentences on a line make diffs large; abbreviations and lists of numbers are not sentences."""
    prose = [
        line
        for line in without_code(GENERATED.sub("", page.read_text())).splitlines()
        if line and not line.startswith(("|", "#", "<", "    "))
    ]
    plain = {line: re.sub(r"`[^`]*`|\([^)]*\)|\"[^\"]*\"", "x", line) for line in prose}
    several = [line for line in prose if re.search(r"[a-z)`][.?!] [A-Z][a-z]+ [a-z]", plain[line])]
    assert not several, f"{name(page)}: {len(several)} lines with several sentences, such as: {several[0]}"


class _Loader(yaml.SafeLoader):
    """A loader for mkdocs.yml that ignores the tags of MkDocs."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def listed(entries: list[Any]) -> list[str]:
    """Return the pages below a list of the site's navigation."""
    found: list[str] = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += listed(value) if isinstance(value, list) else [value]
    return found


def test_site_lists_every_page_once() -> None:
    navigation = listed(yaml.load(SITE.read_text(), _Loader)["nav"])
    written = sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))
    assert sorted(navigation) == written


def test_example_text_is_the_transcript_of_its_recording() -> None:
    """The text of an example command is the transcript of the recording in that command."""
    said = dict(line.split("\t") for line in (ROOT / "examples/speech/transcripts.tsv").read_text().splitlines())
    for page in pages():
        for file, text in re.findall(
            r"(austen-\d+\.flac)[^\n]*?(?:--text|-F text=) ?\"?([^\"\n]+)\"", page.read_text()
        ):
            assert text == said[file], f"{name(page)}: {file} says: {said[file]}"
