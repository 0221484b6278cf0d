"""What a part of a source is: a name, what tells that it has changed, and rows with pictures and texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.storage.place import Place

__all__ = ["PART_ROWS", "Rows", "SourcePart", "stamp_of", "uid_of"]

PART_ROWS = 4096
"""At most, where the source says how many there are: 8 MB of features for D = 512, and a few seconds of one GPU, which
is what a killed run loses."""


class Rows(Protocol):
    """The n samples of a part."""

    @property
    def uids(self) -> Sequence[bytes]:
        """16 bytes each."""

    @property
    def names(self) -> Sequence[str]:
        """By which people know them."""

    @property
    def texts(self) -> Sequence[str | None]:
        """None, or empty, for no text."""

    @property
    def has_picture(self) -> npt.NDArray[np.bool_]:
        """bool[n]: which name a picture, whole or not."""

    @property
    def left_out(self) -> int:
        """Pictures that lie there and are no row's."""

    def pictures(self, rows: Sequence[int]) -> list[bytes | None]:
        """The bytes of some rows' pictures, None where there is no such file. From any thread. Raises DataError, and
        PipelineError for what is not what was written."""


class SourcePart(Protocol):
    """A part that can be read, here or in another process."""

    @property
    def name(self) -> str:
        """A file name, told from those of all other parts."""

    @property
    def content(self) -> str:
        """What tells that it has changed."""

    def rows(self) -> Rows:
        """Read all but the pictures. Raises DataError, PipelineError."""


def uid_of(*words: str) -> bytes:
    """The uid of a sample that has none of its own: 16 bytes over what it is called."""
    return xxhash.xxh3_128_digest("\0".join(words).encode("utf-8", "surrogatepass"))


def stamp_of(place: Place) -> str:
    """What tells that a file has changed, without reading it: size and time of its last change, in a bucket size and
    ETag. Raises FileNotFoundError, StoreError."""
    if isinstance(place, Path):
        about = place.stat()
        return f"{about.st_size} {about.st_mtime_ns}"
    version = place.version()
    return f"{version.num_bytes} {version.tag.e_tag}"
