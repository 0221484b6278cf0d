"""The compiled loops of the matcher: cut texts into tokens, hash them, walk the trie, check the hits.

The trie is one open-addressing table. A state is the 64-bit hash of a token sequence; its slot holds the
first query that ends there (others follow in a chain) and whether longer queries begin with it. A Bloom
filter small enough for the processor's cache turns most continuations away before the table is touched.
Two sequences may share a hash: their queries then share a slot, and the check against the query's own
letters, made at every hit, tells them apart. So the result is exact whatever the hash does.

Everything here is called by `matcher.py` only. Unsigned 64-bit arithmetic wraps, as in C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from pipeline.matching.characters import BOUNDARY, IGNORED, KIND, MARK, SINGLE, UNSETTLED

__all__ = ["BLOOM_WORDS", "RULE_METACLIP", "RULE_SPACES", "RULE_WORDS", "fill", "run"]

F = TypeVar("F", bound=Callable[..., Any])
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

RULE_WORDS, RULE_METACLIP, RULE_SPACES = 0, 1, 2
"""How to cut: by words; by the published rule; by single spaces only (queries under the published rule)."""

BLOOM_WORDS = 1 << 17
"""64-bit words of the Bloom filter: 1 MiB, and 17 bits of the hash pick one."""

# Odd multipliers of splitmix64 and MurmurHash3; any odd constants with well-mixed bits would do.
_A = np.uint64(0x9E3779B97F4A7C15)
_B = np.uint64(0xD6E8FEB86659FD93)
_C = np.uint64(0xBF58476D1CE4E5B9)
_S8, _S29, _S32, _S41, _S47, _S64 = (np.uint64(s) for s in (8, 29, 32, 41, 47, 64))
_BITS6 = np.uint64(63)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_MORE = np.uint64(1 << 32)
_LOW32 = np.uint64(0xFFFFFFFF)


def _inline(function: F) -> F:
    return cast(F, numba.njit(inline="always")(function))


def _compiled(function: F) -> F:
    return cast(F, numba.njit(nogil=True, cache=True)(function))


@_inline
def _mix(x: np.uint64) -> np.uint64:
    x = np.uint64((x ^ (x >> _S32)) * _C)
    x = np.uint64((x ^ (x >> _S29)) * _B)
    return np.uint64(x ^ (x >> _S32))


@_inline
def _sealed(state: np.uint64, hash_mask: np.uint64) -> np.uint64:
    """Zero marks an empty slot, so no state may be zero."""
    state = np.uint64(state & hash_mask)
    return state if state != _ZERO else _ONE


@_inline
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


@_inline
def _cut_words(
    data: Bytes, begin: int, end: int, ascii_table: Bytes, classes: Bytes, folds: Ints, check_settled: bool,
    hashes: Hashes, starts: Longs, ends: Longs,
) -> int:  # fmt: skip
    """Fill hashes, starts and ends with the words of data[begin:end]; -1 if the text may not be in NFC.

    `ascii_table` uint8[256] maps a byte to its folded self, to 0 where it is a boundary, to 1 above ASCII.
    """
    count = 0
    i = begin
    inside = False
    single = False
    x = _A
    h = _ZERO
    shift = _ZERO
    while True:
        if i < end:
            folded = np.int64(ascii_table[data[i]])
            after = i + 1
            kind = np.uint8(1)  # WORD
            if folded <= 1:
                kind = np.uint8(BOUNDARY)
                if folded == 1:
                    point, after = _decode(data, i)
                    if check_settled and classes[point] & UNSETTLED:
                        return -1
                    kind = np.uint8(classes[point] & KIND)
                    if kind == IGNORED:
                        i = after
                        continue
                    folded = np.int64(folds[point])
        else:
            folded = np.int64(0)
            after = i + 1
            kind = np.uint8(BOUNDARY)
        if inside and (kind in (BOUNDARY, SINGLE) or (single and kind != MARK)):
            hashes[count] = _mix(np.uint64(np.uint64(x + shift) * _B) ^ h)
            ends[count] = i
            count += 1
            inside = False
        if i >= end:
            return count
        if kind != BOUNDARY:
            if not inside:
                inside = True
                single = kind == SINGLE
                starts[count] = i
                x = _A
                h = _ZERO
                shift = _ZERO
            if folded < 0x80:
                h |= np.uint64(folded) << shift
                shift += _S8
                if shift == _S64:
                    x = np.uint64(_mix(x ^ h) * _B)
                    h = _ZERO
                    shift = _ZERO
            else:
                x = np.uint64(_mix(x ^ h ^ (np.uint64(folded) << _S32)) * _B)
                h = _ZERO
                shift = _ZERO
        i = after


@_inline
def _cut_spaces(
    data: Bytes, begin: int, end: int, table: Bytes, hashes: Hashes, starts: Longs, ends: Longs
) -> int:  # fmt: skip
    """Fill hashes, starts and ends with the tokens between single spaces, empty ones included.

    `table` uint8[256]: 0 for a space (or what the rule makes one), 2 for a mark that the rule wraps in
    spaces, 1 for the rest.
    """
    count = 0
    i = begin
    start = begin
    x = _A
    h = _ZERO
    shift = _ZERO
    while True:
        kind = table[data[i]] if i < end else np.uint8(0)
        if kind == 1:
            h |= np.uint64(data[i]) << shift
            shift += _S8
            if shift == _S64:
                x = np.uint64(_mix(x ^ h) * _B)
                h = _ZERO
                shift = _ZERO
            i += 1
            continue
        hashes[count] = _mix(np.uint64(np.uint64(x + shift) * _B) ^ h)
        starts[count] = start
        ends[count] = i
        count += 1
        if i >= end:
            return count
        x = _A
        h = _ZERO
        shift = _ZERO
        if kind == 2:  # " mark ": the mark is a token, and another begins behind its second space
            hashes[count] = _mix(np.uint64(np.uint64(_A + _S8) * _B) ^ np.uint64(data[i]))
            starts[count] = i
            ends[count] = i + 1
            count += 1
        i += 1
        start = i


@_inline
def _same_letters(
    rule: int, data: Bytes, first: Any, last: Any, starts: Longs, ends: Longs, classes: Bytes, folds: Ints,
    fold: bool, records: Ints, p: Any, stop: Any,
) -> bool:  # fmt: skip
    """Whether tokens first..last of the text, joined by single spaces, are records[p:stop]."""
    for k in range(first, last + 1):
        if k > first:
            if p >= stop or records[p] != 32:
                return False
            p += 1
        i = starts[k]
        end = ends[k]
        while i < end:
            if rule == RULE_WORDS:
                point, i = _decode(data, i)
                if point >= 0x80 and classes[point] & KIND == IGNORED:
                    continue
                if fold:
                    point = np.int64(folds[point])
            else:
                point = np.int64(data[i])
                i += 1
            if p >= stop or records[p] != point:
                return False
            p += 1
    return bool(p == stop)


@_compiled
def fill(
    rule: int, data: Bytes, offsets: Longs, byte_table: Bytes, classes: Bytes, folds: Ints, hash_mask: np.uint64,
    record_offsets: Longs, records: Ints, slots: Hashes, bloom: Hashes, hashes: Hashes, starts: Longs, ends: Longs,
) -> int:  # fmt: skip
    """Enter every query of data/offsets that has a record; returns the number of states.

    `slots` uint64[2 * capacity], zeros: state, then (first record + 1) | more << 32. A query's record in
    `records` begins at `record_offsets[q]` (-1 for none): query id, offset of the slot's next record or -1,
    number of letters, 1 where case counts, letters. One record is one or two cache lines.
    """
    mask = np.int64(len(slots) // 2 - 1)
    used = 0
    for q in range(len(offsets) - 1):
        record = record_offsets[q]
        if record < 0:
            continue
        if rule == RULE_WORDS:
            count = _cut_words(
                data, offsets[q], offsets[q + 1], byte_table, classes, folds, False, hashes, starts, ends
            )  # fmt: skip
        else:
            count = _cut_spaces(data, offsets[q], offsets[q + 1], byte_table, hashes, starts, ends)
        state = _ZERO
        for k in range(count):
            state = hashes[k] if k == 0 else _mix(np.uint64(state * _A) ^ hashes[k])
            state = _sealed(state, hash_mask)
            bloom[np.int64(state >> _S47)] |= _ONE << ((state >> _S41) & _BITS6)
            slot = np.int64(state) & mask
            while slots[2 * slot] != _ZERO and slots[2 * slot] != state:
                slot = (slot + 1) & mask
            if slots[2 * slot] == _ZERO:
                slots[2 * slot] = state
                used += 1
            if k < count - 1:
                slots[2 * slot + 1] |= _MORE
                continue
            last = np.int64(slots[2 * slot + 1] & _LOW32) - 1
            if last < 0:
                slots[2 * slot + 1] |= np.uint64(record + 1)
            else:
                while records[last + 1] >= 0:
                    last = np.int64(records[last + 1])
                records[last + 1] = record
    return used


@_compiled
def run(
    rule: int, data: Bytes, offsets: Longs, byte_table: Bytes, classes: Bytes, folds: Ints, check_settled: bool,
    hash_mask: np.uint64, slots: Hashes, bloom: Hashes, records: Ints,
    hashes: Hashes, starts: Longs, ends: Longs, first_text: int, out_offsets: Longs, out: Ints, unsettled: Bytes,
) -> int:  # fmt: skip
    """Match every text from `first_text` on; returns the number of texts done, all unless `out` is full.

    `out` int32[..] receives each text's queries, ascending, each once; `out_offsets` int64[N + 1].
    `unsettled` uint8[N] becomes 1 for texts that must be brought to NFC first; they get no queries.
    """
    mask = np.int64(len(slots) // 2 - 1)
    written = np.int64(out_offsets[first_text])
    for t in range(first_text, len(offsets) - 1):
        if rule == RULE_WORDS:
            count = _cut_words(
                data, offsets[t], offsets[t + 1], byte_table, classes, folds, check_settled, hashes, starts, ends
            )  # fmt: skip
            if count < 0:
                unsettled[t] = 1
                count = 0
        else:
            count = _cut_spaces(data, offsets[t], offsets[t + 1], byte_table, hashes, starts, ends)
        first_out = written
        for s in range(count):
            state = _sealed(hashes[s], hash_mask)
            j = s
            while True:
                slot = np.int64(state) & mask
                while slots[2 * slot] != _ZERO and slots[2 * slot] != state:
                    slot = (slot + 1) & mask
                if slots[2 * slot] == _ZERO:
                    break
                entry = slots[2 * slot + 1]
                record = np.int64(entry & _LOW32) - 1
                while record >= 0:
                    letters = record + 4
                    if _same_letters(
                        rule, data, s, j, starts, ends, classes, folds, records[record + 3] == 0,
                        records, letters, letters + records[record + 2],
                    ):  # fmt: skip
                        q = records[record]
                        # Insertion keeps the text's queries ascending and unique; hits are few.
                        place = written
                        while place > first_out and out[place - 1] > q:
                            place -= 1
                        if place == first_out or out[place - 1] != q:
                            if written >= len(out):
                                return t
                            for move in range(written, place, -1):
                                out[move] = out[move - 1]
                            out[place] = q
                            written += 1
                    record = np.int64(records[record + 1])
                j += 1
                if entry & _MORE == _ZERO or j >= count:
                    break
                state = _sealed(_mix(np.uint64(state * _A) ^ hashes[j]), hash_mask)
                if (bloom[np.int64(state >> _S47)] >> ((state >> _S41) & _BITS6)) & _ONE == _ZERO:
                    break
        out_offsets[t + 1] = written
    return len(offsets) - 1
