"""Lists of pictures that may not be kept: hashes of files (MD5, SHA-1, SHA-256), and PDQ of how pictures look.

Whoever is about to keep a body asks here first. A list is told by the name of its file, and of a hit nothing but that
name and the time is kept. The lists are no part of the fetch settings: answers that are known are judged again when
one changes (`runs/expunge.py`).
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from configs.load import ConfigError, fingerprint
from pipeline.errors import InputError
from pipeline.pictures.pdq_record import NUM_BYTES, Pdq
from pipeline.stages.privacy.config import PrivacyConfig
from pipeline.stages.privacy.near_hashes import NearHashes
from pipeline.storage.lines import read_lines
from pipeline.storage.named_objects import stamp_if_there

__all__ = ["FILE_HASHES", "HASH_LIST", "HashLists", "list_of_detail", "read_hash_lists"]

HASH_LIST = "hash_list"
"""The reason of a hit."""
FILE_HASHES = ("md5", "sha1", "sha256")
_DIGITS = {32: "md5", 40: "sha1", 64: "sha256"}
_ENTRY = re.compile(r"[0-9A-Fa-f]+\Z")
_ENDS = re.compile(r"[\s,;]")


class HashLists:
    """The entries of all lists, by kind."""

    def __init__(self, config: PrivacyConfig) -> None:
        """Raises ConfigError for a file that cannot be read, and for a line that is no hash."""
        self._files: dict[str, dict[bytes, str]] = {kind: {} for kind in FILE_HASHES}
        """Kind -> digest -> name of its list."""
        self._looks: dict[bytes, str] = {}
        self._least_quality = config.pdq_min_quality
        self.names = frozenset(_name_of(file) for file in (*config.hash_lists, *config.pdq_lists))
        """Of the lists."""
        for file in config.hash_lists:
            for where, entry in _read(file, "hash_lists"):
                kind = _DIGITS.get(len(entry))
                if kind is None:
                    raise ConfigError(f"{where}: {entry[:70]!r} is no MD5, SHA-1 or SHA-256; correct or remove it")
                self._files[kind].setdefault(bytes.fromhex(entry), _name_of(file))
        for file in config.pdq_lists:
            for where, entry in _read(file, "pdq_lists"):
                if len(entry) != 2 * NUM_BYTES:
                    raise ConfigError(f"{where}: {entry[:70]!r} is no PDQ hash of 64 hex digits; correct or remove it")
                self._looks.setdefault(bytes.fromhex(entry), _name_of(file))
        self._near = NearHashes(list(self._looks), config.pdq_max_distance)
        self._names_of_looks = list(self._looks.values())
        limits = (config.pdq_max_distance, config.pdq_min_quality) if self._looks else ()
        self.key = fingerprint(
            sorted((kind, each.hex(), name) for kind, listed in self._files.items() for each, name in listed.items()),
            sorted((each.hex(), name) for each, name in self._looks.items()),
            limits,
        )
        """32 hex digits over what is listed, and how near is too near."""

    def __bool__(self) -> bool:
        """Whether anything is listed."""
        return self.wants_pdq or any(self._files.values())

    @property
    def wants_pdq(self) -> bool:
        """Whether how a picture looks is listed."""
        return bool(self._looks)

    def match_body(self, body: bytes) -> str | None:
        """The list that names the file, or None."""
        digests = {
            kind: hashlib.new(kind, body, usedforsecurity=False).digest() for kind in FILE_HASHES if self._files[kind]
        }
        return self.match_digests(digests)

    def match_digests(self, digests: Mapping[str, bytes | None]) -> str | None:
        """The list that names a file of which these are known, by FILE_HASHES."""
        found = (self._files[kind].get(digest) for kind, digest in digests.items() if digest is not None)
        return next((name for name in found if name is not None), None)

    def match_pdq(self, pdq: Pdq | None) -> str | None:
        """The list that names a picture that looks so, however it is turned or mirrored; none of one with too little in
        it."""
        if pdq is None or not self._looks or pdq.quality < self._least_quality:
            return None
        place = self._near.find(pdq.hashes)
        return None if place is None else self._names_of_looks[place]

    def facts_of_hit(self, name: str) -> dict[str, Any]:
        """All that is kept of a URL whose picture is on the list `name`."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return {"status": "failed_to_download", "stage": "fetch", "reason": HASH_LIST, "detail": f"{name} {now}"}


def list_of_detail(detail: str) -> str:
    """The name of the list in the detail of a hit."""
    return detail.rpartition(" ")[0]


def read_hash_lists(config: PrivacyConfig) -> HashLists:
    """The lists of a config, kept by the process until one of the files changes. Raises ConfigError, as HashLists."""
    return _read_lists(config, tuple(stamp_if_there(file) for file in (*config.hash_lists, *config.pdq_lists)))


@functools.lru_cache(maxsize=2)
def _read_lists(config: PrivacyConfig, stamps: tuple[tuple[Any, ...], ...]) -> HashLists:
    return HashLists(config)


def _name_of(file: str) -> str:
    return PurePosixPath(file).name.partition(".")[0]


def _read(file: str, option: str) -> Iterator[tuple[str, str]]:
    """(place, lower-case hash) of each line; what follows the hash on its line, and lines that begin with #, are for
    people."""
    try:
        lines = read_lines(file)
    except (OSError, InputError) as error:
        raise ConfigError(f"{option}: cannot read {file} ({error}); give UTF-8 text, one hash a line") from error
    for number, line in enumerate(lines, 1):
        entry = _ENDS.split(line.strip(), maxsplit=1)[0]
        if not entry or entry.startswith("#"):
            continue
        if not _ENTRY.match(entry):
            raise ConfigError(f"{file}:{number}: {entry[:70]!r} is no hash in hex digits; correct or remove it")
        yield f"{file}:{number}", entry.lower()
