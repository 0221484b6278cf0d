"""Which texts need no cleaning and break no rule of `clean`: one pass over the bytes of an Arrow array.

Errs on one side only: a text marked plain comes out of `normalise` as it went in and `reason_against` has
nothing against it; the others are for those two to judge.
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

__all__ = ["find_plain"]

_FNV_START = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


def find_plain(
    texts: pa.Array,
    *,
    min_chars: int,
    max_chars: int,
    min_words: int,
    min_keywords: int,
    max_name_words: int,
    max_date_chars: int,
    max_placeholder_chars: int,
    placeholders: frozenset[str],
) -> npt.NDArray[np.bool_]:
    """bool[N] for string[N] without nulls: certainly clean and acceptable. Limits as in `clean`."""
    texts = texts.cast(pa.large_string())
    plain = np.zeros(len(texts), np.bool_)
    _, offsets, data = texts.buffers()
    if len(texts) and data is not None and data.size:
        keys, longest_other = _placeholder_keys(placeholders)
        limits = (
            min_chars, max_chars, min_words, min_keywords,
            max_name_words, max_date_chars, max_placeholder_chars, longest_other,
        )  # fmt: skip
        _scan(
            np.frombuffer(data, np.uint8),
            np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1],
            _inert_characters(),
            keys,
            np.array(limits, np.int64),
            plain,
        )
    return plain


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
def _placeholder_keys(placeholders: frozenset[str]) -> tuple[npt.NDArray[np.uint64], int]:
    """Sorted keys of the ASCII placeholders uint64[K], and the length of the longest of the others."""
    keys = sorted(_key(word.encode()) for word in placeholders if word.isascii())
    return np.array(keys, np.uint64), max((len(word) for word in placeholders if not word.isascii()), default=0)


def _key(letters: Iterable[int]) -> int:
    value = int(_FNV_START)
    for letter in letters:
        value = ((value ^ letter) * int(_FNV_PRIME)) & 0xFFFFFFFFFFFFFFFF
    return value


@numba.njit(cache=True, nogil=True)
def _scan(data, offsets, inert, keys, limits, plain) -> Any:  # type: ignore[no-untyped-def]  # numba infers the types
    min_chars, max_chars, min_words, min_keywords = limits[0], limits[1], limits[2], limits[3]
    max_name_words, max_date_chars, max_placeholder_chars = limits[4], limits[5], limits[6]
    longest_other = limits[7]
    for t in range(offsets.shape[0] - 1):
        at, end = offsets[t], offsets[t + 1]
        if at == end:
            continue
        num_chars = num_spaces = num_digits = num_separators = num_letters = num_other = 0
        run = longest_run = 0
        has_mark = False  # one of . _ @ :
        last_dot = numba.int64(-1)
        key = _FNV_START
        after_space = True
        is_plain = True
        while at < end:
            byte = data[at]
            num_chars += 1
            if byte < 0x80:
                lowered = byte | 0x20
                if 97 <= lowered <= 122:
                    num_letters += 1
                    run += 1
                    key = (key ^ np.uint64(lowered)) * _FNV_PRIME
                else:
                    longest_run = max(longest_run, run)
                    run = 0
                    if byte == 32:
                        if after_space:
                            is_plain = False
                            break
                        num_spaces += 1
                    elif byte < 32 or byte == 127:
                        is_plain = False
                        break
                    elif 48 <= byte <= 57:
                        num_digits += 1
                    elif byte == 44 or byte == 59 or byte == 124:  # , ; |
                        num_separators += 1
                    elif byte == 46:
                        last_dot = at
                        has_mark = True
                    elif byte == 95 or byte == 64 or byte == 58:  # _ @ :
                        has_mark = True
                after_space = byte == 32
                at += 1
                continue
            if byte >= 0xF0:
                is_plain = False  # beyond the table
                break
            if byte >= 0xE0:
                code = ((byte & 0x0F) << 12) | ((data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F)
                at += 3
            else:
                code = ((byte & 0x1F) << 6) | (data[at + 1] & 0x3F)
                at += 2
            if not (inert[code >> 3] >> (code & 7)) & 1:
                is_plain = False
                break
            num_other += 1
            longest_run = max(longest_run, run)
            run = 0
            after_space = False
        if not is_plain or after_space:
            continue
        longest_run = max(longest_run, run)
        num_words = num_spaces + 1
        if num_chars < min_chars or num_chars > max_chars or num_words < min_words:
            continue
        if num_separators + 1 >= min_keywords:
            continue
        if num_words <= max_name_words and end - 5 <= last_dot <= end - 4:  # extensions of three and four
            continue
        if num_words == 1 and (num_digits > 0 or has_mark):
            continue
        # No word of a date has more than nine letters.
        if num_digits > 0 and num_chars <= max_date_chars and longest_run <= 9:
            continue
        if num_chars <= max_placeholder_chars:
            if num_other > 0 and num_letters + num_other <= longest_other:
                continue
            place = np.searchsorted(keys, key)
            if place < keys.shape[0] and keys[place] == key:
                continue
        plain[t] = True
