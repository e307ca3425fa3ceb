"""The walls of the package: who may import whom, what stays light, what the public names are."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import lightning_interactions

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lightning_interactions"
NAME = "lightning_interactions"

LONGEST_FILE, MOST_ROOMS = 420, 14
HEAVY = ("torch", "lightning", "matplotlib", "torchmetrics", "numpy")


class Import:
    """One import statement.

    Args:
        module: Full name of what is imported.
        place: ``"top"``, ``"function"`` or ``"typing"`` (under ``if TYPE_CHECKING``).
        line: Where it is.
    """

    def __init__(self, module: str, place: str, line: int) -> None:
        self.module = module
        self.place = place
        self.line = line


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def modules() -> frozenset[str]:
    return frozenset(f"{NAME}.{dotted(path)}".rstrip(".") for path in files())


def imports_of(path: Path) -> list[Import]:
    return list(_imports(ast.parse(path.read_text(encoding="utf-8")), "top"))


def _imports(node: ast.AST, place: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inner = place
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, place, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports hide where a name comes from"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                yield Import(full if full in modules() else str(child.module), place, child.lineno)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inner = "function"
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inner = "typing"
        yield from _imports(child, inner)


every_module = pytest.mark.parametrize("path", [path for path in files() if dotted(path)], ids=dotted)


# -- rooms -----------------------------------------------------------------------------------------------------------


def broken_contracts(folder: Path) -> str:
    """What import-linter says of the contracts in the folder's pyproject.toml; nothing where all are kept."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    return "" if done.returncode == 0 else done.stdout[done.stdout.find("Contracts\n") :] + done.stderr


def test_imports_keep_the_contracts() -> None:
    broken = broken_contracts(ROOT)
    assert not broken, broken


@pytest.mark.parametrize(
    ("file", "added", "contract"),
    [
        ("functional/moebius.py", "import lightning_interactions.model.score", "A room imports only from those below"),
        ("report/words.py", "import lightning.pytorch", "Only the monitor and the demo know Lightning"),
        ("new.py", "", "A room imports only from those below"),
    ],
    ids=["upwards", "lightning", "new-room"],
)
def test_a_broken_contract_would_be_found(file: str, added: str, contract: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / NAME, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / NAME / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{added}\n")
    (broken,) = re.findall("^(.+) BROKEN", broken_contracts(tmp_path), re.MULTILINE)
    assert broken.startswith(contract)


@every_module
def test_no_module_imports_the_whole_package(path: Path) -> None:
    assert NAME not in {found.module for found in imports_of(path)}


def test_the_package_stays_easy_to_look_over() -> None:
    assert len({dotted(path).split(".")[0] for path in files()} - {""}) <= MOST_ROOMS
    lengths = {dotted(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files()}
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FILE}


@every_module
def test_private_modules_belong_to_their_own_neighbours(path: Path) -> None:
    for found in imports_of(path):
        parts = found.module.split(".")
        if parts[0] == NAME and parts[-1].startswith("_"):
            inside = dotted(path).split(".")[:-1] == parts[1:-1] and len(parts) > 2
            assert inside, f"{path.name} imports {found.module}"


@pytest.mark.parametrize("package", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_packages_have_no_cycles_inside(package: str) -> None:
    prefix = f"{NAME}.{package}."
    graph = {
        dotted(path): {found.module.removeprefix(f"{NAME}.") for found in imports_of(path)
                       if found.module.startswith(prefix)}
        for path in (PACKAGE / package).glob("*.py")
        if path.name != "__init__.py"
    }  # fmt: skip
    assert graph
    while graph:
        free = {name for name, needed in graph.items() if not needed & set(graph)}
        assert free, f"these import each other in a circle: {sorted(graph)}"
        graph = {name: needed for name, needed in graph.items() if name not in free}


# -- who may use what ------------------------------------------------------------------------------------------------


@every_module
def test_heavy_libraries_stay_where_they_belong(path: Path) -> None:
    own = dotted(path).split(".")[0]
    for found in imports_of(path):
        library, where = found.module.split(".")[0], f"{path.relative_to(ROOT)}:{found.line}"
        if library == "torchmetrics":
            assert own == "metrics", where
        if library == "matplotlib":
            assert found.place in ("function", "typing"), where
        if library == "sklearn":
            assert own == "demo", where
            assert found.place == "function", where


@every_module
def test_no_test_library_is_needed(path: Path) -> None:
    assert not {found.module.split(".")[0] for found in imports_of(path)} & {"pytest", "hypothesis", "scipy", "shapiq"}


# -- the front door --------------------------------------------------------------------------------------------------


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_is_light() -> None:
    code = f"import sys, {NAME}; dir({NAME}); print([x for x in {HEAVY!r} if x in sys.modules])"
    assert in_a_fresh_process(code) == "[]"


def test_the_core_needs_no_lightning() -> None:
    code = (
        f"import sys; from {NAME} import compute_interactions, PhaseDetector, functional; "
        "print([x for x in ('lightning', 'pytorch_lightning', 'matplotlib', 'torchmetrics') if x in sys.modules])"
    )
    assert in_a_fresh_process(code) == "[]"


@pytest.mark.parametrize("name", lightning_interactions.__all__)
def test_public_names_resolve(name: str) -> None:
    value = getattr(lightning_interactions, name)
    assert getattr(lightning_interactions, name) is value
    home = getattr(value, "__module__", None) or value.__name__
    assert home.startswith(NAME)


def test_public_names_are_listed_once_and_everywhere() -> None:
    public = lightning_interactions.__all__
    assert public == sorted(public)
    assert len(set(public)) == len(public)
    assert set(public) == {*lightning_interactions._HOME, *lightning_interactions._SUBPACKAGES}
    assert set(public) <= set(dir(lightning_interactions))
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                assert isinstance(statement, ast.ImportFrom)
                typed |= {alias.name: str(statement.module).removeprefix(NAME).strip(".") for alias in statement.names}
    assert typed == {**lightning_interactions._HOME, **dict.fromkeys(lightning_interactions._SUBPACKAGES, "")}


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'TwoPhase'"):
        lightning_interactions.TwoPhase  # noqa: B018
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", lightning_interactions.__version__)


@pytest.mark.parametrize("package", ["functional", "metrics", "players"])
def test_names_of_the_parts_resolve(package: str) -> None:
    part = __import__(f"{NAME}.{package}", fromlist=["__all__"])
    assert part.__all__ == sorted(part.__all__)
    for name in part.__all__:
        assert hasattr(part, name)


# -- what must not be in the repository ------------------------------------------------------------------------------

MACHINE = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:home|Users|root|work|workspace|mnt|scratch)/\w"),
    "a path of one Windows machine": re.compile(r"\b[A-Z]:\\\\?Users\b"),
    "a private host": re.compile(r"https?://(?:localhost(?!:6006)|127\.|10\.|192\.168\.|[\w.-]+\.(?:internal|corp|lan|local)\b)"),
    "a registry": re.compile(r"--(?:extra-)?index-url|PIP_(?:EXTRA_)?INDEX_URL|trusted-host|artifactory|devpi"),
}  # fmt: skip


def tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("what", MACHINE)
def test_tracked_files_name_no_machine(what: str) -> None:
    found = []
    for path in tracked():
        if path == Path(__file__).resolve():
            continue  # this table itself
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or an array
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in MACHINE[what].finditer(text)]
    assert not found, f"{what}: {found}"
