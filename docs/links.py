"""Links of the Markdown files, which work where the file stands, made to work on the site."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)((?:#[^)\s]*)?)\)")
SCRIPT = re.compile(r"^python examples/(\w+\.py)", re.MULTILINE)
INCLUDED = re.compile(r"\{include\} (\S+)")


def mend(text: str, folder: Path, page: str) -> str:
    """Point the relative links of a text to pages of the site, or to files from where its page is.

    Args:
        text: Markdown.
        folder: Of the file it was read from.
        page: Name of the page it is shown on: ``papers``, ``measured/cost``.
    """

    def point(link: re.Match[str]) -> str:
        path = (DOCS / link[1][1:] if link[1].startswith("/") else folder / link[1]).resolve()
        shown = pages().get(path)
        if shown is None:
            return f"]({os.path.relpath(path, (DOCS / page).parent)}{link[2]})"
        return f"](/{shown}{link[2]})"

    return LINK.sub(point, text)


@cache
def pages() -> dict[Path, str]:
    """Return on which page each file of the project is shown, by a path from the folder of the pages."""
    shown = {ROOT / "README.md": "index.md"}
    for script in (ROOT / "examples").rglob("*.py"):
        page = Path("gallery") / script.relative_to(ROOT / "examples").with_suffix(".rst")
        if (DOCS / page).exists():
            shown[script] = page.as_posix()
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).as_posix()
        shown[page] = name
        for path in INCLUDED.findall(page.read_text(encoding="utf-8")):
            shown[(page.parent / path).resolve()] = name
    return shown


def place_in_gallery(script: str) -> tuple[int, str]:
    """Sort the scripts as ``examples/README.md`` names them; others come last, by name."""
    named = SCRIPT.findall((ROOT / "examples" / "README.md").read_text(encoding="utf-8"))
    return (named.index(script) if script in named else len(named)), script
