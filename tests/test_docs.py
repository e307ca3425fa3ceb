"""What the pages of the site say of the code is so, and neither they nor docstrings point nowhere.

Whether the site builds without a warning `.ci/run` checks.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import lightning_interactions
from lightning_interactions import InteractionMonitor, Options
from lightning_interactions.measure.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lightning_interactions"
DOCS = ROOT / "docs"
BUILT = ("gallery/",)  # folders of pages that only a build makes
HELPERS = ("common", "data", "reading", "recording")
SCRIPTS = sorted(
    path for path in (ROOT / "examples").rglob("*.py") if path.stem not in HELPERS and path.parent.name != "models"
)
MARKDOWN = [
    path
    for folder in ("", "docs", "docs/measured", "docs/api", "examples", "examples/papers")
    for path in sorted((ROOT / folder).glob("*.md"))
]


def module(name: str) -> ModuleType:
    """A module of `docs/`, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


names, links = module("names"), module("links")


# -- docstrings --------------------------------------------------------------------------------------------------------


def test_names_in_docstrings_exist() -> None:
    assert names.broken_references() == []


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("TwoPhaseMonitor", True),
        ("PhaseDetector.update", True),
        ("lightning_interactions.functional.strength.order_strength", True),
        ("collections.abc.Sequence", True),
        ("sinks.py", True),
        ("TwoPhaseMoniter", False),
        ("PhaseDetector.updated", False),
        ("lightning_interactions.functional.strength.order_strenght", False),
        ("collections.abc.Sequences", False),
    ],
)
def test_a_wrong_name_would_be_found(name: str, known: bool) -> None:
    everywhere = {"TwoPhaseMonitor", "PhaseDetector", "sinks"}
    assert names.is_known(name, everywhere) is known
    assert names.REFERENCE.findall(f"See `{name}` and ``{name}_code``.") == [name]


# -- the pages and the code --------------------------------------------------------------------------------------------


def test_the_api_has_every_public_name() -> None:
    listed = [
        name
        for page in (DOCS / "api").glob("*.rst")
        for name in re.findall(r"^\.\. auto(?:class|function|exception|data):: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    public = {f"{home}.{name}" for home in names.PUBLIC for name in importlib.import_module(home).__all__}
    assert sorted(listed) == sorted(public - set(names.PUBLIC))


def first_cells(page: str) -> str:
    """The first cell of every row of the tables of a page."""
    rows = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return "\n".join(row.split(" | ")[0] for row in rows if row.startswith("| "))


def test_the_table_of_options_has_every_one() -> None:
    told = re.findall(r"`(\w+)`", first_cells("options.md"))
    assert sorted(told) == sorted(inspect.signature(lightning_interactions.TwoPhaseMonitor).parameters)


def told_keys() -> set[str]:
    """The keys that the tables of docs/reading.md name; the part before a slash goes for those that follow in a row."""
    found: set[str] = set()
    for line in first_cells("reading.md").splitlines():
        group = ""
        for key in re.findall(r"`([\w./]+)`", line):
            group = key.rpartition("/")[0] or group
            found.add(key if "/" in key or not group else f"{group}/{key}")
    return found


def plain(key: str) -> str:
    """A key without its split, its order and the end of an interval."""
    key = re.sub(r"^(val|train)/(?!loss)", "", key)
    return re.sub(r"_(lower|upper)$", "", re.sub(r"order_\d\d", "order_00", key))


@pytest.mark.parametrize("sampled", [False, True])
def test_the_tables_of_keys_have_every_logged_one(sampled: bool) -> None:
    torch.manual_seed(0)
    net, other = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2))
    more = {"num_pairs": 16} if sampled else {"reference": other, "extras": EXTRAS}
    monitor = InteractionMonitor(Options(num_samples=4, num_players=4, watch="both", **more))
    data = {split: (torch.randn(16, 4), torch.arange(16) % 2) for split in ("train", "val")}
    for epoch in range(3):
        for split, batch in data.items():
            monitor.observe(split, batch)
        monitor.measure(net, epoch)
    logged = {plain(key) for key in monitor.history.to_dict()} - {"epoch", "step", "strength"}
    missing = logged - {plain(key) for key in told_keys()}
    assert "mean_degree" in logged
    assert missing == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_has_a_title_for_its_page(script: Path) -> None:
    title, line = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").splitlines()[:2]
    assert line == "=" * len(title)


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_of_a_text_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = [link[0] for link in links.LINK.findall(text)]
    assert [link for link in found if not (path.parent / link).exists() and not link.startswith(BUILT)] == []


def test_links_lead_to_pages_of_the_site() -> None:
    text = "[a](../examples/papers/README.md#two) [b](https://a.org/x) ![c](../examples/figures/demo.png) [d](cost.md)"
    assert links.mend(text, DOCS, "measured/cost") == (
        "[a](/papers.md#two) [b](https://a.org/x) ![c](../../examples/figures/demo.png) [d](/cost.md)"
    )


def test_the_readme_is_short_and_has_its_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 200
    assert 'pip install -e ".[demo]" && lightning-interactions demo' in lines
    assert 'pip install -e ".[test]" && pytest -n 2' in lines


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
