"""Build the API reference from the docstrings, and check that nothing in it points nowhere.

pip install -e ".[docs]" && python docs/build.py          # writes docs/api/index.html
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import sys
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lightning_interactions"
MODULES = ["lightning_interactions", *(f"lightning_interactions.{name}" for name in ("players", "report.figures"))]
LINK = re.compile(r'<a href="#([\w.]+)">(.*?)</a>', re.DOTALL)
REFERENCE = re.compile(r"(?<![`\w])(?::\w+:)?`~?([A-Za-z_][\w.]*)(?:\(\))?`(?!`)")


def build(folder: Path) -> None:
    """Write the reference.

    Args:
        folder: Where to.
    """
    from pdoc import pdoc, render

    render.configure(docformat="google", footer_text="lightning-interactions")
    pdoc(*MODULES, output_directory=folder)
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        path.write_text(_unlink(text, _Page(text).anchors), encoding="utf-8")


def _unlink(text: str, anchors: set[str]) -> str:
    """Undo links within a page that lead nowhere: pdoc makes them for the names of inherited members."""
    return LINK.sub(lambda link: str(link[0] if link[1] in anchors else link[2]), text)


def broken_references() -> list[str]:
    """Return every name in a docstring (`name`, :func:`name`) that is not known where it stands."""
    everywhere = {path.stem for path in PACKAGE.rglob("*.py")} | set(vars(builtins))
    for module in _modules():
        everywhere |= set(vars(importlib.import_module(module)))
        everywhere |= {name for node in ast.walk(_tree(module)) for name in _declared(node)}
    return [
        f"{module}: `{name}` in {where}"
        for module in _modules()
        for where, text, near in _docstrings(module)
        for name in REFERENCE.findall(text.split("Example:")[0])
        if not _is_known(name, near | everywhere)
    ]


def broken_links(folder: Path) -> list[str]:
    """Return every link of the built pages that leads nowhere; other sites are not visited.

    Args:
        folder: Where the pages are.
    """
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target, anchor = urllib.parse.urldefrag(link)
            if urllib.parse.urlparse(target).scheme:
                continue
            found = (path.parent / target).resolve() if target else path
            if not found.exists() or (anchor and found in pages and anchor not in pages[found].anchors):
                broken.append(f"{path.name}: {link}")
    return broken


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "href" and value and tag == "a":
                self.links.append(value)
            if name == "id" and value:
                self.anchors.add(value)


def _modules() -> list[str]:
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(PACKAGE.rglob("*.py")))
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def _docstrings(module: str) -> Iterator[tuple[str, str, set[str]]]:
    """Yield place, docstring and the names that are known around it: parameters, attributes, methods."""

    def walk(node: Any, place: str, near: set[str]) -> Iterator[tuple[str, str, set[str]]]:
        own = near | {name for child in ast.walk(node) for name in _names(child)}
        text = ast.get_docstring(node)
        if text:
            yield place, text, own
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)) and not child.name.startswith("_"):
                inherited = set(dir(getattr(importlib.import_module(module), child.name, None)))
                yield from walk(child, child.name, (own if isinstance(node, ast.ClassDef) else set()) | inherited)

    yield from walk(_tree(module), module, set())


def _tree(module: str) -> ast.Module:
    return ast.parse(Path(importlib.import_module(module).__file__ or "").read_text(encoding="utf-8"))


def _declared(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
    if isinstance(node, ast.arg):
        yield node.arg
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _names(node: ast.AST) -> Iterator[str]:
    yield from _declared(node)
    if isinstance(node, ast.Attribute):
        yield node.attr
    if isinstance(node, ast.Name):
        yield node.id


def _is_known(name: str, names: set[str]) -> bool:
    name = name.removesuffix(".py")
    if name.split(".")[0] in INSTALLED:
        return _resolves(name)
    return set(name.split(".")) <= names or name in sys.stdlib_module_names or _is_member(name)


INSTALLED = {"lightning_interactions", "torch", "lightning", "pytorch_lightning", "torchmetrics", "numpy"}


def _is_member(name: str) -> bool:
    """Whether it is ``Class.member`` of a public class."""
    package = importlib.import_module("lightning_interactions")
    owner, _, member = name.partition(".")
    return bool(member) and hasattr(getattr(package, owner, None), member)


def _resolves(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def main() -> int:
    """Build and check; return the exit status."""
    folder = ROOT / "docs" / "api"
    build(folder)
    broken = broken_references() + broken_links(folder)
    print("\n".join(broken) or f"{folder / 'index.html'}: no broken references")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
