"""URLs as browsers read them: the one that a page means, to request as it is spelt.

    URL as the page wrote it --resolver--> absolute http(s) URL --identity.canonical_url--> what it is known by

The rules are the WHATWG URL Standard's (https://url.spec.whatwg.org/), by ada, which is the parser of Node.js. Escapes
stay as they were written, since signatures cover them. It departs from browsers where identities, which are stable for
ever, would change or would differ between formats:

    fragments and user info are no part of a request and are left out
    an apostrophe in a query stays one, white space beyond ASCII at the end is dropped
    a query is UTF-8, whatever the page's charset: WAT files do not tell it
"""

from __future__ import annotations

import re
from collections.abc import Callable

import ada_url

__all__ = ["SCHEME", "base_url", "resolver", "without_user_info"]

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
"""The scheme that a URL begins with."""
_LABEL = r"[a-z0-9_-]++"
_ORIGIN = rf"https?://(?:{_LABEL}\.)*+[a-z][a-z0-9_-]*+(?::(?!80\b|443\b)[1-9][0-9]{{0,3}})?"
_SEGMENT = r"(?!\.|%2[Ee])[A-Za-z0-9_~!$&'()*+,;=:@%|\[\].-]*+"
_QUERY = r"(?:\?[A-Za-z0-9_~!$&'()*+,;=:@%|\[\]./?-]*+)?"
_plain = re.compile(
    rf"({_ORIGIN}(?:/{_SEGMENT})++{_QUERY})"  # 1: absolute
    rf"|((?!//)(?:/{_SEGMENT})++{_QUERY})"  # 2: from the root
    rf"|((?:\.\./)*+)((?=[^:/?]++(?:[/?]|\Z)){_SEGMENT}(?:/{_SEGMENT})*+{_QUERY})"  # 3, 4: folders up, from there
).fullmatch
"""Matches URLs that come out as they are spelt, behind their base; the bulk of the web, so they skip the parser."""
_base_parts = re.compile(rf"(({_ORIGIN})/(?:{_SEGMENT}/)*+)[^/]*+").fullmatch
_STRAY = re.compile("[\t\n\r]")
_C0_AND_SPACE = "".join(map(chr, range(0x21)))
_WHITE = (
    _C0_AND_SPACE
    + "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    + ("\u2028\u2029\u202f\u205f\u3000")
)
_REFERENCE = re.compile(r"([^?#]*)(\?[^#]*)?")
_ESCAPED_IN_QUERY = re.compile(r"[^!$-;=?-~]")
"""The special-query percent-encode set, but for the apostrophe."""
_USER_INFO = re.compile(r"\A(\s*(?:[A-Za-z][A-Za-z0-9+.-]*:)?[/\\]{2,})[^/\\?#]*@")


def resolver(base: str) -> Callable[[str], str]:
    """A function that makes the URLs of one page absolute against `base`, itself absolute; "" for none.

    It returns an http(s) URL as the module's rules spell it, in ASCII; a URL of another scheme (data:, blob:, or
    relative to a base of such a scheme); or "", where there is nothing to request: no URL, a browser refuses it, or it
    names a place in the page itself.
    """
    folder = _REFERENCE.match(_parsed(base, ""))[1] if base else ""  # type: ignore[index]  # it always matches
    parts = _base_parts(folder)
    root = parts[2] if parts is not None else ""
    folders = {"": parts[1]} if parts is not None else {}

    def resolve(url: str) -> str:
        plain = _plain(url)
        if plain is not None:
            if plain.lastindex == 1:
                return url
            if root:
                if plain.lastindex == 2:
                    return root + url
                climb, rest = plain.group(3, 4)
                if climb not in folders:
                    folders[climb] = _above(folders[""], len(climb) // 3, len(root))
                return folders[climb] + rest
        return _resolve(url, folder)

    return resolve


def base_url(page_url: str, href: str) -> str:
    """The URL that a page's relative URLs count from, where its first `base` with a href says `href`.

    What is no URL, and a data: or javascript: URL, counts for nothing (HTML Standard, section 4.2.3, "set the frozen
    base URL").
    """
    href = href.strip(_C0_AND_SPACE)
    scheme = SCHEME.match(_STRAY.sub("", href))
    if scheme is not None and scheme[1].lower() in ("data", "javascript"):
        return page_url
    return _parsed(href, page_url) or page_url


def without_user_info(url: str) -> str:
    """A URL of any scheme, or what passes for one, without the name and password before its host."""
    return _USER_INFO.sub(r"\1", url, count=1) if "@" in url else url


def _above(folder: str, num_folders: int, root_chars: int) -> str:
    for _ in range(num_folders):
        if len(folder) == root_chars + 1:
            break  # at the root, ".." leads nowhere
        folder = folder[: folder.rindex("/", 0, -1) + 1]
    return folder


def _resolve(url: str, folder: str) -> str:
    url = _STRAY.sub("", url.lstrip(_C0_AND_SPACE).rstrip(_WHITE))
    if not url.isascii():  # halves of surrogate pairs, which are U+FFFD to a browser
        url = url.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if not url or url.startswith("#"):
        return ""
    scheme = SCHEME.match(url)
    if scheme is not None and scheme[1].lower() not in ("http", "https"):
        return url
    head, query = _REFERENCE.match(url).groups()  # type: ignore[union-attr]  # it always matches
    found = _parsed(head + "#", folder)  # so that a space at its end is not at the end
    if query is None or not found.startswith(("http://", "https://")):
        return found
    return found + _ESCAPED_IN_QUERY.sub(_escape, query)


def _parsed(url: str, base: str) -> str:
    """`url` against `base` as the standard serialises it, without user info and fragment; "" if it does not parse."""
    try:
        found = ada_url.join_url(base, url) if base else ada_url.normalize_url(url)
    except ValueError:
        return ""
    return without_user_info(found.partition("#")[0])


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())
