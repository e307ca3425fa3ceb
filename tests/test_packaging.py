"""Facts about the package that stand in several files agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", re.MULTILINE)


def text(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def ready(line: str) -> str:
    """A command of CI as a hook runs it: checks instead of changes, or all files instead of some, are the same tool."""
    return re.sub(r" (\.|--check|--force-exclude)(?= |$)", "", line)


def test_the_version_is_that_of_the_newest_release() -> None:
    (version,) = re.findall(r'^version = "(.+)"$', text("pyproject.toml"), re.MULTILINE)
    cited = yaml.safe_load(text("docs/CITATION.cff"))
    assert RELEASE.findall(text("CHANGELOG.md"))[0] == (version, cited["date-released"])
    assert cited["version"] == version


def test_releases_are_listed_from_the_newest_on() -> None:
    changelog = text("CHANGELOG.md")
    titles = re.findall(r"^## .*$", changelog, re.MULTILINE)
    released = RELEASE.findall(changelog)
    assert titles[0] == "## [Unreleased]"
    assert len(titles) == len(released) + 1, "every other title is a release with its date"
    order = [(tuple(map(int, version.split("."))), date) for version, date in released]
    assert order == sorted(order, reverse=True)


def test_what_ci_checks_is_checked_before_a_commit() -> None:
    if not (ROOT / ".ci").exists():
        pytest.skip("an sdist has no .ci")
    (repo,) = yaml.safe_load(text(".ci/pre-commit.yaml"))["repos"]
    tools = ("ruff ", "codespell", "mypy")
    assert [ready(hook["entry"]) for hook in repo["hooks"]] == [
        ready(line) for line in text(".ci/run").splitlines() if line.startswith(tools)
    ]
