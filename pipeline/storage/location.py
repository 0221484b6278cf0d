"""Where a file is, and what it must hold: all that a task needs to know of what it reads and writes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from configs.load import fingerprint

__all__ = ["Files", "Location"]


class Location(NamedTuple):
    """A file. Plain enough to travel to any worker."""

    path: str
    digest: str = ""
    """Of `checked.digest_of`, or 64 hex digits of SHA-256; empty where nobody vouches for the file, and where it is
    still to be written."""

    @property
    def local(self) -> Path:
        """The file on this machine."""
        return Path(self.path)

    @property
    def content(self) -> str:
        """What stands for it in a key: the digest. Raises TypeError where there is none, since no change of the file
        would show."""
        if not self.digest:
            raise TypeError(f"{self.path}: nothing tells its content, so no task's key can hold it")
        return self.digest


class Files(tuple[Location, ...]):
    """Locations in order. Many tasks may share them: what stands for them in a key is derived once."""

    @cached_property
    def digest(self) -> str:
        """32 hex digits over the digests of all. Raises TypeError as `content` does."""
        return fingerprint([file.content for file in self])
