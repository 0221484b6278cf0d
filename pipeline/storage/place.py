"""Where files are: a path on this machine, or in a bucket. Both have the same few methods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from pipeline.storage.bucket import SCHEMES, BucketPath

__all__ = ["Place", "files_in", "pieces_of", "place_of"]

Place: TypeAlias = Path | BucketPath
"""What knows `/ name`, `name`, `exists`, `read_bytes`, `glob` and the like; writing is `atomic.py`'s."""

_PIECE_BYTES = 1 << 20
_SCHEMES = tuple(f"{scheme}:" for scheme in SCHEMES)
"""A slash too few makes no directory called `s3:`."""


def files_in(directory: Place, pattern: str) -> list[Place]:
    """The files of a directory, and no deeper, whose name matches, in order."""
    return sorted(directory.glob(pattern), key=str)


def pieces_of(place: Place) -> Iterator[bytes]:
    """The file from its beginning to its end, piece by piece. Raises OSError as the first of them is asked for."""
    if isinstance(place, BucketPath):
        yield from place.stream()
        return
    with place.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def place_of(text: str | Place) -> Place:
    """The place that a config or a command line names. Raises OutputError for a URL that nothing here can serve."""
    if not isinstance(text, str):
        return text
    if "://" in text or text.lower().startswith(_SCHEMES):
        return BucketPath.of(text)
    return Path(text)
