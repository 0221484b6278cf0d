"""Which texts need no cleaning, and break no rule of `clean` or one of length: a pass over Arrow's bytes.

Errs on one side only. A text of any verdict but UNSURE comes out of `normalise` as it went in, and
`reason_against` says of it what the verdict says; the UNSURE are for those two to judge.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["PLAIN", "TOO_LONG", "TOO_SHORT", "UNSURE", "scan"]

UNSURE, PLAIN, TOO_SHORT, TOO_LONG = range(4)

_FNV_START = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_MAX_BYTES = 0xFFFF
"""Longer texts are UNSURE: the counts below have 16 bits each."""


def _counted() -> npt.NDArray[np.uint64]:
    increments = np.zeros(128, np.uint64)
    for characters, shift in ((" ", 0), ("0123456789", 16), (",;|", 32), ([*map(chr, range(32)), chr(127)], 48)):
        for character in characters:
            increments[ord(character)] = 1 << shift
    return increments


_COUNTED = _counted()
"""uint64[128]: what an ASCII character adds to the counts of spaces, digits, separators, control characters."""


def scan(
    texts: pa.Array,
    *,
    min_chars: int,
    max_chars: int,
    min_words: int,
    min_keywords: int,
    max_words_per_keyword: float,
    max_name_words: int,
    max_date_chars: int,
    max_placeholder_chars: int,
    placeholders: frozenset[str],
    date_words: frozenset[str],
) -> npt.NDArray[np.uint8]:
    """Verdicts uint8[N] on string[N] without nulls. Limits as in `clean`."""
    texts = texts.cast(pa.large_string())
    verdicts = np.full(len(texts), UNSURE, np.uint8)
    _, offsets, data = texts.buffers()
    if len(texts) and data is not None and data.size:
        keys, longest_other = _word_keys(placeholders)
        limits = (
            min_chars, max_chars, min_words, min_keywords,
            max_name_words, max_date_chars, max_placeholder_chars, longest_other,
        )  # fmt: skip
        _scan(
            np.frombuffer(data, np.uint8),
            np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1],
            _inert_characters(),
            keys,
            _word_keys(date_words)[0],
            np.array(limits, np.int64),
            max_words_per_keyword,
            verdicts,
        )
    return verdicts


@functools.cache
def _inert_characters() -> npt.NDArray[np.uint8]:
    """A bit for each code point up to U+FFFF: visible, no white space, in NFC by itself, and no part of a
    composition with what stands before it."""
    seconds = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # jamo compose by rule, not by table
    for code in range(0x80, sys.maxunicode + 1):
        decomposition = unicodedata.decomposition(chr(code))
        if decomposition and not decomposition.startswith("<"):
            parts = decomposition.split()
            if len(parts) == 2:
                seconds.add(int(parts[1], 16))
    inert = np.zeros(0x10000, np.bool_)
    for code in range(0x80, 0x10000):
        character = chr(code)
        inert[code] = (
            unicodedata.category(character)[0] in "LMNPS"
            and unicodedata.combining(character) == 0
            and code not in seconds
            and not character.isspace()
            and character != "\u180e"
            and unicodedata.is_normalized("NFC", character)
        )
    return np.packbits(inert, bitorder="little")


@functools.cache
def _word_keys(words: frozenset[str]) -> tuple[npt.NDArray[np.uint64], int]:
    """Sorted keys of the ASCII words uint64[K], and the length of the longest of the others."""
    keys = sorted(_key(word.encode()) for word in words if word.isascii())
    return np.array(keys, np.uint64), max((len(word) for word in words if not word.isascii()), default=0)


def _key(letters: Iterable[int]) -> int:
    value = int(_FNV_START)
    for letter in letters:
        value = ((value ^ letter) * int(_FNV_PRIME)) & 0xFFFFFFFFFFFFFFFF
    return value


@numba.njit
def _holds(keys, key):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    place = np.searchsorted(keys, key)
    return place < keys.shape[0] and keys[place] == key


@numba.njit
def _letters(data, at, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Key and number of the ASCII letters."""
    key = _FNV_START
    count = 0
    while at < end:
        lowered = data[at] | 0x20
        at += 1
        if 97 <= lowered <= 122:
            key = (key ^ np.uint64(lowered)) * _FNV_PRIME
            count += 1
    return key, count


@numba.njit
def _has_mark_of_names(data, at, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    while at < end:
        byte = data[at]
        at += 1
        if byte == 46 or byte == 95 or byte == 64 or byte == 58:  # . _ @ :
            return True
    return False


@numba.njit
def _surely_no_date(data, at, end, date_keys):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Whether a word of ASCII letters is none of a date, or a mark is none of numbers and prices.

    Letters beyond ASCII end a word here, which only makes it unsure: no word of a date holds one.
    """
    key = _FNV_START
    in_word = False
    while at < end:
        byte = data[at]
        at += 1
        lowered = byte | 0x20
        if 97 <= lowered <= 122:
            key = (key ^ np.uint64(lowered)) * _FNV_PRIME
            in_word = True
            continue
        if in_word and not _holds(date_keys, key):
            return True
        key = _FNV_START
        in_word = False
        # ! " & * < = > ? @ ^ _ ` { | } ~
        if (
            byte == 33 or byte == 34 or byte == 38 or byte == 42 or 60 <= byte <= 64
            or 94 <= byte <= 96 or 123 <= byte <= 126
        ):  # fmt: skip
            return True
    return in_word and not _holds(date_keys, key)


@numba.njit
def _is_keyword_list(data, at, end, min_keywords, max_words_per_keyword):  # type: ignore[no-untyped-def]  # compiled
    """As `clean` decides it, for a text whose only white space is single spaces."""
    num_parts = num_words = 0
    in_word = in_part = False
    while at < end:
        byte = data[at]
        at += 1
        if byte == 44 or byte == 59 or byte == 124:  # , ; |
            in_word = in_part = False
        elif byte == 32:
            in_word = False
        else:
            if not in_word:
                num_words += 1
            if not in_part:
                num_parts += 1
            in_word = in_part = True
    return num_parts >= min_keywords and num_words <= max_words_per_keyword * num_parts


@numba.njit(cache=True, nogil=True)
def _scan(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    data, offsets, inert, keys, date_keys, limits, max_words_per_keyword, verdicts
) -> Any:
    min_chars, max_chars, min_words, min_keywords = limits[0], limits[1], limits[2], limits[3]
    max_name_words, max_date_chars, max_placeholder_chars = limits[4], limits[5], limits[6]
    longest_other = limits[7]
    for t in range(offsets.shape[0] - 1):
        start, end = offsets[t], offsets[t + 1]
        at = start
        if at == end or end - start > _MAX_BYTES:
            continue
        # No branch on what ASCII characters are: which comes next cannot be foretold, and each wrong guess
        # of the processor costs as much as five characters.
        counts = np.uint64(0)
        num_continuing = num_other = 0
        was_space = np.uint64(1)
        double_space = np.uint64(0)
        is_plain = True
        while at < end:
            byte = data[at]
            if byte < 0x80:
                increment = _COUNTED[byte]
                counts += increment
                is_space = increment & np.uint64(1)
                double_space |= is_space & was_space
                was_space = is_space
                at += 1
                continue
            if byte >= 0xF0:
                is_plain = False  # beyond the table
                break
            if byte >= 0xE0:
                code = ((byte & 0x0F) << 12) | ((data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F)
                at += 3
                num_continuing += 2
            else:
                code = ((byte & 0x1F) << 6) | (data[at + 1] & 0x3F)
                at += 2
                num_continuing += 1
            if not (inert[code >> 3] >> (code & 7)) & 1:
                is_plain = False
                break
            num_other += 1
            was_space = np.uint64(0)
        if not is_plain or was_space or double_space or counts >> np.uint64(48):
            continue
        num_chars = end - start - num_continuing
        num_words = numba.int64(counts & np.uint64(0xFFFF)) + 1
        num_digits = numba.int64((counts >> np.uint64(16)) & np.uint64(0xFFFF))
        num_separators = numba.int64((counts >> np.uint64(32)) & np.uint64(0xFFFF))
        if num_chars < min_chars or num_words < min_words:
            verdicts[t] = TOO_SHORT
            continue
        if num_chars > max_chars:
            verdicts[t] = TOO_LONG
            continue
        if num_separators + 1 >= min_keywords and _is_keyword_list(
            data, start, end, min_keywords, max_words_per_keyword
        ):
            continue
        if num_words <= max_name_words and num_chars > 4 and (data[end - 4] == 46 or data[end - 5] == 46):
            continue  # extensions of three and four letters
        if num_words == 1 and (num_digits > 0 or _has_mark_of_names(data, start, end)):
            continue
        if num_digits > 0 and num_chars <= max_date_chars and not _surely_no_date(data, start, end, date_keys):
            continue
        if num_chars <= max_placeholder_chars:
            key, num_letters = _letters(data, start, end)
            if num_other > 0 and num_letters + num_other <= longest_other:
                continue
            if _holds(keys, key):
                continue
        verdicts[t] = PLAIN
