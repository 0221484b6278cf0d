"""The options of `privacy`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds

__all__ = ["KINDS", "Kind", "PrivacyConfig"]

Kind = Literal["card", "email", "iban", "national_number", "phone"]
KINDS: tuple[Kind, ...] = ("card", "email", "iban", "national_number", "phone")
"""Of personal data that is looked for, in the order in which the column `pii` names them."""
_REGION = re.compile(r"[A-Z]{2}\Z")


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """Personal data in captions, and pictures that may not be kept."""

    pii: Literal["flag", "reject", "off"] = "flag"
    """What becomes of a caption with personal data in it. flag: it stays, and the column `pii` names the kinds that
    were found. reject: it is turned away. off: nobody looks."""
    pii_kinds: tuple[Kind, ...] = KINDS
    """The kinds that are looked for: payment cards, e-mail addresses, IBANs, national numbers of persons (tax, social
    security, identity), phone numbers."""
    phone_regions: tuple[str, ...] = ("US", "GB")
    """Countries (ISO 3166) whose phone numbers are known without their +country code, as people there write them; with
    it they are known of every country."""

    hash_lists: tuple[str, ...] = ()
    """Files, or objects in a bucket, of hashes of pictures that may not be kept: MD5, SHA-1 or SHA-256 of a file, one a
    line. Each body is held against them before anything of it is stored; what is stored already goes."""

    pdq_lists: tuple[str, ...] = ()
    """The same of PDQ hashes, of how pictures look; every picture's own is taken while there is such a list."""

    pdq_max_distance: Annotated[int, Bounds(least=0, most=128)] = 31
    """Bits of 256 in which a picture's PDQ may differ from a listed one and still be the same."""

    pdq_min_quality: Annotated[int, Bounds(least=0, most=100)] = 50
    """PDQ's quality, 0 to 100, below which a picture has too little in it to be told by its PDQ."""

    def __post_init__(self) -> None:
        if len(set(self.pii_kinds)) < len(self.pii_kinds):
            raise ConfigError(f"pii_kinds names a kind twice: {', '.join(self.pii_kinds)}")
        if not self.pii_kinds and self.pii != "off":
            raise ConfigError("pii_kinds is empty; name a kind, or set pii to off")
        check_bounds(self)
        names = [re.split(r"[/\\]", file)[-1].partition(".")[0] for file in (*self.hash_lists, *self.pdq_lists)]
        if len(set(names)) < len(names) or "" in names:
            raise ConfigError("hash_lists and pdq_lists: a list is told by its file's name; no two may have the same")
        for region in self.phone_regions:
            if not _REGION.match(region):
                raise ConfigError(f"phone_regions: {region!r} is no country; give two capital letters, such as US")
