"""Which signals of an owner's will are honoured.

    level: off < standard < strict        one option a signal: true, false, or null for what the level says

docs/consent.md says of each signal where it is read, and when it is decided.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

from configs.load import ConfigError

__all__ = ["SIGNALS", "STRICT_SIGNALS", "ConsentConfig", "Level", "Signal"]

Level = Literal["strict", "standard", "off"]
Signal = Literal[
    "robots_txt",
    "robots_txt_ai_groups",
    "content_usage",
    "content_signal",
    "tdm_reservation",
    "tdmrep_json",
    "x_robots_tag",
    "page_robots",
    "xmp_data_mining",
    "c2pa",
]

SIGNALS: tuple[Signal, ...] = typing.get_args(Signal)
"""Every signal, each an option of ConsentConfig."""
STRICT_SIGNALS: frozenset[Signal] = frozenset({"robots_txt_ai_groups", "tdmrep_json", "c2pa"})
"""Those that only `strict` honours: they cost requests or a library more, or name others' robots."""


@dataclass(frozen=True, kw_only=True)
class ConsentConfig:
    """What an owner may forbid the use by. Null leaves a signal to the level. A change judges what is known again, as
    far as it was noted, and requests nothing that is known."""

    level: Level = "standard"
    """strict: every signal; standard: those that speak to a robot like ours and cost little; off: none, but those that
    are set to true below."""

    robots_txt: bool | None = None
    """The rules of each host's robots.txt (RFC 9309) for the product name of `fetch.user_agent`, else for `*`."""

    robots_txt_ai_groups: bool | None = None
    """The rules of robots.txt for robots that are known to gather training data, whatever their name. Of `strict`."""

    content_usage: bool | None = None
    """`Content-Usage: train-ai=n` (IETF AIPREF) in robots.txt, as a header of pictures and of pages."""

    content_signal: bool | None = None
    """`Content-Signal: ai-train=no` in robots.txt, as a header of pictures and of pages."""

    tdm_reservation: bool | None = None
    """`tdm-reservation: 1` (W3C TDM Reservation Protocol): header of pictures and pages, meta of pages."""

    tdmrep_json: bool | None = None
    """Each host's /.well-known/tdmrep.json, which reserves paths: one more request a host. Of `strict`."""

    x_robots_tag: bool | None = None
    """`x_robots_directives` in the X-Robots-Tag header of a picture, said to everyone or to our product name."""

    page_robots: bool | None = None
    """`page_directives` in a page's robots metas and its X-Robots-Tag header, whichever robot they address."""

    xmp_data_mining: bool | None = None
    """`plus:DataMining` in a picture's XMP, where it prohibits (IPTC Photo Metadata, PLUS vocabulary)."""

    c2pa: bool | None = None
    """Training and data mining assertions in a picture's C2PA manifest; needs the extra `c2pa`. Of `strict`."""

    x_robots_directives: tuple[str, ...] = (
        "noai",
        "noimageai",
        "noml",
        "noindex",
        "noimageindex",
        "none",
        "unavailable_after",
    )
    """The directives of X-Robots-Tag that forbid the use of a picture, in small letters."""

    page_directives: tuple[str, ...] = ("noai", "noimageai", "noml")
    """The directives that forbid the use of a page's links, in small letters; add noindex or noimageindex to be
    stricter."""

    robots_archives: tuple[str, ...] = ()
    """A crawl's captures of robots.txt: WARC files, named as `sources` are; Common Crawl lists them in the
    robotstxt.paths.gz of each crawl. Hosts that they cover are judged before anything is chosen, without a request."""

    robots_live: bool = True
    """Whether hosts that no archive covers are asked for their robots.txt, once, before their pictures are."""

    common_crawl: tuple[str, ...] = ("*CC-MAIN*", "*commoncrawl*")
    """Patterns of sources whose URLs come from Common Crawl, where CCBot's rules hold too; `*` matches anything, also
    slashes. Add your tables that were made of it."""

    def __post_init__(self) -> None:
        """Raises ConfigError for directives that no page could say."""
        for name in ("x_robots_directives", "page_directives"):
            for directive in getattr(self, name):
                if not directive.strip() or directive != directive.strip().lower():
                    raise ConfigError(f"{name}: {directive!r} must be one word in small letters, like noai")

    def honours(self, signal: Signal) -> bool:
        """Whether what `signal` forbids is left alone."""
        said: bool | None = getattr(self, signal)
        if said is not None:
            return said
        return self.level == "strict" or (self.level == "standard" and signal not in STRICT_SIGNALS)
