"""What a page says of its pictures, as browsers read it: entities, URLs, robots directives, licences.

raw attribute --unescape_attribute--> text        URL as the page wrote it --resolver--> absolute URL
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from html.entities import html5
from urllib.parse import urljoin

__all__ = ["SCHEME", "directives_of", "license_among", "resolver", "unescape_attribute"]

# --- text -------------------------------------------------------------------------------------

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


# --- URLs -------------------------------------------------------------------------------------

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
"""The scheme that a URL begins with."""
_SEGMENT = r"[A-Za-z0-9_~%+,=@!$&'()*-][A-Za-z0-9_~%+,=@!$&'()*.-]*+"
_QUERY = r"\?[A-Za-z0-9_~%+,=@!$&'()*.:/?-]++"
_plain_reference = re.compile(
    r"(https?://[^/\\\x00-\x20][^\\\x00-\x20]*+)"  # 1: absolute
    rf"|((?:/{_SEGMENT})++/?(?:{_QUERY})?)"  # 2: from the root
    rf"|((?:\.\./)*+)({_SEGMENT}(?:/{_SEGMENT})*+/?(?:{_QUERY})?)"  # 3, 4: folders up, from there
).fullmatch
_base_parts = re.compile(rf"(https?://[^/?#\\\[\]\x00-\x20]++)(?:(/(?:{_SEGMENT}/)*+)[^/?#]*+)?(?:[?#]|\Z)").match
_STRAY = re.compile("[\t\n\r]")
_C0_AND_SPACE = "".join(map(chr, range(0x21)))
_QUERY_OR_FRAGMENT = re.compile("[?#]")


def resolver(base: str) -> Callable[[str], str]:
    """A function that makes the URLs of one page absolute against `base`, itself absolute.

    As browsers do (WHATWG URL Standard): white space around the URL and line breaks and tabs inside it
    are dropped, and a backslash before the query is a slash. What is absolute already, or plainly
    relative to the host or to the folder, is joined by concatenation, the rest by `urljoin`.

    The function returns "" where nothing can be made of the URL, and URLs of other schemes (data:,
    blob:) as they are.
    """
    known = _base_parts(base)
    root = known[1] if known is not None else ""
    folders = {"": root + (known[2] or "/")} if known is not None else {}

    def resolve(url: str) -> str:
        plain = _plain_reference(url)
        if plain is not None:
            kind = plain.lastindex
            if kind == 1:
                return url
            if root:
                if kind == 2:
                    return root + url
                climb, rest = plain.group(3, 4)
                if climb not in folders:
                    above = folders[""]
                    for _ in range(len(climb) // 3):  # at the root, ".." leads nowhere
                        above = above[: above.rindex("/", 0, -1) + 1] if len(above) > len(root) + 1 else above
                    folders[climb] = above
                return folders[climb] + rest
        return _resolve_any(url, base)

    return resolve


def _resolve_any(url: str, base: str) -> str:
    url = _STRAY.sub("", url.strip(_C0_AND_SPACE))
    if not url:
        return ""
    scheme = SCHEME.match(url)
    if scheme is not None and scheme[1].lower() not in ("http", "https"):
        return url
    if "\\" in url:
        end = _QUERY_OR_FRAGMENT.search(url)
        head = url if end is None else url[: end.start()]
        url = head.replace("\\", "/") + url[len(head) :]
    if scheme is not None:
        name, rest = scheme[1].lower(), url[scheme.end() :]
        if rest.startswith("//") or not base.startswith(f"{name}:"):
            return f"{name}://{rest.lstrip('/')}"
        url = rest  # "http:picture.jpg" on an http page is relative
    try:
        return urljoin(base, url)
    except ValueError:  # a host in brackets that is no IPv6 address
        return ""


# --- robots, licences -------------------------------------------------------------------------

_DIRECTIVE_BREAKS = re.compile(r"[\s,:;]+")


def directives_of(values: Iterable[str]) -> set[str]:
    """Every word of robots metas and X-Robots-Tag headers, in lower case: directives and robot names."""
    return {word for value in values for word in _DIRECTIVE_BREAKS.split(value.lower()) if word}


def license_among(links: Iterable[tuple[str, str]]) -> str | None:
    """The raw URL of the first link among (rel, raw URL) pairs whose rel holds the word `license`."""
    return next((url for rel, url in links if "license" in rel.lower().split()), None)
