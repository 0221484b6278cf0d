"""PII: which kinds of personal data does each caption hold?

    captions --one expression over the batch--> most have neither an @ nor seven digits: none
                                            `--an expression a kind--> what may hold it --`kinds_in`--> kinds

`kinds_in` is the definition, one text at a time; the tests hold the expressions to it. docs/privacy.md says what is
found, how precisely, and what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import ConfigError
from pipeline.records.outcome import Outcome, reject
from pipeline.records.schema import MATCHED
from pipeline.stages.privacy.config import KINDS, Kind, PrivacyConfig
from pipeline.stages.privacy.mail import MAY_HOLD_EMAIL, has_email
from pipeline.stages.privacy.national import MAY_HOLD_NATIONAL, has_national_number
from pipeline.stages.privacy.payment import MAY_HOLD_CARD, MAY_HOLD_IBAN, has_card, has_iban
from pipeline.stages.privacy.phones import MAY_HOLD_PHONE, has_phone, known_regions
from pipeline.stages.stage import Stage

__all__ = ["Privacy", "kinds_in", "mark_pii"]

_DEFAULT = PrivacyConfig()
_MAY_HOLD_ANY = (
    r"@|%40|[\[({] ?[aA][tT] ?[\])}]|[+\x{ff0b}]\s?\(?[0-9](?:[^0-9A-Za-z]{0,4}[0-9]){5}"
    r"|(?:[0-9][-. ()/\x{2010}-\x{2015}]{0,3}){7}"  # any seven digits that belong together
    r"|[A-Z]{6}[0-9L-NP-V]{2}[A-Z][0-9L-NP-V]{2}[A-Z]|[A-Z]{4}[0-9]{6}[HM]"  # and national ones with letters
    r"|(?i:[0-9]{6}[A-FU-Y][0-9]{3}|[A-Z]{5}[0-9]{4}[A-Z])"
)
"""RE2. Whatever a kind is found in has a place that this matches."""
_MAY_HOLD: Mapping[Kind, str] = {
    "card": MAY_HOLD_CARD,
    "email": MAY_HOLD_EMAIL,
    "iban": MAY_HOLD_IBAN,
    "national_number": MAY_HOLD_NATIONAL,
    "phone": MAY_HOLD_PHONE,
}


def kinds_in(text: str, config: PrivacyConfig = _DEFAULT) -> tuple[Kind, ...]:
    """Which of the config's kinds stand in a text, in the order of KINDS."""
    return tuple(kind for kind in KINDS if kind in config.pii_kinds and _holds(text, kind, config))


def _holds(text: str, kind: Kind, config: PrivacyConfig) -> bool:
    if kind == "phone":
        return has_phone(text, config.phone_regions)
    return _LOOKS[kind](text)


_LOOKS: Mapping[Kind, Callable[[str], bool]] = {
    "card": has_card,
    "email": has_email,
    "iban": has_iban,
    "national_number": has_national_number,
}


def _found(captions: pa.Array, config: PrivacyConfig) -> list[tuple[Kind, ...]]:
    """`kinds_in` of every caption, looked for only where a kind may be."""
    found: list[tuple[Kind, ...]] = [()] * len(captions)
    for kind in KINDS:
        if kind in config.pii_kinds:
            may_hold = pc.match_substring_regex(captions, _MAY_HOLD[kind])
            for index in np.flatnonzero(may_hold.to_numpy(zero_copy_only=False)).tolist():
                if _holds(captions[index].as_py(), kind, config):
                    found[index] += (kind,)
    return found


def mark_pii(batch: pa.RecordBatch, config: PrivacyConfig) -> Outcome:
    """Add `pii` (string: the kinds with commas between them, empty for none, null where nobody looked) to a batch with
    a column `caption`.

    With `pii: reject` a caption that holds any is rejected, as the first of its kinds; no detail repeats it.
    """
    field = MATCHED.field("pii")
    reasons = pa.nulls(batch.num_rows, pa.string())
    if config.pii == "off":
        return reject(batch.append_column(field, reasons), stage="privacy", reasons=reasons)
    captions = batch.column("caption")
    may_hold = pc.match_substring_regex(captions, _MAY_HOLD_ANY)
    found = _found(captions.filter(may_hold), config)
    none = pa.repeat(pa.scalar("", field.type), batch.num_rows)
    marks = pc.replace_with_mask(none, may_hold, pa.array([",".join(kinds) for kinds in found], field.type))
    if config.pii == "reject":
        firsts = [kinds[0] if kinds else None for kinds in found]
        reasons = pc.replace_with_mask(reasons, may_hold, pa.array(firsts, pa.string()))
    return reject(batch.append_column(field, marks), stage="privacy", reasons=reasons)


@dataclass(frozen=True, kw_only=True)
class Privacy(Stage):
    """`mark_pii` as a stage of the page."""

    config: PrivacyConfig

    name: ClassVar[str] = "privacy"
    reads: ClassVar[tuple[str, ...]] = ("caption",)
    adds: ClassVar[tuple[str, ...]] = ("pii",)
    reasons: ClassVar[Mapping[str, str]] = {
        "card": "the caption holds a payment card's number",
        "email": "the caption holds an e-mail address",
        "iban": "the caption holds an IBAN",
        "national_number": "the caption holds a person's national number: tax, social security, health, identity",
        "phone": "the caption holds a phone number",
    }

    def judge(self, batch: pa.RecordBatch) -> Outcome:
        return mark_pii(batch, self.config)

    def check(self) -> None:
        if unknown := sorted(set(self.config.phone_regions) - known_regions()):
            raise ConfigError(f"privacy.phone_regions: {unknown[0]} is no country with a phone plan; see ISO 3166")

    def key_parts(self) -> Any:
        """Nothing for the default: it keeps every row, and what was matched before there was the column is read on with
        nulls in it, so that no source need be read again for it."""
        about = {name: getattr(self.config, name) for name in _DECIDES}
        default = {name: getattr(PrivacyConfig(), name) for name in _DECIDES}
        return None if about == default else [self.name, self.version, about]


_DECIDES = ("pii", "pii_kinds", "phone_regions")
"""The options of `privacy` that this stage goes by."""
