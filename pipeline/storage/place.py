"""Where files are: a path on this machine, or in a bucket. Both have the same few methods."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from pipeline.storage.bucket import BucketPath

__all__ = ["Place", "files_in", "place_of"]

Place: TypeAlias = Path | BucketPath
"""What knows `/ name`, `name`, `exists`, `read_bytes`, `glob` and the like; writing is `atomic.py`'s."""


def files_in(directory: Place, pattern: str) -> list[Place]:
    """The files of a directory, and no deeper, whose name matches, in order."""
    return sorted(directory.glob(pattern), key=str)


def place_of(text: str | Place) -> Place:
    """The place that a config or a command line names. Raises OutputError for a URL that nothing here can serve."""
    if not isinstance(text, str):
        return text
    if "://" in text:
        return BucketPath.of(text)
    return Path(text)
