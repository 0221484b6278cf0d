"""Where a file is, and what it must hold: all that a task needs to know of what it reads and writes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from configs.load import fingerprint
from pipeline.storage.bucket import is_bucket_url
from pipeline.storage.place import Place, place_of

__all__ = ["Files", "Location"]


class Location(NamedTuple):
    """A file. Plain enough to travel to any worker."""

    path: str
    digest: str = ""
    """Of `checked.digest_of`, or 64 hex digits of SHA-256; empty where nobody vouches for the file, and where it is
    still to be written."""

    @property
    def local(self) -> Path:
        """The file on this machine, such as one that a task is to write. What is read may lie elsewhere: it is opened
        by `checked.py`. Raises TypeError for a file in a bucket."""
        if is_bucket_url(self.path):
            raise TypeError(f"{self.path}: not on this machine")
        return Path(self.path)

    @property
    def place(self) -> Place:
        """The file, wherever it is."""
        return place_of(self.path)

    @property
    def name(self) -> str:
        """Its last name."""
        return self.path.rpartition("/")[2]

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
