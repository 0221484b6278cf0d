"""Where things stand in the JSON of a WAT record: the members that matter, and its picture links. Compiled.

    {"Envelope": {"WARC-Header-Metadata": {"WARC-Target-URI"}, "Payload-Metadata": {"HTTP-Response-Metadata": {
        "Headers", "HTML-Metadata": {"Head": {"Base", "Metas", "Link"}, "Links": [{"path", "url", "alt", "title"}]}}}}}

Errs on one side only, as `json_scan` does: UNSURE is also what has a member of interest twice, or of another type than
it should be.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled.declare import part
from pipeline.matching.vectors import load8, lowest_bit
from pipeline.stages.extract.json_scan import (
    UNSURE,
    letter_marks,
    plain_string_end,
    skip_white,
    string_end,
    value_end,
)

__all__ = [
    "ALT",
    "BASE",
    "HEADERS",
    "HEAD_LINKS",
    "LINKS",
    "METAS",
    "NUM_MEMBERS",
    "TARGET",
    "TITLE",
    "URL",
    "Places",
    "Word",
    "find_page",
    "has_no_pictures",
    "holds_word",
    "names_html",
    "names_license",
    "names_robots",
    "word_of",
]

_QUOTE, _COMMA, _COLON = b'",:'
_OPEN_ARRAY, _CLOSE_ARRAY, _OPEN_OBJECT, _CLOSE_OBJECT = b"[]{}"
_RETURN, _LINE_FEED = b"\r\n"

# --- the members that matter ------------------------------------------------------------------

_OTHER = -1
_ENVELOPE, _WARC, _PAYLOAD, _RESPONSE, _HTML, _HEAD, TARGET, BASE, HEADERS, METAS, HEAD_LINKS, LINKS = range(12)
_ROOT = 12
_OBJECTS = 6
"""Members below this number are objects whose own members matter."""
_MEMBERS = (
    (_ROOT, "Envelope", _ENVELOPE),
    (_ENVELOPE, "WARC-Header-Metadata", _WARC),
    (_ENVELOPE, "Payload-Metadata", _PAYLOAD),
    (_PAYLOAD, "HTTP-Response-Metadata", _RESPONSE),
    (_RESPONSE, "HTML-Metadata", _HTML),
    (_RESPONSE, "Headers", HEADERS),
    (_HTML, "Head", _HEAD),
    (_HTML, "Links", LINKS),
    (_HEAD, "Base", BASE),
    (_HEAD, "Metas", METAS),
    (_HEAD, "Link", HEAD_LINKS),
    (_WARC, "WARC-Target-URI", TARGET),
)
"""(object, name, member): a member's number is also that of the object that it is."""
_NAMES = np.frombuffer("".join(name for _, name, _ in _MEMBERS).encode(), np.uint8)
_NAME_ENDS = np.cumsum([len(name) for _, name, _ in _MEMBERS])
_OBJECT_OF = np.array([inside for inside, _, _ in _MEMBERS])
_MEMBER_OF = np.array([member for _, _, member in _MEMBERS])
_PARENT = np.array([next((inside for inside, _, m in _MEMBERS if m == member), _ROOT) for member in range(_OBJECTS)])


NUM_MEMBERS = len(_MEMBERS)
Longs = npt.NDArray[np.int64]


class Places(NamedTuple):
    """Where things stand in a record."""

    spans: Longs
    """int64[NUM_MEMBERS, 2]: of the members, -1 where there are none; of strings without their quotes."""
    images: Longs
    """int64[M, 3, 2]: of the URL, alt and title of each picture, -1 where there are none."""
    counts: Longs
    """int64[2]: the number of pictures, and whether a licence is linked."""
    link: Longs
    """int64[5, 2]: of the strings of the link that was read last, -1 where there are none."""


class Word(NamedTuple):
    """A word to look for. Its numbers are numpy's: compiled code would be made anew for each number of Python's."""

    letters: np.uint64
    """At most 8 bytes as `load8` reads them, with the bit set that tells a small letter."""
    length: np.int64
    rare: np.int64
    """The letter to look for first."""


def word_of(text: str, rare: int = 0) -> Word:
    """The first 8 bytes of a text. Letter number `rare` should not be frequent."""
    letters = bytes(byte | 0x20 for byte in text.encode()[:8])
    return Word(_packed(letters), np.int64(len(letters)), np.int64(rare))


def _packed(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text, "little"))


def _lowest(num_bytes: int) -> np.uint64:
    return np.uint64((1 << 8 * num_bytes) - 1)


_PATH, URL, ALT, TITLE, _REL = range(5)
_PATH_NAME, _URL_NAME, _ALT_NAME = map(_packed, (b'"path"', b'"url"', b'"alt"'))
_TITLE_NAME, _REL_NAME = map(_packed, (b'"title"', b'"rel"'))
_TEXT_NAME, _ANCHOR_VALUE = map(_packed, (b'"text"', b'A@/href"'))  # of no interest, but most links have them
_IMAGE_VALUE = _packed(b"IMG@/src")
_IMAGE, _ROBOTS, _LICENSE = word_of("IMG@/src", 3), word_of("robots", 2), word_of("license", 2)
_HTML_METADATA = word_of("HTML-Metadata", 2)
_LOWEST_5, _LOWEST_6, _LOWEST_7 = map(_lowest, (5, 6, 7))
_LOWER = np.uint64(0x2020202020202020)
_ONE, _LOWEST_BYTE, _ALL = np.uint64(1), np.uint64(0xFF), np.uint64(0xFFFFFFFFFFFFFFFF)


# --- compiled ---------------------------------------------------------------------------------


@part
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


@part
def holds_word(data, start, end, word):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether data[start:end] may hold a word, in any case, as `word_of` gives it."""
    letters, length, rare = word
    letter = np.uint8(letters >> np.uint64(8 * rare) & _LOWEST_BYTE)
    lowest = _ALL >> np.uint64(64 - 8 * length)
    for i in range(start, end - length + 1, 64):
        marks = letter_marks(data, i + rare, letter)
        while marks != 0:
            at = i + lowest_bit(marks)
            if at + length <= end and (load8(data, at) | _LOWER) & lowest == letters:
                return True
            marks &= marks - _ONE
    return False


@part
def names_robots(data, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether data[start:end] may hold the word robots."""
    return holds_word(data, start, end, _ROBOTS)


@part
def names_license(data, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether data[start:end] may hold the word license."""
    return holds_word(data, start, end, _LICENSE)


@part
def names_html(data, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether a record tells of an HTML page."""
    return holds_word(data, start, end, _HTML_METADATA)


@part
def has_no_pictures(data, start, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """bool: whether a record is of no interest, without a look at its JSON: most tell of requests."""
    if holds_word(data, start, end, _IMAGE):
        return False
    while end > start and (data[end - 1] == _RETURN or data[end - 1] == _LINE_FEED):
        end -= 1
    return end > start and data[end - 1] == _CLOSE_OBJECT  # else it is cut short


@part
def _read_link(data, i, link):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind the object at `i`, or UNSURE. `link` is as in `Places`."""
    for which in range(_REL + 1):
        link[which, 0] = link[which, 1] = UNSURE
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
            which = URL
            i += 5
        elif name & _LOWEST_5 == _ALT_NAME:
            which = ALT
            i += 5
        elif name & _LOWEST_5 == _REL_NAME:
            which = _REL
            i += 5
        elif name & _LOWEST_7 == _TITLE_NAME:
            which = TITLE
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


@part
def _read_links(data, i, places):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind the array at `i`, or UNSURE. Appends its pictures to `places`."""
    images, counts, link = places.images, places.counts, places.link
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
        if path >= 0 and link[_PATH, 1] - path == 8 and load8(data, path) == _IMAGE_VALUE:
            for which in range(URL, TITLE + 1):
                images[counts[0], which - URL, 0] = link[which, 0]
                images[counts[0], which - URL, 1] = link[which, 1]
            counts[0] += 1
        if link[_REL, 0] >= 0 and names_license(data, link[_REL, 0], link[_REL, 1]):
            counts[1] = 1
        i = skip_white(data, i)
        if data[i] == _CLOSE_ARRAY:
            return i + 1
        if data[i] != _COMMA:
            return UNSURE
        i = skip_white(data, i + 1)


@part
def find_page(data, i, places):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """int64: the index behind the record's object at `i`, or UNSURE. Fills `places`, which has room for it."""
    spans, counts = places.spans, places.counts
    for member in range(NUM_MEMBERS):
        spans[member, 0] = spans[member, 1] = UNSURE
    counts[0] = counts[1] = 0
    inside = np.int64(_ROOT)
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
        elif member in (TARGET, BASE):
            i = string_end(data, i + 1) if data[i] == _QUOTE else UNSURE
            if i < 0:
                return UNSURE
            spans[member, 0] = start + 1
            spans[member, 1] = i
            i += 1
        else:
            i = _read_links(data, i, places) if member == LINKS else value_end(data, i)
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
