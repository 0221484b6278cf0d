"""A text cut into tokens and each of them hashed: the first half of the matcher's loops.

    64 bytes --classify--> bit masks --> token edges --8 bytes at a time--> hashes

The hash of a token of at most seven bytes is a bijection of its bytes and length; longer ones may share theirs. What
is ASCII goes 64 bytes at a time, other texts character by character. No function checks bounds: 64 bytes follow every
text. Unsigned arithmetic wraps, as in C. Words are little-endian.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled.declare import inlined, part
from pipeline.matching.characters import BOUNDARY, IGNORED, KIND, MARK, SINGLE, UNSETTLED
from pipeline.matching.vectors import classify, load8, lowest_bit, separate

__all__ = [
    "CAPITAL",
    "FOREIGN",
    "RULE_METACLIP",
    "RULE_SPACES",
    "RULE_WORDS",
    "SHORT",
    "Bytes",
    "Ints",
    "Longs",
    "Rule",
    "Tokens",
    "Words",
    "cut_ascii",
    "cut_spaces",
    "cut_words",
    "fold8",
    "join_hashes",
    "spell",
]

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

RULE_WORDS, RULE_METACLIP, RULE_SPACES = 0, 1, 2
"""How to cut: by words; by the published rule; by single spaces only (queries under the published rule)."""

SHORT, CAPITAL, FOREIGN = 1, 2, 4
"""Marks of a token: its hash is a bijection; it has a capital; it has letters beyond ASCII."""

# Odd multipliers of splitmix64 and MurmurHash3; any odd constants with well-mixed bits would do.
_A = np.uint64(0x9E3779B97F4A7C15)
_B = np.uint64(0xD6E8FEB86659FD93)
_C = np.uint64(0xBF58476D1CE4E5B9)
_S1, _S3, _S29, _S32, _S56 = (np.uint64(s) for s in (1, 3, 29, 32, 56))
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_LETTER_BITS = np.uint64(0x4040404040404040)


class Rule(NamedTuple):
    """How texts are cut, folded and hashed."""

    cut: int
    """One of RULE_WORDS and its fellows."""
    fold_bits: np.uint64
    """What tells a letter from a digit in each of eight bytes; zero where case counts."""
    hash_mask: np.uint64
    """All ones, but for tests that weaken the hash."""
    check_settled: bool
    """Whether to leave texts alone that may not be in normal form."""
    classes: Bytes
    """uint8[code points] and int32[code points], as in `characters.py`; of one entry where the rule has no words."""
    folds: Ints


class Tokens(NamedTuple):
    """Room for the tokens of the longest text, which has two for every byte and one at the end, at most."""

    hashes: Words
    starts: Longs
    ends: Longs
    marks: Bytes
    letters: Bytes
    """Of one token, spelt anew; folding makes a letter longer by half at most."""


@inlined
def _mix(x: np.uint64) -> np.uint64:
    """A bijection of 64 bits that leaves zero where it is."""
    x = np.uint64((x ^ (x >> _S32)) * _C)
    x = np.uint64((x ^ (x >> _S29)) * _B)
    return np.uint64(x ^ (x >> _S32))


@inlined
def _sealed(state: np.uint64, hash_mask: np.uint64) -> np.uint64:
    """Zero marks an empty slot, so no state may be zero. (A short token's never is: see _hash.)"""
    state = np.uint64(state & hash_mask)
    return state if state != _ZERO else _ONE


@inlined
def join_hashes(state: np.uint64, token: np.uint64, hash_mask: np.uint64) -> np.uint64:
    """The state behind one more token: the hash of a sequence of tokens."""
    return np.uint64(_sealed(_mix(np.uint64(state * _A) ^ token), hash_mask))


@inlined
def fold8(word: np.uint64, fold_bits: np.uint64) -> np.uint64:
    """Lower-case eight ASCII letters and digits (fold_bits = _LETTER_BITS), or nothing (zero)."""
    return np.uint64(word | ((word & fold_bits) >> _S1))


@inlined
def _hash(source: Bytes, at: Any, length: Any, fold_bits: np.uint64, hash_mask: np.uint64) -> tuple[Any, Any]:
    """(uint64, int64): hash and marks of the token whose bytes are source[at:at+length]."""
    marks = 0
    n = np.uint64(length)
    capitals = _ZERO
    if length < 8:
        # Seven bytes and the length, never zero: a bijection, as _mix is one.
        word = load8(source, at) & np.uint64((_ONE << (n << _S3)) - _ONE)
        capitals = word & _LETTER_BITS & ~(word << _S1)
        h = _mix(fold8(word, fold_bits) | ((n + _ONE) << _S56))
        marks = SHORT
    else:
        h = np.uint64(n * _B)
        for i in range(at, at + length - 8, 8):
            word = load8(source, i)
            capitals |= word & _LETTER_BITS & ~(word << _S1)
            h = np.uint64(_mix(h ^ fold8(word, fold_bits)) * _A)
        word = load8(source, at + length - 8)
        capitals |= word & _LETTER_BITS & ~(word << _S1)
        h = _mix(h ^ fold8(word, fold_bits))
    return _sealed(h, hash_mask), marks | (CAPITAL if capitals != _ZERO else 0)


@inlined
def _add(tokens: Tokens, count: Any, token_hash: np.uint64, marks: Any, start: Any, end: Any) -> Any:
    """Append a token that spans start..end of the text; returns how many there are."""
    tokens.hashes[count] = token_hash
    tokens.starts[count] = start
    tokens.ends[count] = end
    tokens.marks[count] = marks
    return count + 1


@inlined
def _decode(data: Bytes, i: Any) -> tuple[Any, Any]:
    """The code point at byte `i` of valid UTF-8, and the index after it."""
    c = np.int64(data[i])
    if c < 0x80:
        return c, i + 1
    if c < 0xE0:
        return ((c & 0x1F) << 6) | (np.int64(data[i + 1]) & 0x3F), i + 2
    if c < 0xF0:
        return ((c & 0x0F) << 12) | ((np.int64(data[i + 1]) & 0x3F) << 6) | (np.int64(data[i + 2]) & 0x3F), i + 3
    return (
        ((c & 0x07) << 18)
        | ((np.int64(data[i + 1]) & 0x3F) << 12)
        | ((np.int64(data[i + 2]) & 0x3F) << 6)
        | (np.int64(data[i + 3]) & 0x3F)
    ), i + 4


@part
def spell(data: Bytes, i: Any, end: Any, rule: Rule, fold: bool, letters: Bytes) -> Any:
    """Write data[i:end] to `letters` without ignored characters, folded or not; returns the number of bytes."""
    n = 0
    while i < end:
        point, i = _decode(data, i)
        if rule.classes[point] & KIND == IGNORED:
            continue
        if fold:
            point = np.int64(rule.folds[point])
        if point < 0x80:
            letters[n] = point
            n += 1
            continue
        if point < 0x800:
            letters[n] = 0xC0 | (point >> 6)
        else:
            if point < 0x10000:
                letters[n] = 0xE0 | (point >> 12)
            else:
                letters[n] = 0xF0 | (point >> 18)
                n += 1
                letters[n] = 0x80 | ((point >> 12) & 0x3F)
            n += 1
            letters[n] = 0x80 | ((point >> 6) & 0x3F)
        n += 1
        letters[n] = 0x80 | (point & 0x3F)
        n += 1
    return n


@inlined
def cut_ascii(data: Bytes, begin: Any, end: Any, rule: Rule, tokens: Tokens) -> Any:
    """The number of words in data[begin:end], which go to `tokens`; -1 if not all of it is ASCII."""
    count = 0
    inside = False
    start = begin
    for base in range(begin, end + 1, 64):
        word, beyond = classify(data, base)
        if end - base < 64:
            kept = np.uint64((_ONE << np.uint64(end - base)) - _ONE)
            word &= kept
            beyond &= kept
        if beyond != _ZERO:
            return -1
        edges = word ^ np.uint64((word << _S1) | (_ONE if inside else _ZERO))
        while edges != _ZERO:
            at = base + lowest_bit(edges)
            edges &= np.uint64(edges - _ONE)
            if inside:
                token, marks = _hash(data, start, at - start, rule.fold_bits, rule.hash_mask)
                count = _add(tokens, count, token, marks, start, at)
            inside = not inside
            start = at
    return count


@part
def cut_words(data: Bytes, begin: Any, end: Any, rule: Rule, tokens: Tokens) -> Any:
    """The same for any text, character by character; -1 if it may not be in NFC."""
    count = 0
    i = begin
    start = begin
    inside = single = foreign = False
    while True:
        kind = np.uint8(BOUNDARY)
        after = i + 1
        if i < end:
            point, after = _decode(data, i)
            kind = rule.classes[point]
            if rule.check_settled and kind & UNSETTLED:
                return -1
            kind &= np.uint8(KIND)
            if kind == IGNORED:
                foreign = True
                i = after
                continue
        if inside and (kind in (BOUNDARY, SINGLE) or (single and kind != MARK)):
            inside = False
            if foreign:
                n = spell(data, start, i, rule, True, tokens.letters)
                token, marks = _hash(tokens.letters, 0, n, _ZERO, rule.hash_mask)
                count = _add(tokens, count, token, marks | FOREIGN | CAPITAL, start, i)
            else:
                token, marks = _hash(data, start, i - start, rule.fold_bits, rule.hash_mask)
                count = _add(tokens, count, token, marks, start, i)
        if i >= end:
            return count
        if kind != BOUNDARY:
            if not inside:
                inside = True
                single = kind == SINGLE
                foreign = False
                start = i
            foreign |= after > i + 1
        i = after


@inlined
def cut_spaces(data: Bytes, begin: Any, end: Any, wrap: bool, rule: Rule, tokens: Tokens) -> Any:
    """The same for the tokens between single spaces, empty ones included; wrapped marks are tokens if `wrap`."""
    count = 0
    start = begin
    for base in range(begin, end + 1, 64):
        spaces, wrapped = separate(data, base)
        if end - base < 64:
            close = np.uint64(_ONE << np.uint64(end - base))  # the text's end separates as a space does
            spaces = (spaces & np.uint64(close - _ONE)) | close
            wrapped &= np.uint64(close - _ONE)
        if not wrap:
            wrapped = _ZERO
        edges = spaces | wrapped
        while edges != _ZERO:
            bit = lowest_bit(edges)
            at = base + bit
            edges &= np.uint64(edges - _ONE)
            token, marks = _hash(data, start, at - start, _ZERO, rule.hash_mask)
            count = _add(tokens, count, token, marks, start, at)
            start = at + 1
            if (wrapped >> np.uint64(bit)) & _ONE != _ZERO:  # " mark ": another token begins behind its second space
                token, marks = _hash(data, at, 1, _ZERO, rule.hash_mask)
                count = _add(tokens, count, token, marks, at, at + 1)
    return count
