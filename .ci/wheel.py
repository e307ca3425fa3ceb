"""Check what a build put into its files: `python .ci/wheel.py dist`.

The wheel must hold every file of the package (the templates and py.typed among them) and nothing else, the sdist
everything that a clone has but for the hidden files.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tracked(*folders: str) -> set[str]:
    """Return the files that git knows."""
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if not name.startswith(".")}


def differences(what: str, found: set[str], expected: set[str]) -> list[str]:
    """Say what is missing or too much."""
    return [f"{what} lacks {name}" for name in expected - found] + [f"{what} has {name}" for name in found - expected]


def main(folder: Path) -> list[str]:
    """Return what is wrong with the one wheel and the one sdist in a folder."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        source = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {"PKG-INFO", ".gitignore"}  # by hatchling
    return [
        *differences(wheel.name, packed, tracked("lightning_interactions")),
        *differences(sdist.name, source - made, tracked()),
    ]


if __name__ == "__main__":
    wrong = main(Path(sys.argv[1]))
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))
