"""What a page says of its pictures, as browsers read it: entities, licences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html.entities import html5

__all__ = ["license_among", "unescape_attribute"]

_REFERENCE = re.compile(r"&(?:#([0-9]+);?|#[xX]([0-9A-Fa-f]+);?|([A-Za-z][A-Za-z0-9]*+)(;?))")
_WINDOWS_1252 = {
    code: bytes([code]).decode("cp1252") for code in range(0x80, 0xA0) if code not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
"""Numeric references in this range mean what Windows-1252 says (HTML Standard, section 13.2.5.80)."""


def unescape_attribute(raw: str) -> str:
    """The value of an HTML attribute, from the characters between its quotes.

    The rules of the HTML Standard for attributes (sections 13.2.3.5, 13.2.5.72 to 80): line breaks are
    "\\n", NUL becomes U+FFFD, and a named reference without its semicolon is left alone before "=" or a
    letter or digit, so that "?a=1&copy=2" stays a query string. (`html.unescape` follows the rules for
    running text and would damage such URLs.)
    """
    if "\r" in raw:
        raw = raw.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in raw:
        raw = raw.replace("\0", "\ufffd")
    if "&" not in raw:
        return raw
    return _REFERENCE.sub(_character, raw)


def _character(match: re.Match[str]) -> str:
    decimal, hexadecimal, name, semicolon = match.groups()
    if name is not None:
        # Without a semicolon only the legacy names count, and only whole: the pattern took every
        # letter and digit, so a shorter legacy name would be followed by one.
        if not semicolon and match.string.startswith("=", match.end()):
            return match.group()
        return html5.get(name + semicolon, match.group())
    digits = (decimal or hexadecimal).lstrip("0")
    if len(digits) > 7:
        return "\ufffd"
    code = int(digits or "0", 10 if decimal else 16)
    if code in _WINDOWS_1252:
        return _WINDOWS_1252[code]
    if code == 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    return chr(code)


def license_among(links: Iterable[tuple[str, str]]) -> str | None:
    """The raw URL of the first link among (rel, raw URL) pairs whose rel holds the word `license`."""
    return next((url for rel, url in links if "license" in rel.lower().split()), None)
