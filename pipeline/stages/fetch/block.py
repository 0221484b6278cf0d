"""The user's block list: hosts, URLs and bodies that are never fetched or kept.

The fetch stage looks at every URL that it is about to request, redirects among them, and at every body. The list
is no part of the fetch settings: answers that are known outlive a change of it, and are judged again by
`match_answer` each time that they are used. Lists of removals (`records/removals.py`) are read along with it.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from configs.load import ConfigError, fingerprint
from pipeline.errors import InputError
from pipeline.records.identity import canonical_url, url_id_of
from pipeline.records.removals import REMOVED, Removals, host_digest, read_removals
from pipeline.stages.fetch.address import literal_address
from pipeline.stages.fetch.wire import wire_url
from pipeline.storage.lines import read_lines
from pipeline.storage.named_objects import stamp_if_there

__all__ = ["BlockList", "blocking_reason", "canonical_host", "read_block_list"]

_SHA256 = re.compile(r"[0-9A-Fa-f]{64}\Z")
_COMMENT = re.compile(r"(?:^|\s)#.*", re.DOTALL)  # a # inside a word is a URL's fragment
_HOST = re.compile(r"(?:\*?\.)?([^\s/?#@*]+)\Z")
_PLAIN_HOST = re.compile(r"[A-Za-z0-9.-]+\Z")
"""A host that needs no more than lower case to be canonical."""
_NOTHING_REMOVED = Removals()


class BlockList:
    """Entries by kind: 64 hex digits are a body's SHA-256, what holds `://` is a URL, the rest are hosts."""

    def __init__(
        self, entries: Iterable[str] = (), files: Sequence[str] = (), removals: Removals = _NOTHING_REMOVED
    ) -> None:
        """Files that end with .json are lists of removals, as `removals` are. Raises ConfigError for a file that cannot
        be read or an entry that cannot be understood."""
        self._hosts: set[str] = set()
        self._urls: set[str] = set()
        self._hashes: set[str] = set()
        self._removals = removals
        for entry in entries:
            self._add(entry, "block")
        for file in files:
            if file.endswith(".json"):
                self._removals |= read_removals(file)
                continue
            for where, entry in _read(file):
                self._add(entry, where)

    def _add(self, entry: str, where: str) -> None:
        if _SHA256.match(entry):
            self._hashes.add(entry.lower())
            return
        try:
            if "://" in entry:
                self._urls.add(canonical_url(wire_url(entry)))
                return
            self._hosts.add(canonical_host(entry))
        except ValueError as error:
            raise ConfigError(
                f"{where}: {entry!r} is no host, URL or SHA-256 ({error}); correct or remove it"
            ) from error

    @property
    def key(self) -> str:
        """32 hex digits over what is listed, whatever its order and comments."""
        removals = [self._removals.plain()] if self._removals else []
        return fingerprint(sorted(self._hosts), sorted(self._urls), sorted(self._hashes), *removals)

    def match_url(self, url: str) -> str | None:
        """The entry that names absolute `url` in any of its spellings, its host or a domain above it, or None.

        Raises ValueError where there is no host.
        """
        if not self:
            return None
        url = canonical_url(wire_url(url))  # user info is never sent, so it makes no other URL
        if url in self._urls:
            return f"URL {url}"
        if self._removals.url_ids and (removed := self.match_url_id(url_id_of(url))):
            return removed
        if self._hosts or self._removals.hosts:
            name = _plain_host(urlsplit(url).hostname or "")
            while name:
                if name in self._hosts:
                    return f"host {name}"
                if self._removals.hosts and (digest := host_digest(name)) in self._removals.hosts:
                    return f"{REMOVED} host {digest}"
                name = name.partition(".")[2]
        return None

    def match_url_id(self, url_id: bytes) -> str | None:
        """The removal that names a URL by its identity, or None."""
        return f"{REMOVED} url_id {url_id.hex()}" if url_id in self._removals.url_ids else None

    def match_uid(self, uid: bytes) -> str | None:
        """The removal that names a pair, or None."""
        return f"{REMOVED} uid {uid.hex()}" if uid in self._removals.uids else None

    @property
    def names_pairs(self) -> bool:
        """Whether `match_uid` finds any."""
        return bool(self._removals.uids)

    def match_body(self, body: bytes) -> str | None:
        """The SHA-256 of `body` if it is listed, else None."""
        if not (self._hashes or self._removals.sha256):
            return None
        return self._match_sha256(hashlib.sha256(body).hexdigest())

    def match_answer(self, sha256: str | None, redirects: Sequence[str]) -> str | None:
        """The entry that names an answer known from before, by its body's hash or the URLs it was redirected to."""
        for url in redirects:
            entry = self.match_url(url)
            if entry is not None:
                return entry
        return self._match_sha256(sha256) if sha256 is not None else None

    def holds(self, entry: str) -> bool:
        """Whether what a `match_*` once returned is still listed; what was removed stays so."""
        kind, _, name = entry.partition(" ")
        if kind == REMOVED:
            return True
        listed = {"URL": self._urls, "host": self._hosts, "sha256": self._hashes}
        return name in listed.get(kind, ())

    def _match_sha256(self, digest: str) -> str | None:
        if digest in self._removals.sha256:
            return f"{REMOVED} sha256 {digest}"
        return f"sha256 {digest}" if digest in self._hashes else None

    def __bool__(self) -> bool:
        """Whether anything is listed."""
        return bool(self._hosts or self._urls or self._hashes or self._removals)


def blocking_reason(entry: str) -> str:
    """The reason for which what a `match_*` returned turns something away."""
    return REMOVED if entry.startswith(f"{REMOVED} ") else "block_list"


def canonical_host(entry: str) -> str:
    """The one spelling of a host, as a block list names it. Raises ValueError."""
    host = _HOST.match(entry)
    if host is None:
        raise ValueError("a path needs its http:// or https://")
    if _PLAIN_HOST.match(host[1]):
        return _plain_host(host[1].lower())
    parts = urlsplit(canonical_url(f"http://{host[1]}/"))
    if parts.port is not None:
        raise ValueError("a host stands without its port")
    return _plain_host(parts.hostname or "")


def read_block_list(entries: Sequence[str], files: Sequence[str]) -> BlockList:
    """The list of a config's entries and files, kept by the process until one of the files changes: a list of a million
    hosts is asked for by several steps, and by every task of theirs. Raises ConfigError as BlockList does."""
    return _read_list(tuple(entries), tuple((file, stamp_if_there(file)) for file in files))


@functools.lru_cache(maxsize=2)
def _read_list(entries: tuple[str, ...], files: tuple[tuple[str, tuple[Any, ...]], ...]) -> BlockList:
    return BlockList(entries, [file for file, _ in files])


def _plain_host(host: str) -> str:
    """One spelling for each host: without the root's dot; an IP address as resolvers read it (2130706433, 0x7f.1)."""
    name = host.rstrip(".")
    return literal_address(name) or name


def _read(file: str) -> Iterator[tuple[str, str]]:
    try:
        for number, line in enumerate(read_lines(file), 1):
            entry = _COMMENT.sub("", line).strip()
            if entry:
                yield f"{file}:{number}", entry
    except (OSError, InputError) as error:
        raise ConfigError(f"block_files: cannot read {file} ({error}); give UTF-8 text, one entry a line") from error
