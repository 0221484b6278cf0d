"""The options of `privacy`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from configs.load import ConfigError

__all__ = ["KINDS", "Kind", "PrivacyConfig"]

Kind = Literal["card", "email", "iban", "national_number", "phone"]
KINDS: tuple[Kind, ...] = ("card", "email", "iban", "national_number", "phone")
"""Of personal data that is looked for, in the order in which the column `pii` names them."""
_REGION = re.compile(r"[A-Z]{2}\Z")


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """What is looked for in captions, and what becomes of it."""

    pii: Literal["flag", "reject", "off"] = "flag"
    """What becomes of a caption with personal data in it. flag: it stays, and the column `pii` names the kinds that
    were found. reject: it is turned away. off: nobody looks."""
    pii_kinds: tuple[Kind, ...] = KINDS
    """The kinds that are looked for: payment cards, e-mail addresses, IBANs, national numbers of persons (tax, social
    security, identity), phone numbers."""
    phone_regions: tuple[str, ...] = ("US", "GB")
    """Countries (ISO 3166) whose phone numbers are known without their +country code, as people there write them; with
    it they are known of every country."""

    def __post_init__(self) -> None:
        if len(set(self.pii_kinds)) < len(self.pii_kinds):
            raise ConfigError(f"pii_kinds names a kind twice: {', '.join(self.pii_kinds)}")
        if not self.pii_kinds and self.pii != "off":
            raise ConfigError("pii_kinds is empty; name a kind, or set pii to off")
        for region in self.phone_regions:
            if not _REGION.match(region):
                raise ConfigError(f"phone_regions: {region!r} is no country; give two capital letters, such as US")
