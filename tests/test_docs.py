"""The API reference builds, and nothing in it points nowhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
