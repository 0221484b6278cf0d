"""The compiled loops of the matcher: cut texts into tokens, walk the trie, check the hits.

    text --tokens.py--> hashes --trie--> hits --letters compared--> query ids, sorted

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

from typing import Any, NamedTuple

import numpy as np

from pipeline.compiled.declare import inlined, kernel, part
from pipeline.matching.tokens import (
    FOREIGN,
    RULE_METACLIP,
    RULE_SPACES,
    RULE_WORDS,
    SHORT,
    Bytes,
    Ints,
    Longs,
    Rule,
    Tokens,
    Words,
    cut_ascii,
    cut_spaces,
    cut_words,
    fold8,
    join_hashes,
    spell,
)
from pipeline.matching.vectors import fill16, load8, prefetch, rank16, separate

__all__ = [
    "BLOOM_WORDS",
    "HEADER_WORDS",
    "MAX_RANKED",
    "MAX_RECORD_WORDS",
    "RULE_METACLIP",
    "RULE_SPACES",
    "RULE_WORDS",
    "SLOT_WORDS",
    "Found",
    "Rule",
    "Texts",
    "Tokens",
    "Trie",
    "Walk",
    "fill",
    "run",
]

_BLOOM_BITS = 16
BLOOM_WORDS = 1 << _BLOOM_BITS
"""64-bit words of the Bloom filter: 512 KiB, half of a usual second-level cache."""

MAX_RANKED = 64
"""Texts with more matches than this are sorted the usual way."""
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

_S3, _S32 = np.uint64(3), np.uint64(32)
_BLOOM_SHIFT, _BIT_SHIFT = np.uint64(64 - _BLOOM_BITS), np.uint64(58 - _BLOOM_BITS)
_BITS6 = np.uint64(63)
_ZERO, _ONE, _EIGHT, _ALL = np.uint64(0), np.uint64(1), np.uint64(8), np.uint64(0xFFFFFFFFFFFFFFFF)


class Texts(NamedTuple):
    """UTF-8 end to end; text i is data[offsets[i]:offsets[i + 1]], and 64 bytes follow the last."""

    data: Bytes
    offsets: Longs


class Trie(NamedTuple):
    """The query list: slots uint64[SLOT_WORDS * capacity] with an even capacity, bloom uint64[BLOOM_WORDS], records
    uint64[..]."""

    slots: Words
    bloom: Words
    records: Words


class Walk(NamedTuple):
    """Room for the ways of one text through the trie, one for each of its tokens at most."""

    states: Words
    paths: Longs
    hits: Longs
    hit_paths: Longs
    ranks: Ints
    """int32[2 * MAX_RANKED]."""


class Found(NamedTuple):
    """The queries of text i are queries[offsets[i]:offsets[i + 1]], ascending, each once."""

    offsets: Longs
    queries: Ints
    unsettled: Bytes
    """1 for texts that must be brought to normal form first; they get no queries."""


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
def _equal(source: Bytes, at: Any, length: Any, fold_bits: np.uint64, letters: Words, p: Any) -> bool:
    """Whether source[at:at+length], folded, is bytes p..p+length of `letters`."""
    n = length
    while n >= 8:
        if fold8(load8(source, at), fold_bits) != load8(letters, p):
            return False
        at += 8
        p += 8
        n -= 8
    rest = np.uint64((_ONE << np.uint64(8 * n)) - _ONE)
    return bool((fold8(load8(source, at), fold_bits) ^ load8(letters, p)) & rest == _ZERO)


@part
def _same_letters(data: Bytes, first: Any, last: Any, rule: Rule, tokens: Tokens, records: Words, place: Any) -> bool:
    """Whether tokens first..last of the text, joined by single spaces, are the letters of a record."""
    length_word = records[place + 1]
    as_written = length_word >> _S32 != _ZERO
    fold_bits = _ZERO if as_written else rule.fold_bits
    p = 8 * (place + HEADER_WORDS)
    stop = p + np.int64(length_word & _LOW32)
    for k in range(first, last + 1):
        if k > first:
            if p >= stop or load8(records, p) & np.uint64(0xFF) != np.uint64(32):
                return False
            p += 1
        start = tokens.starts[k]
        if tokens.marks[k] & FOREIGN:
            n = spell(data, start, tokens.ends[k], rule, not as_written, tokens.letters)
            if p + n > stop or not _equal(tokens.letters, 0, n, _ZERO, records, p):
                return False
        else:
            n = tokens.ends[k] - start
            if p + n > stop or not _equal(data, start, n, fold_bits, records, p):
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
    first = (fold8(load8(data, start), fold_bits) ^ slots[at + 2]) & (_ALL >> ((_EIGHT - low) << _S3))
    rest = (fold8(load8(data, start + 8), fold_bits) ^ slots[at + 3]) & np.uint64((_ONE << ((n - low) << _S3)) - _ONE)
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
def _sort_unique(out: Ints, begin: Any, end: Any, ranks: Ints) -> Any:
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
        fill16(ranks, 4 * base, _FREE)
        rank16(out, 4 * (begin + base), 4 * begin, size, ranks, 4 * (MAX_RANKED + base))
    for i in range(size):
        ranks[ranks[MAX_RANKED + i]] = out[begin + i]
    kept = begin
    for i in range(size):
        value = ranks[i]
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
def fill(texts: Texts, rule: Rule, places: Longs, tokens: Tokens, trie: Trie) -> int:
    """Enter every query that has a record into `trie`, whose slots are zeros; returns the number of states.

    `places` int64[Q] are those of their records, -1 for queries that are left out.
    """
    slots, bloom, records = trie
    hash_mask = rule.hash_mask
    used = 0
    # Later records go to the front of their chain, so that those as written are behind all others.
    for as_written in (1, 0):
        for q in range(len(texts.offsets) - 1):
            place = places[q]
            if place < 0 or np.int64(records[place + 1] >> _S32) != as_written:
                continue
            begin, end = texts.offsets[q], texts.offsets[q + 1]
            if rule.cut == RULE_WORDS:
                count = cut_words(texts.data, begin, end, rule, tokens)
            else:
                count = cut_spaces(texts.data, begin, end, False, rule, tokens)
            state = tokens.hashes[0]
            at = 0
            for k in range(count):
                if k > 0:
                    state = join_hashes(state, tokens.hashes[k], hash_mask)
                    bloom[np.int64(state >> _BLOOM_SHIFT)] |= _ONE << ((state >> _BIT_SHIFT) & _BITS6)
                at = _find_slot(slots, state)
                used += slots[at] == _ZERO
                slots[at] = state
                if k < count - 1:
                    slots[at + 1] |= _ONE << _MORE
            entry = slots[at + 1]
            # Under a weakened hash nothing is a bijection.
            bijective = count == 1 and tokens.marks[0] & SHORT and hash_mask == _ALL
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
    texts: Texts, rule: Rule, trie: Trie, tokens: Tokens, walk: Walk, first_text: int, stop_text: int, found: Found
) -> int:
    """Match texts first_text..stop_text-1; returns where it stopped, before `stop_text` if there is no more room in
    `found`."""
    # By their own names, which the inner loops are full of.
    data, offsets = texts
    slots, bloom, records = trie
    hashes, starts, ends, marks, _ = tokens
    states, paths, hits, hit_paths, ranks = walk
    out_offsets, out, unsettled = found
    fold_bits, hash_mask = rule.fold_bits, rule.hash_mask
    first_out = written = np.int64(out_offsets[first_text])
    for t in range(first_text, stop_text):
        begin, end = offsets[t], offsets[t + 1]
        if rule.cut == RULE_WORDS:
            count = cut_ascii(data, begin, end, rule, tokens)
            if count < 0:
                count = cut_words(data, begin, end, rule, tokens)
                if count < 0:
                    unsettled[t] = 1
        else:
            count = cut_spaces(data, begin, end, True, rule, tokens)
        for k in range(count):
            states[k] = hashes[k]
            prefetch(slots, 8 * _home(hashes[k], np.uint64(len(slots) // _LINE_WORDS)))
            paths[k] = 2 * k
        # The text before is sorted only now, while the slots are on their way.
        written = _sort_unique(out, first_out, written, ranks)
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
                    written += (direct != 0) & (marks[j] & SHORT)
                hits[num_hits] = at
                hit_paths[num_hits] = 2 * s + capital
                link = np.int64((entry >> _FIRST) & _LINK_MASK)
                num_hits += (link != 0) & (capital | ~link) & 1
                # Ask for the record, unless the slot holds all there is to know (then for what is there already).
                elsewhere = (entry >> _INLINE) & _INLINE_MASK == _ZERO
                prefetch(records, 8 * ((link >> 1) - 1) if elsewhere else 0)
                state = join_hashes(state, hashes[j + 1], hash_mask)
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
                    is_found = rule.cut == RULE_WORDS and _is_spelt(
                        data, starts[s], ends[s + depth] - starts[s], fold_bits, records, place
                    )
                    if not is_found and (depth > 0 or rule.cut != RULE_WORDS or marks[s] & FOREIGN):
                        is_found = _same_letters(data, s, s + depth, rule, tokens, records, place)
                    if is_found:
                        if written + 32 >= len(out):
                            return t
                        out[written] = np.int64(records[place] & _LOW32)
                        written += 1
                    link = np.int64(records[place] >> _S32)
            num_paths = next_paths
            depth += 1
    out_offsets[stop_text] = _sort_unique(out, first_out, written, ranks)
    return stop_text
