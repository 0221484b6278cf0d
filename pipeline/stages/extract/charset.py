"""The characters of an HTML page, from its bytes."""

from __future__ import annotations

import codecs
import re

__all__ = ["decode_html"]

_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le"))
_META = re.compile(rb"<meta[^>]{0,500}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:+-]{1,40})", re.IGNORECASE | re.DOTALL)
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_PRESCAN_BYTES = 4096
"""The HTML Standard looks at 1024; many pages put the meta after their scripts."""

_AS_BROWSERS_READ = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "utf-16": "utf-16-le",
}
"""Python's name of a codec -> the wider one that the WHATWG Encoding Standard puts under that label."""
_ENCODINGS = frozenset(
    {"utf-8", "utf-16-be", "utf-16-le", "cp866", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic", "cp874"}
    | {f"cp{page}" for page in range(1250, 1259)}
    | {f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)}
    | {"gb18030", "big5hkscs", "euc_jp", "iso2022_jp", "cp932", "cp949"}
)
"""Those of the standard, by Python's names; Python has more codecs, and pages do not get to choose those."""
_LABELS = {"x-sjis": "cp932", "windows-31j": "cp932", "ks_c_5601-1987": "cp949", "x-gbk": "gb18030", "unicode": "utf-8"}


def decode_html(data: bytes, header_charset: str | None) -> str:
    """Text of a page: byte order mark, the header's charset, a meta in the first 4 KiB, else UTF-8 where
    the bytes are that, else Windows-1252. What cannot be decoded becomes U+FFFD."""
    for mark, implied in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(implied, "replace")
    encoding = _codec(header_charset)
    if encoding is None:
        declared = _META.search(_COMMENT.sub(b"", data[:_PRESCAN_BYTES]))
        encoding = _codec(declared[1].decode("ascii")) if declared is not None else None
        if encoding is not None and encoding.startswith("utf-16"):
            encoding = "utf-8"  # a meta that was read as ASCII is not in UTF-16
    if encoding is not None:
        return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _codec(label: str | None) -> str | None:
    if not label:
        return None
    label = label.strip().strip("\"'").lower()
    if label in _LABELS:
        return _LABELS[label]
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError):
        return None
    name = _AS_BROWSERS_READ.get(name, name)
    return name if name in _ENCODINGS else None
