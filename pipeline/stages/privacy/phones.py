"""Phone numbers: those with a +country code of every country, others of the countries that the config names.

Which digits are a number is libphonenumber's to say (`phonenumbers`). A number without its country code is taken for
one only where a word says so (`Tel 02079460958`), or where it is grouped as its country groups numbers, with a mark or
a leading zero ((201) 555-0123, 020 7946 0958): bare digits are more often an ISBN, a part or a stock photo.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["MAY_HOLD_PHONE", "has_phone", "known_regions"]

_WORDS = (
    r"tel|telephone|telefon|téléphone|telefono|teléfono|telefone|phone|ph|call|fax|mobile|mobil|mob|cell|"
    r"handy|whats ?app|sms|text|hotline|helpline|contact|dial|ring"
)
_AFTER = r"us|me|now|on|at|no|nr|number|today|free|for|info|line"
_CODED = re.compile(r"[+\uff0b]\s?\(?[0-9]")
_IN_URL = re.compile(r"(?:wa\.me/|[?&]phone=)\+?(?P<number>[1-9][0-9]{6,14})\b", re.IGNORECASE)
_SAID = re.compile(
    rf"(?<!\w)(?:{_WORDS})\b[^0-9+\w]{{0,4}}(?:(?:{_AFTER})\b[^0-9+\w]{{0,4}}){{0,3}}"
    r"(?P<number>[(+0-9][0-9 ().\-/\u2010-\u2015]{5,22}[0-9])(?![\w-])",
    re.IGNORECASE,
)
_FORMS = (
    r"\(0?[0-9]{2,5}\)[-. ]?[0-9]{3,4}(?:[-. ]?[0-9]{3,4})?",  # (201) 555-0123, (020) 7946 0958
    r"0[0-9]{1,4}[-. ][0-9]{3,7}(?:[-. ][0-9]{3,4})?",  # 020 7946 0958, 07400 123456
    r"(?:1[-.])?[2-9][0-9]{2}[-.][0-9]{3}[-.][0-9]{4}",  # 201-555-0123; three numbers with spaces are often a list
)
_GROUPED = re.compile(
    rf"(?<![\w#+/.,:=-])(?<![0-9#] )(?P<number>{'|'.join(_FORMS)})(?![\w/-]|[.,][0-9]| [0-9])",
)
MAY_HOLD_PHONE = (
    r"[+\x{ff0b}]\s?\(?[0-9](?:[^0-9A-Za-z]{0,4}[0-9]){5}|(?i:wa\.me/|phone=)"
    rf"|(?i:(?:^|\W)(?:{_WORDS})\W.*[0-9]{{2}})|(?:^|[^\w#+/.,:=-])(?:{'|'.join(_FORMS)})"
)
"""RE2 that matches wherever `has_phone` finds one."""


def has_phone(text: str, regions: Sequence[str]) -> bool:
    """Whether a phone number stands in `text`; `regions` are the countries whose numbers need no country code."""
    import phonenumbers as library

    if _CODED.search(text) and library.PhoneNumberMatcher(text, None, leniency=library.Leniency.VALID).has_next():
        return True
    if any(_is_number(f"+{found['number']}", None) for found in _IN_URL.finditer(text)):
        return True
    for found in _SAID.finditer(text):
        if any(_is_number(found["number"], region) for region in regions):
            return True
    for found in _GROUPED.finditer(text):
        number, leniency = found["number"], library.Leniency.STRICT_GROUPING
        if any(library.PhoneNumberMatcher(number, region, leniency=leniency).has_next() for region in regions):
            return True
    return False


def known_regions() -> frozenset[str]:
    """The countries whose plans are known."""
    import phonenumbers as library

    return frozenset(library.SUPPORTED_REGIONS)


def _is_number(text: str, region: str | None) -> bool:
    import phonenumbers as library

    try:
        return bool(library.is_valid_number(library.parse(text, region)))
    except library.NumberParseException:
        return False
