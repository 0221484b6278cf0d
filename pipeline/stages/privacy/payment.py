"""Payment cards and IBANs: their form, their issuer or country, and their check digits."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["MAY_HOLD_CARD", "MAY_HOLD_IBAN", "has_card", "has_iban"]

MAY_HOLD_CARD = r"[0-9](?:[ -]?[0-9]){12}"
MAY_HOLD_IBAN = r"[A-Z]{2} ?[0-9]{2}(?:[ -]?[A-Z0-9]){11}"
"""RE2 that matches wherever `has_card` finds one, and `has_iban`."""
_GROUPED_CARD = re.compile(
    r"(?<![\w.,/-])(?:[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}|3[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})"
    r"(?![\w/-]|[.,][0-9])"
)
_SAID_CARD = re.compile(
    r"\b(?:card|credit|debit|visa|master\s?card|amex|american express|discover|diners|maestro|jcb|union\s?pay|pan|cc|"
    r"karte|kreditkarte|carte|tarjeta|carta|cart[ãa]o)\b[^0-9]{0,24}(?P<number>[0-9](?:[ -]?[0-9]){12,18})(?![\w-])",
    re.IGNORECASE,
)
_ISSUERS = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11,16}"  # American Express; Diners Club
    r"|(?:6011|64[4-9][0-9]|65[0-9]{2})[0-9]{12}|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"  # Discover; JCB
    r"|62[0-9]{14,17}|(?:5018|5020|5038|5893|6304|6759|676[1-3])[0-9]{8,15}"  # UnionPay; Maestro
)
"""Issuer identification numbers with their lengths (ISO/IEC 7812, and the issuers' own lists)."""
_IBAN = re.compile(r"(?<!\w)[A-Z]{2} ?[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}(?!\w)")
_SHORTEST_IBAN = 15  # Norway's


def has_card(text: str) -> bool:
    """Whether a card's number stands in `text`: of a known issuer, with a right check digit, and grouped as on a card
    or after a word that says so."""
    numbers = [found[0] for found in _GROUPED_CARD.finditer(text)]
    return any(_is_card(number) for number in (*numbers, *(found["number"] for found in _SAID_CARD.finditer(text))))


def _is_card(number: str) -> bool:
    from stdnum import luhn

    digits = number.replace(" ", "").replace("-", "")
    return _ISSUERS.fullmatch(digits) is not None and len(set(digits)) > 1 and bool(luhn.is_valid(digits))


def has_iban(text: str) -> bool:
    """Whether an IBAN stands in `text`, in a country's form and with right check digits, its country's own among
    them."""
    from stdnum import iban

    return any(bool(iban.is_valid(number)) for found in _IBAN.finditer(text) for number in _shortened(found[0]))


def _shortened(found: str) -> Iterator[str]:
    """What was found, and the same without its last groups: other words in capitals may follow."""
    while sum(map(str.isalnum, found)) >= _SHORTEST_IBAN:
        yield found
        found = found[: max(found.rfind(" "), found.rfind("-"), 0)]
