"""What was removed from a data set, for good: the list that belongs to it, and tombstones until the bytes are gone.

    OUT/removed/*.json       deltas (docs/takedown.md), one a removal: what is asked for, by hash, and what went
    shards/tombstones.json   uids whose bytes are still there: whoever reads shards passes them over

Nothing in either is a URL or a caption: who holds the list knows what to refuse and not what it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.load import ConfigError
from pipeline.storage.atomic import read_json, read_sealed
from pipeline.storage.place import Place, files_in, place_of

__all__ = [
    "FORMAT",
    "REMOVED",
    "TOMBSTONES",
    "Removals",
    "begun_in",
    "host_digest",
    "lists_of",
    "read_removals",
    "removed_uids",
    "tombstones_of",
]

REMOVED = "removed"
"""The directory of an output that holds its deltas; also the reason of what is turned away by them."""
TOMBSTONES = "tombstones.json"
FORMAT = "openwit-delta"
"""What a delta says of itself."""


@dataclass(frozen=True, kw_only=True)
class Removals:
    """Identities that must not come back, each by itself."""

    url_ids: frozenset[bytes] = frozenset()
    """16 bytes: of canonical URLs."""
    hosts: frozenset[str] = frozenset()
    """Of `host_digest`: these hosts, and all below them."""
    sha256: frozenset[str] = frozenset()
    """Of bodies as served, 64 hex digits."""
    uids: frozenset[bytes] = frozenset()
    """16 bytes: of pairs."""

    def __bool__(self) -> bool:
        return any((self.url_ids, self.hosts, self.sha256, self.uids))

    def __or__(self, other: Removals) -> Removals:
        names = [field.name for field in dataclasses.fields(Removals)]
        return Removals(**{name: getattr(self, name) | getattr(other, name) for name in names})

    def __sub__(self, other: Removals) -> Removals:
        names = [field.name for field in dataclasses.fields(Removals)]
        return Removals(**{name: getattr(self, name) - getattr(other, name) for name in names})

    def plain(self) -> dict[str, list[str]]:
        """As a delta has it: sorted hex."""
        return {
            "url_ids": sorted(each.hex() for each in self.url_ids),
            "hosts": sorted(self.hosts),
            "sha256": sorted(self.sha256),
            "uids": sorted(each.hex() for each in self.uids),
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Removals:
        """What `plain` gave. Raises KeyError, TypeError or ValueError where it is no such thing."""
        return cls(
            url_ids=frozenset(_identity(each) for each in plain["url_ids"]),
            hosts=frozenset(_digest(each) for each in plain["hosts"]),
            sha256=frozenset(_digest(each) for each in plain["sha256"]),
            uids=frozenset(_identity(each) for each in plain["uids"]),
        )


def _identity(text: str) -> bytes:
    found = bytes.fromhex(text)
    if len(found) != 16:
        raise ValueError(f"{text!r} is no identity")
    return found


def _digest(text: str) -> str:
    if len(bytes.fromhex(text)) != 32:
        raise ValueError(f"{text!r} is no SHA-256")
    return text


def host_digest(name: str) -> str:
    """64 hex digits: SHA-256 of a canonical host name. Whoever has a list of all hosts can tell which it is; whoever
    reads the delta cannot."""
    return hashlib.sha256(name.encode()).hexdigest()


def lists_of(output: Place) -> tuple[str, ...]:
    """The deltas of a data set, the oldest first. In the middle of a removal its own is among them."""
    return tuple(str(path) for path in files_in(output / REMOVED, "*.json"))


def begun_in(output: Place) -> tuple[str, ...]:
    """Those of `lists_of` whose samples are not taken out of all files yet."""
    return tuple(file for file in lists_of(output) if (read_json(place_of(file)) or {}).get("state") == "begun")


def read_removals(file: str) -> Removals:
    """What a delta says must not come back. Raises ConfigError where the file is none."""
    plain = read_json(place_of(file))
    try:
        if plain["format"] != FORMAT:
            raise ValueError
        return Removals.of(plain["removals"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ConfigError(f"{file}: is no list of removals, or not whole; copy it again") from None


def removed_uids(output: Place) -> frozenset[bytes]:
    """The samples that went from the data set in `output`. Raises ConfigError as `read_removals` does."""
    found: set[bytes] = set()
    for file in lists_of(output):
        read_removals(file)
        found.update(bytes.fromhex(sample["uid"]) for sample in read_json(place_of(file))["samples"])
    return frozenset(found)


def tombstones_of(shards: Place) -> frozenset[bytes]:
    """The uids in the directory of `shards` that are removed and still have their bytes there; mostly none."""
    plain = read_sealed(shards / TOMBSTONES)
    return frozenset() if plain is None else frozenset(bytes.fromhex(uid) for uid in plain["uids"])
