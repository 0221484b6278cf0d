"""Which texts need no cleaning, and break no rule of `clean` or one of length: a pass over Arrow's bytes.

Errs on one side only. A text of any verdict but UNSURE comes out of `normalise` as it went in, and
`reason_against` says of it what the verdict says; the UNSURE are for those two to judge.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.compiled.arrays import read_only
from pipeline.compiled.declare import kernel, part

__all__ = ["PLAIN", "TOO_LONG", "TOO_SHORT", "UNSURE", "scan"]

UNSURE, PLAIN, TOO_SHORT, TOO_LONG = range(4)

_INERT, _LETTER, _TAIL = 1, 2, 4
"""Visible, no white space, in NFC by itself, and no part of a composition with what stands before it; a letter for
placeholders, or a number that is no digit; a byte that goes on with a character, misread."""


class _Limits(NamedTuple):
    """Of `clean`, for compiled code."""

    min_chars: int
    max_chars: int
    cuts_long_texts: bool
    min_words: int
    min_keywords: int
    max_words_per_keyword: float
    max_name_words: int
    max_date_chars: int
    max_placeholder_chars: int
    longest_other: int
    """Letters of the longest placeholder that is not ASCII."""


class _Words(NamedTuple):
    """Sorted keys of words, uint64[K] each; of openings in their order."""

    placeholders: npt.NDArray[np.uint64]
    dates: npt.NDArray[np.uint64]
    extensions: npt.NDArray[np.uint64]
    cameras: npt.NDArray[np.uint64]
    openings: npt.NDArray[np.uint64]


_FNV_START = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_OPENING_BYTES = 8
_COUNT_BITS = 12
_ONE_COUNT = np.uint64((1 << _COUNT_BITS) - 1)
_MAX_BYTES = (1 << _COUNT_BITS) - 1
"""Longer texts are UNSURE: the counts below have so many bits each."""
_SPACES, _DIGITS, _SEPARATORS, _OPENERS, _TELLING = (np.uint64(_COUNT_BITS * place) for place in range(5))
"""Where the counts begin. Openers begin an entity or [object Object], but mostly do not; telling characters make a
text unsure at once: those of control, tags and templates."""


def _counted() -> npt.NDArray[np.uint64]:
    increments = np.zeros(128, np.uint64)
    telling = [*map(chr, range(32)), chr(127), "<", "{"]
    kinds = ((" ", _SPACES), ("0123456789", _DIGITS), (",;|", _SEPARATORS), ("&[", _OPENERS), (telling, _TELLING))
    for characters, shift in kinds:
        for character in characters:
            increments[ord(character)] = np.uint64(1) << shift
    return increments


_COUNTED = _counted()
"""uint64[128]: what an ASCII character adds to the counts."""


def scan(
    texts: pa.Array,
    *,
    min_chars: int,
    max_chars: int,
    cuts_long_texts: bool,
    min_words: int,
    min_keywords: int,
    max_words_per_keyword: float,
    max_name_words: int,
    extensions: frozenset[str],
    camera_words: frozenset[str],
    max_date_chars: int,
    max_placeholder_chars: int,
    placeholders: frozenset[str],
    openings: tuple[str, ...],
    date_words: frozenset[str],
    mojibake_tails: str,
) -> npt.NDArray[np.uint8]:
    """Verdicts uint8[N] on string[N] without nulls. Limits as in `clean`."""
    texts = texts.cast(pa.large_string())
    verdicts = np.full(len(texts), UNSURE, np.uint8)
    _, offsets, data = texts.buffers()
    if len(texts) and data is not None and data.size:
        placeholder_keys, longest_other = _word_keys(placeholders)
        limits = _Limits(
            min_chars=min_chars,
            max_chars=max_chars,
            cuts_long_texts=cuts_long_texts,
            min_words=min_words,
            min_keywords=min_keywords,
            max_words_per_keyword=float(max_words_per_keyword),
            max_name_words=max_name_words,
            max_date_chars=max_date_chars,
            max_placeholder_chars=max_placeholder_chars,
            longest_other=longest_other,
        )
        words = _Words(
            placeholders=placeholder_keys,
            dates=_word_keys(date_words)[0],
            extensions=_word_keys(extensions)[0],
            cameras=_word_keys(camera_words)[0],
            openings=_opening_keys(openings),
        )
        _scan(
            read_only(np.frombuffer(data, np.uint8)),
            read_only(np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]),
            _kinds(mojibake_tails),
            words,
            limits,
            verdicts,
        )
    return verdicts


@functools.cache
def _kinds(mojibake_tails: str) -> npt.NDArray[np.uint8]:
    """uint8[0x10000]: of each code point beyond ASCII whether it is _INERT, a _LETTER, one of the tails."""
    seconds = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # jamo compose by rule, not by table
    for code in range(0x80, sys.maxunicode + 1):
        decomposition = unicodedata.decomposition(chr(code))
        if decomposition and not decomposition.startswith("<"):
            parts = decomposition.split()
            if len(parts) == 2:
                seconds.add(int(parts[1], 16))
    kinds = np.zeros(0x10000, np.uint8)
    for code in range(0x80, 0x10000):
        character = chr(code)
        if (
            unicodedata.category(character)[0] in "LMNPS"
            and unicodedata.combining(character) == 0
            and code not in seconds
            and not character.isspace()
            and character != "\u180e"
            and unicodedata.is_normalized("NFC", character)
        ):
            kinds[code] |= _INERT
        if character.isalnum() and not character.isdecimal():
            kinds[code] |= _LETTER
    kinds[[ord(character) for character in mojibake_tails]] |= _TAIL
    return kinds


@functools.cache
def _opening_keys(openings: tuple[str, ...]) -> npt.NDArray[np.uint64]:
    """Keys of the first eight letters or spaces of each, uint64[K]."""
    return np.array([_key(opening[:_OPENING_BYTES].encode()) for opening in openings], np.uint64)


@functools.cache
def _word_keys(words: frozenset[str]) -> tuple[npt.NDArray[np.uint64], int]:
    """Sorted keys of the ASCII words uint64[K], and the length of the longest of the others."""
    keys = sorted(_key(_ascii_letters(word)) for word in words if word.isascii())
    return np.array(keys, np.uint64), max((len(word) for word in words if not word.isascii()), default=0)


def _ascii_letters(word: str) -> bytes:
    return "".join(letter for letter in word.lower() if letter.isalpha()).encode()


def _key(letters: Iterable[int]) -> int:
    value = int(_FNV_START)
    for letter in letters:
        value = ((value ^ letter) * int(_FNV_PRIME)) & 0xFFFFFFFFFFFFFFFF
    return value


@part
def _holds(keys, key):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    place = np.searchsorted(keys, key)
    return place < keys.shape[0] and keys[place] == key


@part
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


@part
def _has_mark_of_names(data, at, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    while at < end:
        byte = data[at]
        at += 1
        if byte == 46 or byte == 95 or byte == 64 or byte == 58:  # . _ @ :
            return True
    return False


@part
def _may_be_number(data, at, end, camera_keys):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Whether a word with a digit begins as a camera's names do, or has no letter that hexadecimal numbers lack."""
    key = _FNV_START
    is_hexadecimal = leads = True
    while at < end:
        lowered = data[at] | 0x20
        is_letter = 97 <= lowered <= 122
        leads &= is_letter
        if leads:
            key = (key ^ np.uint64(lowered)) * _FNV_PRIME
        is_hexadecimal &= not is_letter or lowered <= 102
        at += 1
    return is_hexadecimal or _holds(camera_keys, key)


@part
def _may_open(data, at, end, openings):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Whether the text begins as one of the openings does, for its first eight bytes."""
    first = data[at] | 0x20
    if (first != 110 and first != 116) or end - at < _OPENING_BYTES:  # n, t
        return False
    third = data[at + 2] | 0x20
    if third != 32 and third != 105:  # "no ", "thi"
        return False
    key = _FNV_START
    for i in range(at, at + _OPENING_BYTES):
        key = (key ^ np.uint64(data[i] | 0x20)) * _FNV_PRIME
    return np.any(openings == key)


@part
def _may_hold_code(data, at, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Whether an ampersand, letters or digits, and a semicolon follow each other, or [o."""
    inside = False
    before = 0
    while at < end:
        byte = data[at]
        at += 1
        lowered = byte | 0x20
        if byte == 38:  # &
            inside = True
        elif (inside and byte == 59) or (before == 91 and byte == 111):  # ; [ o
            return True
        elif not (97 <= lowered <= 122 or 48 <= byte <= 57 or byte == 35):  # letters, digits, #
            inside = False
        before = byte
    return False


@part
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


@part
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


@kernel
def _scan(data, offsets, kinds, words, limits, verdicts):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    # An array that is taken out of a record in the loop is counted there, again and again.
    placeholders, dates, extensions, cameras, openings = words
    for t in range(offsets.shape[0] - 1):
        start, end = offsets[t], offsets[t + 1]
        at = start
        if at == end or end - start > _MAX_BYTES:
            continue
        # No branch on what ASCII characters are: which comes next cannot be foretold, and each wrong guess
        # of the processor costs as much as five characters.
        counts = np.uint64(0)
        num_continuing = num_other = num_other_letters = 0
        lead_end = numba.int64(-1)  # where a character ended that may be a byte of another, misread ...
        num_awaited = 0  # ... which so many more would make whole
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
            begin = at
            if byte >= 0xE0:
                code = ((byte & 0x0F) << 12) | ((data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F)
                at += 3
                num_continuing += 2
            else:
                code = ((byte & 0x1F) << 6) | (data[at + 1] & 0x3F)
                at += 2
                num_continuing += 1
            kind = kinds[code]
            if not kind & _INERT:
                is_plain = False
                break
            if begin == lead_end and kind & _TAIL:
                lead_end = at
                num_awaited -= 1
                if num_awaited == 0:
                    is_plain = False  # perhaps mojibake
                    break
            elif 0xC2 <= code <= 0xF4:
                lead_end = at
                num_awaited = 1 + (code >= 0xE0) + (code >= 0xF0)
            num_other += 1
            num_other_letters += (kind & _LETTER) != 0
            was_space = np.uint64(0)
        if not is_plain or was_space or double_space or counts >> _TELLING:
            continue
        num_chars = end - start - num_continuing
        num_words = numba.int64((counts >> _SPACES) & _ONE_COUNT) + 1
        num_digits = numba.int64((counts >> _DIGITS) & _ONE_COUNT)
        num_separators = numba.int64((counts >> _SEPARATORS) & _ONE_COUNT)
        if (counts >> _OPENERS) & _ONE_COUNT and _may_hold_code(data, start, end):
            continue
        if num_words <= limits.max_name_words and num_chars > 4 and (data[end - 4] == 46 or data[end - 5] == 46):
            # Extensions have three or four letters and digits.
            extension, _ = _letters(data, end - 3 if data[end - 4] == 46 else end - 4, end)
            if _holds(extensions, extension):
                continue
        if num_words == 1 and (
            _has_mark_of_names(data, start, end) or (num_digits > 0 and _may_be_number(data, start, end, cameras))
        ):
            continue
        if num_chars < limits.min_chars or num_words < limits.min_words:
            if num_other == 0 or num_words < limits.min_words:
                verdicts[t] = TOO_SHORT
            continue  # perhaps wide characters
        if num_chars > limits.max_chars:
            if not limits.cuts_long_texts:
                verdicts[t] = TOO_LONG
            continue
        if num_separators + 1 >= limits.min_keywords and _is_keyword_list(
            data, start, end, limits.min_keywords, limits.max_words_per_keyword
        ):
            continue
        if num_digits > 0 and num_chars <= limits.max_date_chars and not _surely_no_date(data, start, end, dates):
            continue
        if num_chars <= limits.max_placeholder_chars:
            key, num_letters = _letters(data, start, end)
            if num_other_letters > 0 and num_letters + num_other_letters <= limits.longest_other:
                continue
            if _holds(placeholders, key):
                continue
        if _may_open(data, start, end, openings):
            continue
        verdicts[t] = PLAIN
