"""The compiled loops of the matcher: cut texts into tokens, hash them, walk the trie, check the hits.

    64 bytes --classify--> bit masks --> token edges --8 bytes at a time--> hashes --trie--> query ids

The trie is one open-addressing table. A state is the 64-bit hash of a token sequence; its slot says what ends
there and whether longer queries begin with it (SLOT_WORDS). A Bloom filter small enough for the processor's
cache turns most continuations away before the table is touched.

No match rests on a hash. The hash of one token of at most seven bytes is a bijection of its bytes and length,
so equal hashes mean equal tokens, and the slot names that query directly. Every other query has a record with
its own letters, against which each hit is compared; sequences with one hash share a chain of records. The first
record of a chain stands in the slot itself where it is short, so that most hits touch no other memory.

Everything here is called by `matcher.py` only, which lets 64 bytes follow every text. Unsigned arithmetic
wraps, as in C. Words are little-endian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.compiled.declare import inlined, kernel, part
from pipeline.matching.characters import BOUNDARY, IGNORED, KIND, MARK, SINGLE, UNSETTLED
from pipeline.matching.vectors import classify, fill16, load8, lowest_bit, prefetch, rank16, separate

__all__ = [
    "BLOOM_WORDS",
    "HEADER_WORDS",
    "MAX_RANKED",
    "MAX_RECORD_WORDS",
    "RULE_METACLIP",
    "RULE_SPACES",
    "RULE_WORDS",
    "SLOT_WORDS",
    "fill",
    "run",
]

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

RULE_WORDS, RULE_METACLIP, RULE_SPACES = 0, 1, 2
"""How to cut: by words; by the published rule; by single spaces only (queries under the published rule)."""

_BLOOM_BITS = 16
BLOOM_WORDS = 1 << _BLOOM_BITS
"""64-bit words of the Bloom filter: 512 KiB, half of a usual second-level cache."""

MAX_RANKED = 64
"""Texts with more matches than this are sorted the usual way. `room` int32[2 * MAX_RANKED] serves the others."""
_FREE = np.int32(0x7FFFFFFF)  # above every query

HEADER_WORDS = 2
"""A record: query id | link to the chain's next record << 32; number of bytes | as written << 32; then the query's
UTF-8 bytes in whole words. Places count 64-bit words. Records as written are behind all others of a chain."""

SLOT_WORDS = 4
"""A slot, half a cache line; the table begins with a line. The state, zero where the slot is free; then, from the
low bits up, direct query + 1 (32 bits), link to the first record (27), its length if it stands here (4), longer
follow (1); its letters 1-8; its letters 9-12 (32 bits), whether it is as written (1), whether others follow it (1),
its query (30).
A link is twice (place + 1), plus 1 if that record's case counts; 0 for none."""

MAX_RECORD_WORDS = 1 << 26
"""All records together: what a link can reach."""
_MAX_INLINE = 12
_LINE_WORDS = 2 * SLOT_WORDS
_AS_WRITTEN, _CHAINED, _QUERY = np.uint64(1 << 32), np.uint64(1 << 33), np.uint64(34)
_LOW32 = np.uint64(0xFFFFFFFF)
_FIRST, _LINK_MASK = np.uint64(32), np.uint64(2 * MAX_RECORD_WORDS - 1)
_INLINE, _INLINE_MASK = np.uint64(59), np.uint64(15)
_MORE = np.uint64(63)
_KEPT = np.uint64(1 << 63 | 0xFFFFFFFF)  # what a new first record leaves of a slot's second word

# Flags of a token.
_SHORT, _CAPITAL, _FOREIGN = 1, 2, 4  # hash is a bijection; has a capital; has letters beyond ASCII

# Odd multipliers of splitmix64 and MurmurHash3; any odd constants with well-mixed bits would do.
_A = np.uint64(0x9E3779B97F4A7C15)
_B = np.uint64(0xD6E8FEB86659FD93)
_C = np.uint64(0xBF58476D1CE4E5B9)
_S1, _S3, _S29, _S32, _S56 = (np.uint64(s) for s in (1, 3, 29, 32, 56))
_BLOOM_SHIFT, _BIT_SHIFT = np.uint64(64 - _BLOOM_BITS), np.uint64(58 - _BLOOM_BITS)
_BITS6 = np.uint64(63)
_ZERO, _ONE, _EIGHT, _ALL = np.uint64(0), np.uint64(1), np.uint64(8), np.uint64(0xFFFFFFFFFFFFFFFF)
_LETTER_BITS = np.uint64(0x4040404040404040)


@inlined
def _mix(x: np.uint64) -> np.uint64:
    """A bijection of 64 bits that leaves zero where it is."""
    x = np.uint64((x ^ (x >> _S32)) * _C)
    x = np.uint64((x ^ (x >> _S29)) * _B)
    return np.uint64(x ^ (x >> _S32))


@inlined
def _sealed(state: np.uint64, hash_mask: np.uint64) -> np.uint64:
    """Zero marks an empty slot, so no state may be zero. (A short token's never is: see _add_token.)"""
    state = np.uint64(state & hash_mask)
    return state if state != _ZERO else _ONE


@inlined
def _home(state: np.uint64, lines: np.uint64) -> Any:
    """The first word of the cache line where the search for `state` begins."""
    return np.int64(((state >> _S32) * lines) >> _S32) * _LINE_WORDS


@inlined
def _find_slot(slots: Words, state: np.uint64) -> Any:
    """The first word of the slot of `state`, or of the free one where it would be."""
    at = _home(state, np.uint64(len(slots) // _LINE_WORDS))
    # Nearly always it is one of the two in its line; which of them cannot be foretold, so that is no branch.
    at += SLOT_WORDS * np.int64((slots[at] != state) & (slots[at] != _ZERO))
    while slots[at] != state and slots[at] != _ZERO:
        at += SLOT_WORDS
        if at == len(slots):
            at = 0
    return at


@inlined
def _next_state(state: np.uint64, token: np.uint64, hash_mask: np.uint64) -> np.uint64:
    return np.uint64(_sealed(_mix(np.uint64(state * _A) ^ token), hash_mask))


@inlined
def _fold8(word: np.uint64, fold_bits: np.uint64) -> np.uint64:
    """Lower-case eight ASCII letters and digits (fold_bits = _LETTER_BITS), or nothing (zero)."""
    return np.uint64(word | ((word & fold_bits) >> _S1))


@inlined
def _add_token(
    source: Bytes, at: Any, length: Any, flags: Any, start: Any, end: Any, fold_bits: np.uint64, hash_mask: np.uint64,
    count: Any, hashes: Words, starts: Longs, ends: Longs, marks: Bytes,
) -> Any:  # fmt: skip
    """Append the token whose bytes are source[at:at+length] and that spans start..end of the text."""
    n = np.uint64(length)
    capitals = _ZERO
    if length < 8:
        # Seven bytes and the length, never zero: a bijection, as _mix is one.
        word = load8(source, at) & np.uint64((_ONE << (n << _S3)) - _ONE)
        capitals = word & _LETTER_BITS & ~(word << _S1)
        h = _mix(_fold8(word, fold_bits) | ((n + _ONE) << _S56))
        flags |= _SHORT
    else:
        h = np.uint64(n * _B)
        for i in range(at, at + length - 8, 8):
            word = load8(source, i)
            capitals |= word & _LETTER_BITS & ~(word << _S1)
            h = np.uint64(_mix(h ^ _fold8(word, fold_bits)) * _A)
        word = load8(source, at + length - 8)
        capitals |= word & _LETTER_BITS & ~(word << _S1)
        h = _mix(h ^ _fold8(word, fold_bits))
    h = _sealed(h, hash_mask)
    hashes[count] = h
    starts[count] = start
    ends[count] = end
    marks[count] = flags | (_CAPITAL if capitals != _ZERO else 0)
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
def _spell(data: Bytes, i: Any, end: Any, classes: Bytes, folds: Ints, fold: bool, scratch: Bytes) -> Any:
    """Write data[i:end] to `scratch` without ignored characters, folded or not; returns the number of bytes."""
    n = 0
    while i < end:
        point, i = _decode(data, i)
        if classes[point] & KIND == IGNORED:
            continue
        if fold:
            point = np.int64(folds[point])
        if point < 0x80:
            scratch[n] = point
            n += 1
            continue
        if point < 0x800:
            scratch[n] = 0xC0 | (point >> 6)
        else:
            if point < 0x10000:
                scratch[n] = 0xE0 | (point >> 12)
            else:
                scratch[n] = 0xF0 | (point >> 18)
                n += 1
                scratch[n] = 0x80 | ((point >> 12) & 0x3F)
            n += 1
            scratch[n] = 0x80 | ((point >> 6) & 0x3F)
        n += 1
        scratch[n] = 0x80 | (point & 0x3F)
        n += 1
    return n


@inlined
def _cut_ascii(
    data: Bytes, begin: Any, end: Any, fold_bits: np.uint64, hash_mask: np.uint64,
    hashes: Words, starts: Longs, ends: Longs, marks: Bytes,
) -> Any:  # fmt: skip
    """Fill hashes, starts, ends and marks with the words of data[begin:end]; -1 if not all of it is ASCII."""
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
                count = _add_token(
                    data, start, at - start, 0, start, at, fold_bits, hash_mask,
                    count, hashes, starts, ends, marks,
                )  # fmt: skip
            inside = not inside
            start = at
    return count


@part
def _cut_words(
    data: Bytes, begin: Any, end: Any, fold_bits: np.uint64, hash_mask: np.uint64,
    classes: Bytes, folds: Ints, check_settled: bool, scratch: Bytes,
    hashes: Words, starts: Longs, ends: Longs, marks: Bytes,
) -> Any:  # fmt: skip
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
            kind = classes[point]
            if check_settled and kind & UNSETTLED:
                return -1
            kind &= np.uint8(KIND)
            if kind == IGNORED:
                foreign = True
                i = after
                continue
        if inside and (kind in (BOUNDARY, SINGLE) or (single and kind != MARK)):
            inside = False
            if foreign:
                n = _spell(data, start, i, classes, folds, True, scratch)
                count = _add_token(
                    scratch, 0, n, _FOREIGN | _CAPITAL, start, i, _ZERO, hash_mask,
                    count, hashes, starts, ends, marks,
                )  # fmt: skip
            else:
                count = _add_token(
                    data, start, i - start, 0, start, i, fold_bits, hash_mask,
                    count, hashes, starts, ends, marks,
                )  # fmt: skip
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
def _cut_spaces(
    data: Bytes, begin: Any, end: Any, wrap: bool, hash_mask: np.uint64,
    hashes: Words, starts: Longs, ends: Longs, marks: Bytes,
) -> Any:  # fmt: skip
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
            count = _add_token(
                data, start, at - start, 0, start, at, _ZERO, hash_mask,
                count, hashes, starts, ends, marks,
            )  # fmt: skip
            start = at + 1
            if (wrapped >> np.uint64(bit)) & _ONE != _ZERO:  # " mark ": another token begins behind its second space
                count = _add_token(
                    data, at, 1, 0, at, at + 1, _ZERO, hash_mask,
                    count, hashes, starts, ends, marks,
                )  # fmt: skip
    return count


@inlined
def _equal(source: Bytes, at: Any, length: Any, fold_bits: np.uint64, letters: Words, p: Any) -> bool:
    """Whether source[at:at+length], folded, is bytes p..p+length of `letters`."""
    n = length
    while n >= 8:
        if _fold8(load8(source, at), fold_bits) != load8(letters, p):
            return False
        at += 8
        p += 8
        n -= 8
    rest = np.uint64((_ONE << np.uint64(8 * n)) - _ONE)
    return bool((_fold8(load8(source, at), fold_bits) ^ load8(letters, p)) & rest == _ZERO)


@part
def _same_letters(
    data: Bytes, first: Any, last: Any, starts: Longs, ends: Longs, marks: Bytes, fold_bits: np.uint64,
    classes: Bytes, folds: Ints, scratch: Bytes, records: Words, place: Any,
) -> bool:  # fmt: skip
    """Whether tokens first..last of the text, joined by single spaces, are the letters of a record."""
    length_word = records[place + 1]
    as_written = length_word >> _S32 != _ZERO
    if as_written:
        fold_bits = _ZERO
    p = 8 * (place + HEADER_WORDS)
    stop = p + np.int64(length_word & _LOW32)
    for k in range(first, last + 1):
        if k > first:
            if p >= stop or load8(records, p) & np.uint64(0xFF) != np.uint64(32):
                return False
            p += 1
        if marks[k] & _FOREIGN:
            n = _spell(data, starts[k], ends[k], classes, folds, not as_written, scratch)
            if p + n > stop or not _equal(scratch, 0, n, _ZERO, records, p):
                return False
        else:
            n = ends[k] - starts[k]
            if p + n > stop or not _equal(data, starts[k], n, fold_bits, records, p):
                return False
        p += n
    return bool(p == stop)


@inlined
def _is_inline(data: Bytes, start: Any, length: Any, fold_bits: np.uint64, slots: Words, at: Any) -> bool:
    """Whether data[start:start+length] is, byte by byte, the query whose letters the slot itself holds.

    "No" is not final: other white space may part the same words. "Yes" is, beyond ASCII too: folding bits makes
    the first byte of a two-byte character that of a longer one, which no query has before one such byte only.
    """
    if length == 0 or np.int64((slots[at + 1] >> _INLINE) & _INLINE_MASK) != length:
        return False
    if slots[at + 3] & _AS_WRITTEN != _ZERO:
        fold_bits = _ZERO
    n = np.uint64(length)
    low = min(n, _EIGHT)
    first = (_fold8(load8(data, start), fold_bits) ^ slots[at + 2]) & (_ALL >> ((_EIGHT - low) << _S3))
    rest = (_fold8(load8(data, start + 8), fold_bits) ^ slots[at + 3]) & np.uint64((_ONE << ((n - low) << _S3)) - _ONE)
    return bool(first | rest == _ZERO)


@inlined
def _is_spelt(data: Bytes, start: Any, length: Any, fold_bits: np.uint64, records: Words, place: Any) -> bool:
    """Whether data[start:start+length] is, byte by byte, the letters of a record; "no" is not final, see above."""
    length_word = records[place + 1]
    if length_word & _LOW32 != np.uint64(length):
        return False
    if length_word >> _S32 != _ZERO:
        fold_bits = _ZERO
    return bool(_equal(data, start, length, fold_bits, records, 8 * (place + HEADER_WORDS)))


@inlined
def _sort_unique(out: Ints, begin: Any, end: Any, room: Ints) -> Any:
    """Sort out[begin:end] and drop repetitions; returns the new end. Overwrites 16 entries behind `end`."""
    size = end - begin
    if size > MAX_RANKED:
        _shell_sort(out, begin, end)
        last = np.int32(-1)
        kept = begin
        for i in range(begin, end):
            value = out[i]
            out[kept] = value
            kept += value != last
            last = value
        return kept
    # Each entry's place is the number of smaller ones: no branch depends on the entries. Equal entries share a
    # place, and leave those behind it free.
    fill16(out, 4 * end, _FREE)
    for base in range(0, size, 16):
        fill16(room, 4 * base, _FREE)
        rank16(out, 4 * (begin + base), 4 * begin, size, room, 4 * (MAX_RANKED + base))
    for i in range(size):
        room[room[MAX_RANKED + i]] = out[begin + i]
    kept = begin
    for i in range(size):
        value = room[i]
        out[kept] = value
        kept += value != _FREE
    return kept


@part
def _shell_sort(out: Ints, begin: Any, end: Any) -> None:
    gap = 1
    while 9 * gap < end - begin:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(begin + gap, end):
            value = out[i]
            j = i
            while j >= begin + gap and out[j - gap] > value:
                out[j] = out[j - gap]
                j -= gap
            out[j] = value
        gap //= 3


@kernel
def fill(
    rule: int, data: Bytes, offsets: Longs, classes: Bytes, folds: Ints, fold_bits: np.uint64, hash_mask: np.uint64,
    record_places: Longs, records: Words, slots: Words, bloom: Words,
    scratch: Bytes, hashes: Words, starts: Longs, ends: Longs, marks: Bytes,
) -> int:  # fmt: skip
    """Enter every query of data/offsets that has a record; returns the number of states.

    `slots` uint64[SLOT_WORDS * capacity], zeros, with an even capacity; `record_places` int64[Q], -1 for
    queries that are left out.
    """
    used = 0
    # Later records go to the front of their chain, so that those as written are behind all others.
    for as_written in (1, 0):
        for q in range(len(offsets) - 1):
            place = record_places[q]
            if place < 0 or np.int64(records[place + 1] >> _S32) != as_written:
                continue
            begin, end = offsets[q], offsets[q + 1]
            if rule == RULE_WORDS:
                count = _cut_words(
                    data, begin, end, fold_bits, hash_mask, classes, folds, False, scratch,
                    hashes, starts, ends, marks,
                )  # fmt: skip
            else:
                count = _cut_spaces(data, begin, end, False, hash_mask, hashes, starts, ends, marks)
            state = hashes[0]
            at = 0
            for k in range(count):
                if k > 0:
                    state = _next_state(state, hashes[k], hash_mask)
                    bloom[np.int64(state >> _BLOOM_SHIFT)] |= _ONE << ((state >> _BIT_SHIFT) & _BITS6)
                at = _find_slot(slots, state)
                used += slots[at] == _ZERO
                slots[at] = state
                if k < count - 1:
                    slots[at + 1] |= _ONE << _MORE
            entry = slots[at + 1]
            # Under a weakened hash nothing is a bijection.
            bijective = count == 1 and marks[0] & _SHORT and hash_mask == _ALL
            if bijective and not as_written and entry & _LOW32 == _ZERO:
                slots[at + 1] = entry | np.uint64(q + 1)
                continue
            next_link = (entry >> _FIRST) & _LINK_MASK
            records[place] |= next_link << _S32
            link = np.uint64(2 * place + 2) | np.uint64(as_written)
            entry = (entry & _KEPT) | (link << _FIRST)
            length = records[place + 1] & _LOW32
            # A mark that stands in the text may have more tokens around it than the same mark in a query.
            _, wrapped = separate(records, 8 * (place + HEADER_WORDS))
            if length <= np.uint64(_MAX_INLINE) and wrapped & np.uint64((_ONE << length) - _ONE) == _ZERO:
                entry |= length << _INLINE
                slots[at + 2] = records[place + HEADER_WORDS]
                rest = records[place + HEADER_WORDS + 1] if length > _EIGHT else _ZERO
                chained = _CHAINED if next_link != _ZERO else _ZERO
                slots[at + 3] = rest | (np.uint64(as_written) << _S32) | chained | (np.uint64(q) << _QUERY)
            slots[at + 1] = entry
    return used


@kernel
def run(
    rule: int, data: Bytes, offsets: Longs, classes: Bytes, folds: Ints, fold_bits: np.uint64, hash_mask: np.uint64,
    check_settled: bool, slots: Words, bloom: Words, records: Words,
    scratch: Bytes, hashes: Words, starts: Longs, ends: Longs, marks: Bytes,
    room: Ints, states: Words, paths: Longs, hits: Longs, hit_paths: Longs,
    first_text: int, stop_text: int, out_offsets: Longs, out: Ints, unsettled: Bytes,
) -> int:  # fmt: skip
    """Match texts first_text..stop_text-1; returns where it stopped, before `stop_text` if `out` is full.

    `out` int32[..] receives each text's queries, ascending, each once; `out_offsets` int64[N + 1].
    `unsettled` uint8[N] becomes 1 for texts that must be brought to NFC first; they get no queries.
    """
    first_out = written = np.int64(out_offsets[first_text])
    for t in range(first_text, stop_text):
        begin, end = offsets[t], offsets[t + 1]
        if rule == RULE_WORDS:
            count = _cut_ascii(data, begin, end, fold_bits, hash_mask, hashes, starts, ends, marks)
            if count < 0:
                count = _cut_words(
                    data, begin, end, fold_bits, hash_mask, classes, folds, check_settled, scratch,
                    hashes, starts, ends, marks,
                )  # fmt: skip
                if count < 0:
                    unsettled[t] = 1
        else:
            count = _cut_spaces(data, begin, end, True, hash_mask, hashes, starts, ends, marks)
        for k in range(count):
            states[k] = hashes[k]
            prefetch(slots, 8 * _home(hashes[k], np.uint64(len(slots) // _LINE_WORDS)))
            paths[k] = 2 * k
        # The text before is sorted only now, while the slots are on their way.
        written = _sort_unique(out, first_out, written, room)
        out_offsets[t] = written
        first_out = written
        if written + count + 32 > len(out):
            return t
        num_paths = count
        depth = 0
        while num_paths > 0:
            # One level of the trie for all paths at once: without branches, so that the loads overlap.
            next_paths = 0
            num_hits = 0
            for c in range(num_paths):
                state = states[c]
                s = paths[c] >> 1
                j = s + depth
                capital = (paths[c] & 1) | ((marks[j] >> 1) & 1)
                at = _find_slot(slots, state)
                entry = slots[at + 1]  # zero in a free slot
                direct = np.int64(entry & _LOW32)
                if depth == 0:
                    out[written] = direct - 1
                    written += (direct != 0) & (marks[j] & _SHORT)
                hits[num_hits] = at
                hit_paths[num_hits] = 2 * s + capital
                link = np.int64((entry >> _FIRST) & _LINK_MASK)
                num_hits += (link != 0) & (capital | ~link) & 1
                # Ask for the record, unless the slot holds all there is to know (then for what is there already).
                elsewhere = (entry >> _INLINE) & _INLINE_MASK == _ZERO
                prefetch(records, 8 * ((link >> 1) - 1) if elsewhere else 0)
                state = _next_state(state, hashes[j + 1], hash_mask)
                bit = (bloom[np.int64(state >> _BLOOM_SHIFT)] >> ((state >> _BIT_SHIFT) & _BITS6)) & _ONE
                states[next_paths] = state
                paths[next_paths] = 2 * s + capital
                next_paths += np.int64((entry >> _MORE) & bit) & (j + 1 < count)
            for c in range(next_paths):
                prefetch(slots, 8 * _home(states[c], np.uint64(len(slots) // _LINE_WORDS)))
            for c in range(num_hits):
                at = hits[c]
                s = hit_paths[c] >> 1
                capital = hit_paths[c] & 1
                link = np.int64((slots[at + 1] >> _FIRST) & _LINK_MASK)
                if _is_inline(data, starts[s], ends[s + depth] - starts[s], fold_bits, slots, at):
                    if written + 32 >= len(out):
                        return t
                    out[written] = np.int64(slots[at + 3] >> _QUERY)
                    written += 1
                    chained = slots[at + 3] & _CHAINED != _ZERO
                    link = np.int64(records[(link >> 1) - 1] >> _S32) if chained else np.int64(0)
                # Without a capital in the text no record as written matches.
                while link != 0 and (capital | ~link) & 1:
                    place = (link >> 1) - 1
                    # Among words a single space is one boundary; for the published rule's marks see `fill`.
                    found = rule == RULE_WORDS and _is_spelt(
                        data, starts[s], ends[s + depth] - starts[s], fold_bits, records, place
                    )
                    if not found and (depth > 0 or rule != RULE_WORDS or marks[s] & _FOREIGN):
                        found = _same_letters(
                            data, s, s + depth, starts, ends, marks, fold_bits, classes, folds, scratch, records, place
                        )
                    if found:
                        if written + 32 >= len(out):
                            return t
                        out[written] = np.int64(records[place] & _LOW32)
                        written += 1
                    link = np.int64(records[place] >> _S32)
            num_paths = next_paths
            depth += 1
    out_offsets[stop_text] = _sort_unique(out, first_out, written, room)
    return stop_text
