"""Names in docstrings: which lead nowhere, and where on the site the others do.

A docstring of the package writes `name` for whatever has a name: a class, a method, an argument, a module. `conf.py`
links those that the API lists; the others only have to exist, here or in an installed package. The tests check every
docstring of the package, that of private modules too.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lightning_interactions"
PUBLIC = ("lightning_interactions", "lightning_interactions.functional", "lightning_interactions.metrics")
INSTALLED = {"lightning_interactions", "torch", "lightning", "pytorch_lightning", "torchmetrics", "numpy", "matplotlib"}
REFERENCE = re.compile(r"(?<![`\w])(?::\w+:)?`~?([A-Za-z_][\w.]*)(?:\(\))?`(?!`)")


def broken_references() -> list[str]:
    """Return every name in a docstring (`name`, :func:`name`) that is not known where it stands."""
    return [
        f"{module}: `{name}` in {where}"
        for module in _modules()
        for where, text, near in _docstrings(module)
        for name in REFERENCE.findall(text.split("Example:")[0])
        if not is_known(name, near | everywhere())
    ]


def is_known(name: str, names: set[str]) -> bool:
    """Say whether a name exists.

    Args:
        name: A name, or several with dots between them.
        names: Those that are known where it stands.
    """
    name = name.removesuffix(".py")
    home, dot, _ = name.partition(".")
    if home in INSTALLED or (dot and home in sys.stdlib_module_names):
        return _resolves(name)
    return set(name.split(".")) <= names or name in sys.stdlib_module_names or _is_member(name)


@cache
def everywhere() -> set[str]:
    """Return the names of all that the package defines, and the builtins."""
    names = {path.stem for path in PACKAGE.rglob("*.py")} | set(vars(builtins))
    for module in _modules():
        names |= set(vars(importlib.import_module(module)))
        names |= {name for node in ast.walk(_tree(module)) for name in _declared(node)}
    return names


@cache
def public() -> dict[str, str]:
    """Return the full public name of everything that the API lists, by its last part."""
    return {
        name: f"{module}.{name}"
        for module in reversed(PUBLIC)
        for name in importlib.import_module(module).__all__
        if f"{module}.{name}" not in PUBLIC
    }


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
