"""What is known of many hosts' robots.txt, mapped from files: 16 bytes a host, and every different text once.

    robots URL --xxh3-64--> urls (ascending) --> places --> text (`robots_answer.py`)

A table has parts, each an equal range of the hashes. Asked for 50 million hosts that it does not know, a table of as
many would take one for another in one case of seven thousand.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.consent.robots_answer import UNREACHABLE, host_reason_of, reason_of, target_of
from pipeline.consent.robots_rules import HostRules, RobotsSignals, Verdict
from pipeline.storage.checked import load_vector
from pipeline.storage.location import Files
from pipeline.storage.parquet import save_vector

__all__ = [
    "HostTable",
    "Robots",
    "TableFiles",
    "robots_hash",
    "robots_url_of",
    "write_table",
]

_MAX_REDIRECTS = 5
"""RFC 9309, section 2.3.1.2."""
_ORIGIN = re.compile(r"(https?)://(?:[^/?#@]*@)?([^/?#]+)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_OTHER_SCHEME = {"http": "https", "https": "http"}
_LENGTH = struct.Struct("<I")
_CACHED_HOSTS = 100_000


def robots_url_of(url: str) -> str:
    """Where the rules for `url` are: its origin's /robots.txt. Raises ValueError for what has no origin."""
    found = _ORIGIN.match(url)
    if found is None:
        raise ValueError("not an absolute http(s) URL")
    scheme, authority = found[1].lower(), found[2].lower()
    return f"{scheme}://{authority.removesuffix(_DEFAULT_PORTS[scheme])}/robots.txt"


def robots_hash(robots_url: str) -> int:
    """xxh3-64 of it: what a table knows it by."""
    return xxhash.xxh3_64_intdigest(robots_url.encode("utf-8", "surrogatepass"))


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TableFiles:
    """The files of a table: of each kind one a part, in the order of the parts."""

    urls: Files
    places: Files
    texts: Files


def write_table(urls: Path, places: Path, texts: Path, hashes: npt.NDArray[np.uint64], found: Sequence[str]) -> None:
    """Write a part: `hashes` ascending, `found` the text of each."""
    known: dict[str, int] = {}
    written = bytearray()
    where = np.empty(len(hashes), np.int64)
    for i, text in enumerate(found):
        place = known.get(text)
        if place is None:
            place = known[text] = len(written)
            data = text.encode("utf-8", "surrogatepass")
            written += _LENGTH.pack(len(data)) + data
        where[i] = place
    save_vector(urls, hashes)
    save_vector(places, where)
    save_vector(texts, np.frombuffer(bytes(written), np.uint8))


class HostTable:
    """A table, opened."""

    def __init__(self, files: TableFiles) -> None:
        """Raises DamagedFileError."""
        self._urls = [load_vector(file) for file in files.urls]
        self._places = [load_vector(file) for file in files.places]
        self._texts = [load_vector(file) for file in files.texts]

    def find(self, robots_url: str) -> str | None:
        """The text of a robots.txt; None where the table does not know it."""
        if not self._urls:
            return None
        key = robots_hash(robots_url)
        part = ((key >> 32) * len(self._urls)) >> 32
        urls = self._urls[part]
        at = int(np.searchsorted(urls, np.uint64(key)))
        if at == len(urls) or int(urls[at]) != key:
            return None
        texts: npt.NDArray[Any] = self._texts[part]
        begin = int(self._places[part][at])
        end = begin + _LENGTH.size
        (size,) = _LENGTH.unpack(texts[begin:end].tobytes())
        return texts[end : end + size].tobytes().decode("utf-8", "surrogatepass")

    def answer(self, robots_url: str) -> str | None:
        """As `find`, redirects followed. Of a host that was captured under the other scheme alone that one stands for
        both."""
        for asked in (robots_url, _under_other_scheme(robots_url)):
            if asked and (found := self._followed(asked)) is not None:
                return found
        return None

    def _followed(self, robots_url: str) -> str | None:
        seen = [robots_url]
        while True:
            text = self.find(seen[-1])
            target = None if text is None else target_of(text)
            if target is None:
                return text
            if target in seen or len(seen) > _MAX_REDIRECTS:
                return ""  # as a file that is not there (RFC 9309, section 2.3.1.2)
            seen.append(target)


@functools.lru_cache(maxsize=4)
def _open(files: TableFiles) -> HostTable:
    """Checked and mapped once a process."""
    return HostTable(files)


# --- what it says of URLs -------------------------------------------------------------------------


class Robots:
    """Judges URLs by the robots.txt of their hosts, as far as these are known. Remembers the rules of hosts."""

    def __init__(self, tables: Iterable[TableFiles], signals: RobotsSignals, *, asks: bool = False) -> None:
        """`tables`: the earlier one counts where two know a host. Raises DamagedFileError."""
        self._tables = [_open(files) for files in tables]
        self._signals = signals
        self.asks = asks
        """Whether hosts that are not known are to be asked."""
        self._hosts: dict[str, HostRules | Verdict | None] = {}
        self._compiled: dict[str, HostRules] = {}

    def learn(self, robots_url: str, text: str) -> None:
        """Take what was just found out about a host."""
        self._hosts[robots_url] = self._rules_of(text)

    def covers(self, url: str) -> bool:
        """Whether it is known what the host of `url` says."""
        try:
            return self._host_of(robots_url_of(url)) is not None
        except ValueError:
            return False

    def verdict(self, url: str, *, from_common_crawl: bool = False) -> Verdict | None:
        """Why `url` may not be requested; None where nothing is known against it."""
        try:
            host = self._host_of(robots_url_of(url))
        except ValueError:
            return None
        if isinstance(host, HostRules):
            return host.verdict(url, from_common_crawl=from_common_crawl)
        return host

    def verdicts(self, urls: Iterable[str], from_common_crawl: Iterable[bool]) -> Iterator[tuple[Verdict | None, bool]]:
        """Of each URL why it may not be requested, and whether its host is known."""
        for url, crawled in zip(urls, from_common_crawl, strict=True):
            try:
                host = self._host_of(robots_url_of(url))
            except ValueError:
                host = None
            if isinstance(host, HostRules):
                yield host.verdict(url, from_common_crawl=crawled), True
            else:
                yield host, host is not None

    def license(self, url: str) -> str | None:
        """The first RSL terms that the host of `url` names, where its rules are known."""
        try:
            host = self._host_of(robots_url_of(url))
        except ValueError:
            return None
        return next(iter(host.licenses), None) if isinstance(host, HostRules) else None

    def crawl_delay_s(self, host: str) -> float | None:
        """The wait between two requests that a host, by its name, asks of us, where that is known."""
        known = (self._host_of(f"{scheme}://{host}/robots.txt") for scheme in _OTHER_SCHEME)
        return next((rules.crawl_delay_s for rules in known if isinstance(rules, HostRules)), None)

    def _host_of(self, robots_url: str) -> HostRules | Verdict | None:
        if robots_url in self._hosts:
            return self._hosts[robots_url]
        if len(self._hosts) >= _CACHED_HOSTS:
            self._hosts.clear()
            self._compiled.clear()
        text = self._find(robots_url)
        known = self._hosts[robots_url] = None if text is None else self._rules_of(text)
        return known

    def _rules_of(self, text: str) -> HostRules | Verdict:
        if (reason := host_reason_of(text)) is not None:
            return Verdict(reason, "not asked: nor could the host be for its robots.txt")
        if (reason := reason_of(text)) is not None:
            if self._signals.robots_txt:
                return Verdict("robots_txt", f"{UNREACHABLE}: {reason}")
            text = ""
        rules = self._compiled.get(text)
        if rules is None:
            rules = self._compiled[text] = HostRules(text, self._signals)
        return rules

    def _find(self, robots_url: str) -> str | None:
        """The text for a host."""
        return next((found for table in self._tables if (found := table.answer(robots_url)) is not None), None)


def _under_other_scheme(robots_url: str) -> str:
    """The same host's robots.txt under the other scheme; "" where a port is named, which has one scheme."""
    scheme, _, rest = robots_url.partition("://")
    authority = rest.partition("/")[0]
    has_port = ":" in authority.rpartition("]")[2]
    return "" if has_port else f"{_OTHER_SCHEME[scheme]}://{rest}"
