"""The picture links of many WAT records in one pass over their bytes, in compiled code.

    block that names pictures --_page_spans--> where members and picture links stand --_copy_texts--> strings
      | anything unusual
      `--> UNSURE: for a full parser to judge

Errs on one side only, as `json_scan` does: of a record that is not UNSURE the strings are those that a full parser
would give. UNSURE is also what has a member of interest twice, or of another type than it should be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from pipeline.matching.vectors import load8, lowest_bit
from pipeline.stages.extract.blocks import Blocks
from pipeline.stages.extract.json_scan import (
    UNSURE,
    copy_string,
    letter_marks,
    plain_string_end,
    skip_white,
    string_end,
    value_end,
)
from pipeline.stages.extract.page import Page

__all__ = ["scan_pages"]

_MAY_FORBID, _MAY_LICENSE, _MAY_ESCAPE = 1, 2, 4
_NULL = b"null"
_MIN_LINK_BYTES = len('{"path":"IMG@/src"}')

_QUOTE, _COMMA, _COLON = b'",:'
_OPEN_ARRAY, _CLOSE_ARRAY, _OPEN_OBJECT, _CLOSE_OBJECT = b"[]{}"
_AMPERSAND, _RETURN, _LINE_FEED = b"&\r\n"


def scan_pages(blocks: Blocks, text_sources: Sequence[str]) -> list[tuple[int, Page | None]]:
    """The pages with picture links among WAT records, each with its number in `blocks`; null in place of a page that
    a full parser has to judge. The other records hold no picture links.

    Of `text_sources` only those are looked at that a WAT has: alt, title.
    """
    data = np.frombuffer(blocks.data, np.uint8)
    use = np.array([name in text_sources for name in ("alt", "title")])
    max_links = len(data) // _MIN_LINK_BYTES + 1
    table = np.empty((len(blocks.starts), 12), np.int64)
    ordinals = np.empty(max_links, np.int32)
    out = np.empty(len(data), np.uint8)
    images = np.empty((max_links, 3, 2), np.int64)
    num_pages, num_links, num_bytes = _scan(data, blocks.starts, blocks.ends, use, images, table, ordinals, out)
    rows = table[:num_pages].tolist()
    try:
        strings = out[:num_bytes].tobytes().decode().split("\0")
    except UnicodeDecodeError:  # one of the pages has bytes that are not UTF-8
        return [(row[0], None) for row in rows]
    return _pages(rows, strings, ordinals[:num_links].tolist(), blocks.data, *use.tolist())


def _pages(
    rows: list[list[int]], strings: list[str], ordinals: list[int], data: bytes, has_alt: bool, has_title: bool
) -> list[tuple[int, Page | None]]:
    pages: list[tuple[int, Page | None]] = []
    at = link = 0
    width = 1 + has_alt + has_title
    for record, num_with_text, num_textless, flags, a, b, c, d, e, f, g, h in rows:
        if num_with_text < 0:
            pages.append((record, None))
            continue
        first, end = at + 2, at + 2 + num_with_text * width
        textless, end_link = link + num_with_text, link + num_with_text + num_textless
        page = Page(
            target=strings[at],
            base=strings[at + 1],
            directives=(data[a:b] or _NULL, data[c:d] or _NULL) if flags & _MAY_FORBID else None,
            licenses=(data[e:f] or _NULL, data[g:h]) if flags & _MAY_LICENSE else None,
            has_escapes=flags & _MAY_ESCAPE != 0,
            ordinals=ordinals[link:textless],
            urls=strings[first:end:width],
            alts=strings[first + 1 : end : width] if has_alt else None,
            titles=strings[first + width - 1 : end : width] if has_title else None,
            textless_ordinals=ordinals[textless:end_link],
            textless_urls=strings[end : end + num_textless],
        )
        pages.append((record, page))
        at, link = end + num_textless, end_link
    return pages


# --- the members that matter ------------------------------------------------------------------

_OTHER = -1
_ENVELOPE, _WARC, _PAYLOAD, _RESPONSE, _HTML, _HEAD, _TARGET, _BASE, _HEADERS, _METAS, _HEAD_LINKS, _LINKS = range(12)
_ROOT = 12
_OBJECTS = 6
"""Members below this number are objects whose own members matter."""
_MEMBERS = (
    (_ROOT, "Envelope", _ENVELOPE),
    (_ENVELOPE, "WARC-Header-Metadata", _WARC),
    (_ENVELOPE, "Payload-Metadata", _PAYLOAD),
    (_PAYLOAD, "HTTP-Response-Metadata", _RESPONSE),
    (_RESPONSE, "HTML-Metadata", _HTML),
    (_RESPONSE, "Headers", _HEADERS),
    (_HTML, "Head", _HEAD),
    (_HTML, "Links", _LINKS),
    (_HEAD, "Base", _BASE),
    (_HEAD, "Metas", _METAS),
    (_HEAD, "Link", _HEAD_LINKS),
    (_WARC, "WARC-Target-URI", _TARGET),
)
"""(object, name, member): a member's number is also that of the object that it is."""
_NAMES = np.frombuffer("".join(name for _, name, _ in _MEMBERS).encode(), np.uint8)
_NAME_ENDS = np.cumsum([len(name) for _, name, _ in _MEMBERS])
_OBJECT_OF = np.array([inside for inside, _, _ in _MEMBERS])
_MEMBER_OF = np.array([member for _, _, member in _MEMBERS])
_PARENT = np.array([next((inside for inside, _, m in _MEMBERS if m == member), _ROOT) for member in range(_OBJECTS)])


def _word(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(text.encode(), "little"))


def _lowest(num_bytes: int) -> np.uint64:
    return np.uint64((1 << 8 * num_bytes) - 1)


_PATH, _URL, _ALT, _TITLE, _REL = range(5)
_PATH_NAME, _URL_NAME, _ALT_NAME, _TITLE_NAME, _REL_NAME = map(_word, ('"path"', '"url"', '"alt"', '"title"', '"rel"'))
_TEXT_NAME, _ANCHOR_VALUE = _word('"text"'), _word('A@/href"')  # of no interest, but most links have them
_IMAGE_WORD = _word("IMG@/src")
_ROBOTS_WORD, _LICENSE_WORD = _word("robots"), _word("license")
_LOWEST_5, _LOWEST_6, _LOWEST_7 = map(_lowest, (5, 6, 7))
_LOWER = np.uint64(0x2020202020202020)
_ONE, _LOWEST_BYTE, _ALL = np.uint64(1), np.uint64(0xFF), np.uint64(0xFFFFFFFFFFFFFFFF)


# --- compiled ---------------------------------------------------------------------------------


@numba.njit
def _member(data, start, length, inside):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the number of the member named data[start:start+length] of an object, or _OTHER."""
    for m in range(_OBJECT_OF.shape[0]):
        first = _NAME_ENDS[m - 1] if m else 0
        if _OBJECT_OF[m] == inside and _NAME_ENDS[m] - first == length:
            same = True
            for k in range(length):
                if data[start + k] != _NAMES[first + k]:
                    same = False
                    break
            if same:
                return _MEMBER_OF[m]
    return _OTHER


@numba.njit
def _holds(data, start, end, word, length, rare):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether data[start:end] may hold a word, in any case. `word` has its up to 8 letters in lower case; number
    `rare` of them is looked for first."""
    letter = np.uint8(word >> np.uint64(8 * rare) & _LOWEST_BYTE)
    lowest = _ALL >> np.uint64(64 - 8 * length)
    for i in range(start, end - length + 1, 64):
        marks = letter_marks(data, i + rare, letter)
        while marks != 0:
            at = i + lowest_bit(marks)
            if at + length <= end and (load8(data, at) | _LOWER) & lowest == word:
                return True
            marks &= marks - _ONE
    return False


@numba.njit
def _names_robots(data, span):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    return _holds(data, span[0], span[1], _ROBOTS_WORD, 6, 2)


@numba.njit
def _names_license(data, span):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    return _holds(data, span[0], span[1], _LICENSE_WORD, 7, 2)


@numba.njit
def _has_no_pictures(data, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether a record is of no interest, without a look at its JSON: most tell of requests."""
    if _holds(data, start, end, _IMAGE_WORD | _LOWER, 8, 3):
        return False
    while end > start and (data[end - 1] == _RETURN or data[end - 1] == _LINE_FEED):
        end -= 1
    return end > start and data[end - 1] == _CLOSE_OBJECT  # else it is cut short


@numba.njit
def _read_link(data, i, link):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind the object at `i`, or UNSURE. `link` int64[5, 2] gets the spans of its strings, -1
    where there are none."""
    link[:] = UNSURE
    if data[i] != _OPEN_OBJECT:
        return UNSURE
    i = skip_white(data, i + 1)
    if data[i] == _CLOSE_OBJECT:
        return i + 1
    while True:
        # Common strings with their quotes are told in one comparison: the processor guesses its outcome and goes on,
        # where it would have to wait for the place of a quote that it has to look for.
        name = load8(data, i)
        if name & _LOWEST_6 == _PATH_NAME:
            which = _PATH
            i += 6
        elif name & _LOWEST_5 == _URL_NAME:
            which = _URL
            i += 5
        elif name & _LOWEST_5 == _ALT_NAME:
            which = _ALT
            i += 5
        elif name & _LOWEST_5 == _REL_NAME:
            which = _REL
            i += 5
        elif name & _LOWEST_7 == _TITLE_NAME:
            which = _TITLE
            i += 7
        elif name & _LOWEST_6 == _TEXT_NAME:
            which = _OTHER
            i += 6
        else:
            which = _OTHER
            i = plain_string_end(data, i + 1) + 1 if data[i] == _QUOTE else UNSURE
            if i <= 0:
                return UNSURE
        i = skip_white(data, i)
        if data[i] != _COLON:
            return UNSURE
        i = skip_white(data, i + 1)
        if data[i] == _QUOTE:
            if load8(data, i + 1) == _ANCHOR_VALUE:
                end = i + 8
            else:
                end = string_end(data, i + 1)
                if end < 0:
                    return UNSURE
            if which >= 0:
                if link[which, 0] >= 0:
                    return UNSURE
                link[which, 0] = i + 1
                link[which, 1] = end
            i = end + 1
        else:
            i = value_end(data, i) if which < 0 else UNSURE
            if i < 0:
                return UNSURE
        i = skip_white(data, i)
        if data[i] == _CLOSE_OBJECT:
            return i + 1
        if data[i] != _COMMA:
            return UNSURE
        i = skip_white(data, i + 1)


@numba.njit
def _read_links(data, i, images, counts, link):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind the array at `i`, or UNSURE. Appends the spans of pictures to images int64[M, 3, 2];
    counts int64[2]: their number, and whether a licence is linked."""
    if data[i] != _OPEN_ARRAY:
        return UNSURE
    i = skip_white(data, i + 1)
    if data[i] == _CLOSE_ARRAY:
        return i + 1
    while True:
        i = _read_link(data, i, link)
        if i < 0:
            return UNSURE
        path = link[_PATH, 0]
        if path >= 0 and link[_PATH, 1] - path == 8 and load8(data, path) == _IMAGE_WORD:
            images[counts[0]] = link[_URL : _TITLE + 1]
            counts[0] += 1
        if link[_REL, 0] >= 0 and _names_license(data, link[_REL]):
            counts[1] = 1
        i = skip_white(data, i)
        if data[i] == _CLOSE_ARRAY:
            return i + 1
        if data[i] != _COMMA:
            return UNSURE
        i = skip_white(data, i + 1)


@numba.njit
def _page_spans(data, i, spans, images, counts, link):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind the record's object at `i`, or UNSURE. `spans` int64[12, 2]: of the members, -1 where
    there are none; of strings without their quotes."""
    spans[:] = UNSURE
    counts[:] = 0
    inside = _ROOT
    i = skip_white(data, i)
    if data[i] != _OPEN_OBJECT:
        return UNSURE
    i = skip_white(data, i + 1)
    while True:
        if data[i] != _QUOTE:
            return UNSURE
        end = plain_string_end(data, i + 1)
        if end < 0:
            return UNSURE
        member = _member(data, i + 1, end - i - 1, inside)
        i = skip_white(data, end + 1)
        if data[i] != _COLON:
            return UNSURE
        i = skip_white(data, i + 1)
        start = i
        if member >= 0 and spans[member, 0] >= 0:
            return UNSURE
        if 0 <= member < _OBJECTS:
            if data[i] != _OPEN_OBJECT:
                return UNSURE
            spans[member, 0] = i
            i = skip_white(data, i + 1)
            if data[i] != _CLOSE_OBJECT:
                inside = member
                continue
            i += 1
        elif member in (_TARGET, _BASE):
            i = string_end(data, i + 1) if data[i] == _QUOTE else UNSURE
            if i < 0:
                return UNSURE
            spans[member, 0] = start + 1
            spans[member, 1] = i
            i += 1
        else:
            i = _read_links(data, i, images, counts, link) if member == _LINKS else value_end(data, i)
            if i < 0:
                return UNSURE
            if member >= 0:
                spans[member, 0] = start
                spans[member, 1] = i
        while True:  # behind a value
            i = skip_white(data, i)
            if data[i] == _COMMA:
                i = skip_white(data, i + 1)
                break
            if data[i] != _CLOSE_OBJECT:
                return UNSURE
            i += 1
            if inside == _ROOT:
                return i
            inside = _PARENT[inside]


@numba.njit
def _copy(data, span, out, n):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: `n` behind a string (empty where there is none) and a NUL in `out`, or UNSURE."""
    if span[0] >= 0:
        n = copy_string(data, span[0], span[1], out, n)
        if n < 0:
            return UNSURE
    out[n] = 0
    return n + 1


@numba.njit
def _copy_texts(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    data, spans, images, num_images, use, out, n, ordinals, num_links
):
    """(int64, int64): `n` behind the page's strings in `out`, and how many links have text; or UNSURE."""
    n = _copy(data, spans[_TARGET], out, n)
    if n >= 0:
        n = _copy(data, spans[_BASE], out, n)
    num_with_text = 0
    for wanted in (True, False):
        for k in range(num_images):
            has_text = False
            for text in range(1, 3):
                has_text |= use[text - 1] and images[k, text, 1] > images[k, text, 0]
            if n < 0 or has_text != wanted:
                continue
            n = _copy(data, images[k, 0], out, n)
            for text in range(1, 3):
                if n >= 0 and wanted and use[text - 1]:
                    n = _copy(data, images[k, text], out, n)
            ordinals[num_links] = k
            num_links += 1
            num_with_text += wanted
    return n, num_with_text


@numba.njit
def _flags(data, spans, counts, out, first, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    flags = 0
    for member in (_HEADERS, _METAS):
        if _names_robots(data, spans[member]):
            flags |= _MAY_FORBID
    if counts[1] or _names_license(data, spans[_HEAD_LINKS]):
        flags |= _MAY_LICENSE
    has_escapes = False
    for i in range(first, end):  # without a way out, so that many are compared at once
        has_escapes |= (out[i] == _AMPERSAND) | (out[i] == _RETURN)
    return flags | _MAY_ESCAPE if has_escapes else flags


@numba.njit(cache=True, nogil=True)
def _scan(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    data, starts, ends, use, images, pages, ordinals, out
):
    spans = np.empty((_ROOT, 2), np.int64)
    link = np.empty((5, 2), np.int64)
    counts = np.empty(2, np.int64)
    num_pages = num_links = n = 0
    for record in range(starts.shape[0]):
        if _has_no_pictures(data, starts[record], ends[record]):
            continue
        i = _page_spans(data, starts[record], spans, images, counts, link)
        if 0 <= i <= ends[record] <= skip_white(data, i):
            if counts[0] == 0:
                continue
            end, num_with_text = _copy_texts(data, spans, images, counts[0], use, out, n, ordinals, num_links)
        else:
            end, num_with_text = UNSURE, 0
        page = pages[num_pages]
        num_pages += 1
        page[:] = 0
        page[0] = record
        if end < 0:
            page[1] = UNSURE
            continue
        page[1] = num_with_text
        page[2] = counts[0] - num_with_text
        page[3] = _flags(data, spans, counts, out, n, end)
        for k in range(4):
            member = _HEADERS + k
            page[4 + 2 * k] = max(spans[member, 0], 0)
            page[5 + 2 * k] = max(spans[member, 1], 0)
        num_links += counts[0]
        n = end
    return num_pages, num_links, n
