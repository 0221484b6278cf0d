"""Whether an answer is an HTML page, told as browsers tell it.

Sources: Fetch Standard, "extract a MIME type"; MIME Sniffing Standard, sections 4.4 and 7.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["HTML_TYPES", "MediaType", "holds_binary", "looks_like_html", "media_type_of"]

HTML_TYPES = ("text/html", "application/xhtml+xml")

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LIST_ITEM = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|\Z))+')
_TYPE = re.compile(rf"[ \t\r\n]*({_TOKEN}/{_TOKEN})[ \t\r\n]*(?:;|\Z)")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s;,\"']+)", re.IGNORECASE)
_UNKNOWN_TYPES = ("unknown/unknown", "application/unknown")
_RESOURCE_HEADER_BYTES = 1445
_BINARY = re.compile(rb"[\0-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?[\t\n\f\r ]*"
    rb"(?:<!--|<(?:!DOCTYPE HTML|HTML|HEAD|SCRIPT|IFRAME|H1|DIV|FONT|TABLE|A|STYLE|TITLE|B|BODY|BR|P)[ >]"
    rb"|<\?xml[^>]*>\s*(?:<!--.*?-->\s*)*<(?:!DOCTYPE )?html[\s>])",
    re.IGNORECASE | re.DOTALL,
)


class MediaType(NamedTuple):
    """What Content-Type headers come to."""

    essence: str | None
    """type/subtype in lower case; null where no header gives one, so that the bytes have to tell."""
    charset: str | None
    """The label, as written."""

    @property
    def is_html(self) -> bool:
        """Whether it names a page."""
        return self.essence in HTML_TYPES


def media_type_of(values: Iterable[str]) -> MediaType:
    """The last valid type of one or several Content-Type headers; a charset counts for the types that are the same.

    Where no type is valid, its charset is still read: "text/html charset=utf-8".
    """
    essence = charset = stray = None
    for value in values:
        for item in _LIST_ITEM.findall(value):
            named = _CHARSET.search(item)
            found = _TYPE.match(item)
            if found is None or found[1] == "*/*":
                stray = named[1] if named is not None else stray
                continue
            if found[1].lower() != essence:
                essence, charset = found[1].lower(), None
            if named is not None:
                charset = named[1]
    return MediaType(None if essence in _UNKNOWN_TYPES else essence, charset or stray)


def looks_like_html(body: bytes) -> bool:
    """Whether a body of unknown type begins as a page does.

    Beyond the standard's table a byte order mark may stand before it, and an XML declaration before `html`.
    """
    return _HTML_START.match(body, 0, _RESOURCE_HEADER_BYTES) is not None


def holds_binary(body: bytes) -> bool:
    """Whether a byte that no text has is at the beginning: a picture, or something packed."""
    return _BINARY.search(body, 0, _RESOURCE_HEADER_BYTES) is not None
