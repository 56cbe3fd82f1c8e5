"""Hooks of MkDocs: links from docs/ to other files of the repository lead to its web address."""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)((?:#[^)\s]*)?\))")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Replace each link that leaves docs/ by one to `repo_url`.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def outside(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        if target.startswith("docs/"):
            return match[0]
        if not (ROOT / target).exists():
            raise FileNotFoundError(f"docs/{page.file.src_uri} links to {target}, which does not exist")
        return f"{match[1]}{config.repo_url.rstrip('/')}/{target}{match[3]}"

    return LINK.sub(outside, markdown)
