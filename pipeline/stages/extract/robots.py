"""Whether a page forbids the use of its pictures: robots metas, X-Robots-Tag, and W3C's TDM Reservation Protocol.

`noai` and `noimageai` are DeviantArt's addition to the robots directives, `noml` that of Meta's and others; TDMRep is
the Community Group's report of 2024 (https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.stages.extract.config import ExtractConfig

__all__ = ["PageRobots"]

_BREAKS = re.compile(r"[\s,:;]+")
_PIECE_BREAKS = re.compile(r"[,;]")
_RESERVATION = "tdm-reservation"
_KNOWN = frozenset(
    {
        "all", "none", "index", "noindex", "follow", "nofollow", "noarchive", "nocache", "nosnippet", "notranslate",
        "noimageindex", "indexifembedded", "noodp", "noydir", "nositelinkssearchbox", "noai", "noimageai", "noml",
        "max-snippet", "max-image-preview", "max-video-preview",
    }
)  # fmt: skip
"""Directives of Google, Bing and those above: what a list without commas is told by."""
_NO_ROBOTS = frozenset({"keywords", "news_keywords", "description", "abstract", "subject"})
"""Metas of words that might be a directive by chance."""

Pairs = Iterable[tuple[str, str]]


class PageRobots:
    """What a config says that forbids the use of a page's pictures."""

    def __init__(self, config: ExtractConfig) -> None:
        self._directives = frozenset(config.robots_directives if config.respect_page_robots else ())
        self._reserves = config.respect_tdm_reservation
        self.words: tuple[str, ...] = tuple(sorted(self._directives)) + ((_RESERVATION,) if self._reserves else ())
        """One of them stands on every page that forbids the use, in small letters or others."""

    def forbid(self, headers: Pairs, metas: Pairs) -> str:
        """What forbids, for the ledger; "" if nothing does. (name, value) pairs of the response and of the page.

        X-Robots-Tag and the metas count whichever robot they address: a meta of any name whose content is a list of
        directives is one.
        """
        found: set[str] = set()
        for name, value in headers:
            lowered = name.lower()
            if lowered == "x-robots-tag":
                found |= self._directives_in(value)
            elif lowered == _RESERVATION and self._reserves and "1" in map(str.strip, value.split(",")):
                found.add(_RESERVATION)
        for name, content in metas:
            lowered = name.strip().lower()
            if lowered == _RESERVATION:
                if self._reserves and content.strip() == "1":
                    found.add(_RESERVATION)
            elif (directives := self._directives_in(content)) and _is_for_robots(lowered, content):
                found |= directives
        return ", ".join(sorted(found))

    def _directives_in(self, value: str) -> frozenset[str]:
        return self._directives.intersection(_BREAKS.split(value.lower())) if self._directives else self._directives


def _is_for_robots(name: str, content: str) -> bool:
    """Whether the meta of a small-letter name, whose content holds a directive, speaks to robots."""
    if name == "robots":
        return True
    if not name or ":" in name or name in _NO_ROBOTS:  # og:title, twitter:description
        return False
    for piece in _PIECE_BREAKS.split(content.lower()):
        words = piece.partition(":")[0].split()
        if len(words) > 1 and not _KNOWN.issuperset(words):
            return False  # prose
    return True
