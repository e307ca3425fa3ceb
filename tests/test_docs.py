"""The API reference builds, and neither it nor the map of the package points nowhere."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lightning_interactions"


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_in_docstrings_exist(docs: ModuleType) -> None:
    assert docs.broken_references() == []


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("TwoPhaseMonitor", True),
        ("PhaseDetector.update", True),
        ("lightning_interactions.functional.strength.order_strength", True),
        ("sinks.py", True),
        ("TwoPhaseMoniter", False),
        ("PhaseDetector.updated", False),
        ("lightning_interactions.functional.strength.order_strenght", False),
    ],
)
def test_a_wrong_name_would_be_found(name: str, known: bool, docs: ModuleType) -> None:
    everywhere = {"TwoPhaseMonitor", "PhaseDetector", "sinks"}
    assert docs._is_known(name, everywhere) is known
    assert docs.REFERENCE.findall(f"See `{name}` and ``{name}_code``.") == [name]


def test_the_reference_builds_without_broken_links(docs: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="pdoc is not installed")
    docs.build(tmp_path)
    page = (tmp_path / "lightning_interactions.html").read_text()
    assert 'id="TwoPhaseMonitor"' in page
    assert 'id="analyze_checkpoints"' in page
    assert docs.broken_links(tmp_path) == []
    (tmp_path / "lightning_interactions.html").write_text('<a href="nowhere.html">x</a><a href="#nothing">y</a>')
    broken = docs.broken_links(tmp_path)
    assert "lightning_interactions.html: nowhere.html" in broken
    assert "lightning_interactions.html: #nothing" in broken


# -- docs/architecture.md --------------------------------------------------------------------------------------------


def table(title: str) -> list[list[str]]:
    """The cells of the table below a heading of docs/architecture.md, without its own head."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")][2:]


def names_in(path: str) -> set[str]:
    """Everything a file of the package defines: functions, classes and their methods."""
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def lost(cell: str) -> list[str]:
    """Paths that are not there, and names that are not in their file: the one before, or that of "`name` in `file`"."""
    found, path = [], ""
    for name, of in re.findall(r"`([^`]+)`(?: in `([^`]+)`)?", cell):
        if "/" in name:
            path = name
            found += [] if (PACKAGE / path).exists() else [path]
        elif name not in names_in(of or path):
            found.append(f"{name} in {of or path}")
    return found


@pytest.mark.parametrize("row", table("To change X open Y"), ids=lambda row: row[0])
def test_what_the_map_names_is_there(row: list[str]) -> None:
    _, where = row
    assert "/" in where
    assert lost(where) == []


def test_a_wrong_turn_in_the_map_would_be_found() -> None:
    assert lost("`monitor/session.py`: `gait`; `Options` in `monitor/loop.py`; `monitor/season.py`") == [
        "gait in monitor/session.py", "Options in monitor/loop.py", "monitor/season.py",
    ]  # fmt: skip


def test_the_map_has_every_room() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {row[0].strip("`/") for row in table("The rooms")} == rooms
