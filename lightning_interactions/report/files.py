"""Files that are either whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file so that a run that is killed meanwhile leaves no half of it.

    Args:
        path: Where to; also ``s3://...`` and what else fsspec knows, as for Lightning's loggers. Missing folders are
            made; an older file is replaced only once the new one is complete.
        text: What is in it.
    """
    if "://" in str(path):
        import fsspec  # comes with Lightning

        with fsspec.open(str(path), "w", encoding="utf-8") as file:
            file.write(text)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
