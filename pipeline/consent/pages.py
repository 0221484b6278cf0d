"""Whether a page forbids the use of its links: by its robots metas, or by headers of its answer.

A link's text is the page's own content, so what the page's answer says of its content holds for the link. `noai` and
`noimageai` are DeviantArt's addition to the robots directives, `noml` that of Meta's and others; TDMRep is the
Community Group's report of 2024 (https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.consent.answers import Refusal
from pipeline.consent.signals import PageSignals
from pipeline.consent.tdm import reserves_tdm
from pipeline.consent.usage import content_signal_forbids, content_usage_forbids

__all__ = ["PAGE_REASONS", "PageRules"]

PAGE_REASONS = ("page_robots", "tdm_reservation", "content_usage", "content_signal")
"""Reasons of the ledger, in the order in which they are looked at."""
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


class PageRules:
    """The signals of a config, ready to judge pages."""

    def __init__(self, signals: PageSignals) -> None:
        self._directives = frozenset(signals.directives)
        self._reserves = signals.tdm_reservation
        self._usage, self._signal = signals.content_usage, signals.content_signal
        self.words: tuple[str, ...] = (
            *sorted(self._directives),
            *((_RESERVATION,) if self._reserves else ()),
            *(("usage",) if self._usage else ()),  # of Content-Usage and Content-Signal the rarer end
            *(("signal",) if self._signal else ()),
        )
        """One of them stands on every page that forbids the use, in small letters or others."""

    def forbid(self, headers: Pairs, metas: Pairs) -> Refusal | None:
        """What forbids, or None. (name, value) pairs of the response and of the page.

        The reason is the first of PAGE_REASONS that holds, the detail has all that was said. X-Robots-Tag and the
        metas count whichever robot they address: a meta of any name whose content is a list of directives is one.
        """
        found: dict[str, set[str]] = {}
        for name, value in headers:
            lowered = name.strip().lower()
            if lowered == "x-robots-tag":
                found.setdefault("page_robots", set()).update(self._directives_in(value))
            elif lowered == _RESERVATION and self._reserves and reserves_tdm(value):
                found.setdefault("tdm_reservation", set()).add(_RESERVATION)
            elif lowered == "content-usage" and self._usage and (said := content_usage_forbids(value)):
                found.setdefault("content_usage", set()).add(said)
            elif lowered == "content-signal" and self._signal and (said := content_signal_forbids(value)):
                found.setdefault("content_signal", set()).add(said)
        for name, content in metas:
            lowered = name.strip().lower()
            if lowered == _RESERVATION:
                if self._reserves and content.strip() == "1":
                    found.setdefault("tdm_reservation", set()).add(_RESERVATION)
            elif (directives := self._directives_in(content)) and _is_for_robots(lowered, content):
                found.setdefault("page_robots", set()).update(directives)
        reason = next((reason for reason in PAGE_REASONS if found.get(reason)), None)
        if reason is None:
            return None
        return Refusal(reason=reason, detail=", ".join(sorted(set().union(*found.values()))))

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
