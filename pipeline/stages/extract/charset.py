"""The characters of an HTML page, from its bytes, as browsers find them.

    byte order mark, header, <meta>, XML declaration --label--> encoding --> text
    none of them ----------------------------------------------> UTF-8 where the bytes are that, else Windows-1252

Labels and encodings are those of the WHATWG Encoding Standard. Python's codecs of the same names read some bytes
otherwise; where they do, this follows the standard's indexes.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import webencodings

__all__ = ["ForbiddenEncodingError", "declared_encoding", "decode_html"]


class ForbiddenEncodingError(ValueError):
    """The page is declared to be in an encoding that browsers refuse to read, since it hides ASCII from filters."""


def decode_html(data: bytes, header_charset: str | None) -> str:
    """Text of a page (HTML Standard, section 13.2.3.2). What cannot be decoded becomes U+FFFD.

    Raises ForbiddenEncodingError for the labels of the Encoding Standard's `replacement`.
    """
    for mark, implied in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(implied, "replace")
    encoding = _encoding_of(header_charset) or declared_encoding(data)
    if encoding is None:
        # A page that was cut may end inside a character, and is UTF-8 all the same if it has others.
        try:
            text, num_read = codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError:
            return _decode(data, "windows-1252")
        if num_read == len(data):
            return text
        return _decode(data, "windows-1252") if text.isascii() else text + "\ufffd"
    return _decode(data, encoding)


# --- which encoding ---------------------------------------------------------------------------

_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le"))
_PRESCAN_BYTES = 1024
_MAX_HEAD_BYTES = 1 << 18
_MARKUP = re.compile(rb"<(?:(!--)|(/?)([a-z][^\s/>]*)|[!/?])", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    rb"[\s/]*+(?:(>)|([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|(?![\"'])([^\s>]*+)))?+)"
)
_CHARSET_IN_CONTENT = re.compile(rb"charset\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s;\"'][^\s;]*))", re.IGNORECASE)
_XML_DECLARATION = re.compile(rb"<\?xml[^>]*?encoding[\0-\x20]*=[\0-\x20]*(?:\"([^\">]*)\"|'([^'>]*)')[^>]*>")
_RAW_TEXT = {
    name: re.compile(rb"</" + name + rb"(?=[\s/>])", re.IGNORECASE)
    for name in (b"script", b"style", b"title", b"textarea", b"xmp", b"iframe", b"noembed", b"noframes")
}
_OF_THE_HEAD = {b"html", b"head", b"meta", b"title", b"base", b"link", b"style", b"script", b"noscript", b"object"}


def _encoding_of(label: str | None) -> str | None:
    """The standard's name of the encoding that a label stands for; null where it stands for none."""
    name = webencodings.LABELS.get(label.strip("\t\n\f\r \"'").lower()) if label else None
    return name.lower() if name is not None else None


def declared_encoding(data: bytes) -> str | None:
    """What a page says of itself: its first meta that names an encoding, or else its XML declaration; the standard's
    name.

    Metas are read as the HTML Standard's prescan reads them, for the first 1024 bytes and, as Chromium does
    (html_meta_charset_parser.cc), on to the end of the head, passing over scripts, styles and titles.
    """
    if data.startswith(b"<\0?\0x\0"):
        return "utf-16le"
    if data.startswith(b"\0<\0?\0x"):
        return "utf-16be"
    for attributes in _metas(data[:_MAX_HEAD_BYTES]):
        encoding = _encoding_of_meta(attributes)
        if encoding is not None:
            # It was read as ASCII, so that it is not in UTF-16.
            return {"utf-16le": "utf-8", "utf-16be": "utf-8", "x-user-defined": "windows-1252"}.get(encoding, encoding)
    found = _XML_DECLARATION.match(data, 0, _MAX_HEAD_BYTES)
    encoding = _encoding_of((found[1] or found[2] or b"").decode("latin-1")) if found is not None else None
    return "utf-8" if encoding in ("utf-16le", "utf-16be") else encoding


def _metas(head: bytes) -> Iterator[dict[bytes, bytes]]:
    at = 0
    while (tag := _MARKUP.search(head, at)) is not None:
        at = tag.end()
        is_comment, slash, name = tag.groups()
        if name is None:
            end = head.find(b"-->", at - 2) if is_comment else head.find(b">", at)
            if end < 0:
                return
            at = end + 1
            continue
        name = name.lower()
        if tag.start() >= _PRESCAN_BYTES and name not in _OF_THE_HEAD:
            return
        attributes: dict[bytes, bytes] = {}
        while (attribute := _ATTRIBUTE.match(head, at)) is not None:
            at = attribute.end()
            if attribute[1]:
                break
            attributes.setdefault(attribute[2].lower(), attribute[3] or attribute[4] or attribute[5] or b"")
        else:
            return  # it has no end
        if slash:
            continue
        if name == b"meta":
            yield attributes
        elif name in _RAW_TEXT:
            end_tag = _RAW_TEXT[name].search(head, at)
            if end_tag is None:
                return
            at = end_tag.start()


def _encoding_of_meta(attributes: Mapping[bytes, bytes]) -> str | None:
    label = attributes.get(b"charset")
    if label is None and attributes.get(b"http-equiv", b"").lower() == b"content-type":
        found = _CHARSET_IN_CONTENT.search(attributes.get(b"content", b""))
        label = next((group for group in found.groups() if group is not None), None) if found is not None else None
    return _encoding_of(label.decode("latin-1")) if label is not None else None


# --- its characters ---------------------------------------------------------------------------


class _Codec(NamedTuple):
    """A codec of Python, and how the standard's index differs from it."""

    name: str
    errors: str = "replace"
    differing: Mapping[str, str] = {}


_CHINESE = {"\ue5e5": "\u3000", "\ue7c7": "\u1e3f"} | dict(
    zip(
        "\ue78d\ue78e\ue78f\ue790\ue791\ue792\ue793\ue794\ue795\ue796\ue81e\ue826\ue82b\ue82c\ue832\ue843\ue854\ue864",
        "\ufe10\ufe12\ufe11\ufe13\ufe14\ufe15\ufe16\ufe17\ufe18\ufe19\u9fb4\u9fb5\u9fb6\u9fb7\u9fb8\u9fb9\u9fba\u9fbb",
        strict=True,
    )
)
"""Characters that had no place in Unicode when Python's table was made."""
_JAPANESE = dict(zip("\u301c\u2016\u2212\xa2\xa3\xac", "\uff5e\u2225\uff0d\uffe0\uffe1\uffe2", strict=True))
_TAIWANESE = dict(
    zip(
        "\u2022\uff64\u203e\u223c\u2641\u2609\xa5\xa2\xa3",
        "\u2027\ufe51\xaf\uff5e\u2295\u2299\uffe5\uffe0\uffe1",
        strict=True,
    )
)
_CODECS = {
    "utf-8": _Codec("utf-8"),
    "utf-16le": _Codec("utf-16-le"),
    "utf-16be": _Codec("utf-16-be"),
    "gbk": _Codec("gb18030", "openwit-gbk", _CHINESE),
    "gb18030": _Codec("gb18030", "openwit-gbk", _CHINESE),
    "big5": _Codec("big5hkscs", "openwit-big5", _TAIWANESE),
    "euc-kr": _Codec("cp949"),
    "shift_jis": _Codec("cp932"),
    "euc-jp": _Codec("euc_jp", "openwit-jis", _JAPANESE),
    "iso-2022-jp": _Codec("iso2022_jp_ext", "openwit-jis", _JAPANESE),
}
"""Encodings of more than one byte a character. Of Big5 Python still lacks some 190 rare characters (HKSCS of 2008,
pictures of control characters), and has two fraction slashes as full-width ones."""
_SINGLE_BYTE = {
    "ibm866": "cp866",
    "macintosh": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic",
    "windows-874": "cp874",
    "iso-8859-8-i": "iso-8859-8",
}
"""Python's names where they differ."""
_DIFFERING_BYTES = {"koi8-u": {0xAE: "\u045e", 0xBE: "\u040e"}, "windows-1255": {0xCA: "\u05ba"}}


def _decode(data: bytes, encoding: str) -> str:
    if encoding == "replacement":
        raise ForbiddenEncodingError("an encoding that browsers do not read (ISO-2022-KR, ISO-2022-CN, HZ)")
    codec = _CODECS.get(encoding)
    if codec is None:
        return codecs.charmap_decode(data, "replace", _table_of(encoding))[0]
    text = data.decode(codec.name, codec.errors)
    if not codec.differing:
        return text
    return re.sub(f"[{''.join(codec.differing)}]", lambda found: codec.differing[found[0]], text)


@functools.cache
def _table_of(encoding: str) -> str:
    """The 256 characters of a single-byte encoding, U+FFFE where there is none."""
    if encoding == "x-user-defined":
        return "".join(map(chr, [*range(0x80), *range(0xF780, 0xF800)]))
    table = []
    for byte in range(256):
        character = bytes([byte]).decode(_SINGLE_BYTE.get(encoding, encoding), "replace")
        if character == "\ufffd":
            # What is free between 0x80 and 0x9F are control characters in every index of the standard.
            character = chr(byte) if byte < 0xA0 else "\ufffe"
        table.append(_DIFFERING_BYTES.get(encoding, {}).get(byte, character))
    return "".join(table)


def _euro_alone(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return ("\u20ac", error.start + 1) if error.object[error.start] == 0x80 else ("\ufffd", error.end)


def _euro_of_big5(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    found = error.object.startswith(b"\xa3\xe1", error.start)
    return ("\u20ac", error.start + 2) if found else ("\ufffd", error.end)


def _vendor_characters(error: UnicodeError) -> tuple[str, int]:
    """NEC's and IBM's characters of JIS X 0208, such as circled digits, which Python has in Shift_JIS alone."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    row, cell = (byte & 0x7F for byte in error.object[error.start : error.start + 2].ljust(2, b"\0"))
    if (
        0x21 <= row <= 0x7E
        and 0x21 <= cell <= 0x7E
        and (error.encoding != "euc_jp" or error.object[error.start] > 0xA0)
    ):
        lead = (row - 0x21) // 2 + (0x81 if row < 0x5F else 0xC1)
        trail = cell + ((0x1F if cell < 0x60 else 0x20) if row % 2 else 0x7E)
        character = bytes([lead, trail]).decode("cp932", "replace")
        if len(character) == 1 and character != "\ufffd":
            return character, error.start + 2
    return "\ufffd", error.end


codecs.register_error("openwit-gbk", _euro_alone)
codecs.register_error("openwit-big5", _euro_of_big5)
codecs.register_error("openwit-jis", _vendor_characters)
