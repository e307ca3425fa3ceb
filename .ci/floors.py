"""Print the lowest declared version of everything the package itself needs, as constraints for pip.

pyproject.toml is the only place where floors are written: `>=` becomes `==`. What `.ci/constraints.txt` pins is left
out: torch, of which a lower version would mean gigabytes on most machines, so that its floor is not tested.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[1]
INSTALLED_BY_USERS = ("demo", "notify")  # the other extras are tools, which may be new
FLOOR = re.compile(r"(?P<name>[\w.-]+)(\[[\w,]+\])?>=(?P<lowest>[\w.]+)")


def floors(project: dict[str, Any], pinned: set[str]) -> Iterator[str]:
    """Yield a pin for every requirement of the package and of the extras for users."""
    extras = project["optional-dependencies"]
    for requirement in project["dependencies"] + [each for extra in INSTALLED_BY_USERS for each in extras[extra]]:
        found = FLOOR.match(requirement)
        if found is None:
            raise SystemExit(f"pyproject.toml: expected a lowest version (NAME>=X.Y) in {requirement!r}")
        if found["name"] not in pinned:
            yield f"{found['name']}=={found['lowest']}"


if __name__ == "__main__":
    pins = (ROOT / ".ci" / "constraints.txt").read_text("utf-8").split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    print(*floors(project, {pin.partition("==")[0] for pin in pins}), sep="\n")
