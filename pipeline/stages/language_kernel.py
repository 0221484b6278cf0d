"""The compiled loop of the language identifier: words to their vectors, the mean, down the tree of labels.

    64 bytes --classify--> word edges --16 bytes as key--> cache of word vectors --> mean --> label, probability
                                          | not there
                                          `--> own row + rows of its n-grams of 2 to 4 characters

fastText adds up the rows of every word and n-gram of a text. Most words of a batch have been seen before in it, so
here a word's rows are added up first, kept under its letters (never a hash of them), and the words' sums are added
up then: the same number up to the rounding of its last bits, and always the same one, because the order of the
additions does not depend on what the cache holds.

Everything here is called by `language_model.py` only.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from pipeline.matching.vectors import add16, load8, lowest_bit, prefetch, white

__all__ = ["BUCKETS", "DIM", "MAX_N", "MIN_N", "Cache", "new_cache", "predict"]

CALLED = "d8f127b3b2ccf0e1"
"""State of the files whose functions are compiled into this one's, which numba does not look at; a test renews it."""

DIM = 16
BUCKETS = 2_000_000
MIN_N, MAX_N = 2, 4
"""What lid.176 was trained with; compiled in, `load_model` refuses a file with others."""

_CACHE_BITS = 18
MAX_KEPT = 15
"""Bytes of the longest word that the cache keeps."""
_KEY_BYTES, _SUM_BYTES = 16, 4 * DIM
_MAX_BLOCK_WORDS = 33  # that end in 64 bytes

# Odd multipliers of splitmix64 and MurmurHash3; any odd constants with well-mixed bits would do.
_A = np.uint64(0x9E3779B97F4A7C15)
_B = np.uint64(0xD6E8FEB86659FD93)
_PLACE_SHIFT = np.uint64(64 - _CACHE_BITS)
_ZERO, _ONE, _S3, _EIGHT, _S32, _S56 = (np.uint64(n) for n in (0, 1, 3, 8, 32, 56))
_ALL, _LETTERS = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0x00FFFFFFFFFFFFFF)

Cache = tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]


def new_cache() -> Cache:
    """Room for 262,144 words, empty, 20 MB. A word has one place, and takes it from whoever was there.

    Keys uint64[262144, 2]: 15 bytes of letters, then one with the number of rows; zeros where free. The sums of the
    rows float32[262144, 16], each in one cache line.
    """
    keys = np.zeros((1 << _CACHE_BITS, 2), np.uint64)
    room = np.empty((1 << _CACHE_BITS) * DIM + DIM, np.float32)
    first = -room.ctypes.data % _SUM_BYTES // room.itemsize
    return keys, room[first : first + (1 << _CACHE_BITS) * DIM].reshape(-1, DIM)


@numba.njit(forceinline=True)
def _step(value, byte):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """One byte of FNV-1a in 32 bits, with fastText's slip kept: bytes enter as signed characters."""
    extended = numba.uint32(byte)
    if byte >= 128:
        extended |= numba.uint32(0xFFFFFF00)
    return numba.uint32((value ^ extended) * numba.uint32(16_777_619))


@numba.njit(forceinline=True)
def _p_right(hidden, weights, node):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Probability that the label lies to the right of inner node number `node`."""
    a = b = c = e = numba.float32(0)
    for d in range(0, DIM, 4):
        a += hidden[0, d] * weights[node, d]
        b += hidden[0, d + 1] * weights[node, d + 1]
        c += hidden[0, d + 2] * weights[node, d + 2]
        e += hidden[0, d + 3] * weights[node, d + 3]
    return 1.0 / (1.0 + np.exp(-numba.float32((a + b) + (c + e))))


@numba.njit
def _is_label(data, start):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Whether a word of nine bytes or more begins with __label__: fastText takes it for no word."""
    return (
        data[start] == 95
        and data[start + 1] == 95
        and data[start + 2] == 108
        and data[start + 3] == 97
        and data[start + 4] == 98
        and data[start + 5] == 101
        and data[start + 6] == 108
        and data[start + 7] == 95
        and data[start + 8] == 95
    )


@numba.njit
def _find_word(data, start, length, vocabulary):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """The row of the word data[start:start+length], or -1."""
    word_hash, word_id, word_bytes, word_offsets = vocabulary
    mask = word_hash.shape[0] - 1
    value = numba.uint32(2_166_136_261)
    for i in range(start, start + length):
        value = _step(value, data[i])
    slot = numba.int64(value) & mask
    while word_id[slot] >= 0:
        row = word_id[slot]
        first = word_offsets[row]
        if word_hash[slot] == value and word_offsets[row + 1] - first == length:
            same = True
            for i in range(length):
                if word_bytes[first + i] != data[start + i]:
                    same = False
                    break
            if same:
                return row
        slot = (slot + 1) & mask
    return -1


@numba.njit
def _add_up_word(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    data, start, length, vocabulary, ngrams, input_rows, end_of_line, bracketed, total
):
    """Set `total` to the sum of a word's rows; returns their number, or -1 for the token that ends a text."""
    is_kept, row_of_bucket = ngrams
    for d in range(DIM):
        total[0, d] = 0
    if length >= 9 and _is_label(data, start):
        return 0
    num_rows = 0
    row = _find_word(data, start, length, vocabulary)
    if row == end_of_line:
        return -1
    if row >= 0:
        add16(total, 0, input_rows, row)
        num_rows += 1
    bracketed[0] = 60  # <
    for i in range(length):
        bracketed[i + 1] = data[start + i]
    bracketed[length + 1] = 62  # >
    last = length + 2
    for i in range(last):
        if (bracketed[i] & 0xC0) == 0x80:
            continue
        value = numba.uint32(2_166_136_261)
        j = i
        for n in range(1, MAX_N + 1):
            if j >= last:
                break
            value = _step(value, bracketed[j])
            j += 1
            while j < last and (bracketed[j] & 0xC0) == 0x80:
                value = _step(value, bracketed[j])
                j += 1
            if n >= MIN_N:
                bucket = value % numba.uint32(BUCKETS)
                if (is_kept[bucket >> 3] >> (bucket & 7)) & 1:
                    add16(total, 0, input_rows, numba.int64(row_of_bucket[bucket]))
                    num_rows += 1
    return num_rows


@numba.njit(forceinline=True)
def _white_among(data, base, end):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """A bit for each of 64 bytes: white space, or at or behind `end`."""
    if base + 64 <= data.shape[0]:
        found = white(data, base)
    else:
        found = _ZERO
        for i in range(data.shape[0] - base):
            byte = data[base + i]
            if byte == 32 or (9 <= byte <= 13) or byte == 0:
                found |= _ONE << np.uint64(i)
    if end - base < 64:
        found |= _ALL << np.uint64(end - base)
    return found


@numba.njit(forceinline=True)
def _key_of(data, start, length):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """The first 15 bytes of a word, then zeros; no word has a zero byte, so that short words' keys differ."""
    n = np.uint64(min(length, MAX_KEPT))
    if start + 16 <= data.shape[0]:
        low, high = load8(data, start), load8(data, start + 8)
    else:
        low, high = _ZERO, _ZERO
        for i in range(n):
            if i < 8:
                low |= np.uint64(data[start + i]) << np.uint64(8 * i)
            else:
                high |= np.uint64(data[start + i]) << np.uint64(8 * (i - 8))
    of_low = min(n, _EIGHT)
    return (
        low & (_ALL >> ((_EIGHT - of_low) << _S3)),
        high & np.uint64((_ONE << ((n - of_low) << _S3)) - _ONE),
    )


@numba.njit(cache=True, nogil=True)
def predict(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    data, offsets, vocabulary, ngrams, input_rows, tree, end_of_line, first_target, cache, results
) -> Any:
    """Fill `results`: label int32[N], its probability float32[N], that of `first_target` float32[N].

    `cache` is one that `new_cache` made, used by one thread at a time. The model's arrays are as in `LanguageModel`.
    """
    left, right, parent, is_right, weights = tree
    keys, sums = cache
    label, p_label, p_first = results
    num_labels = (left.shape[0] + 1) // 2
    root = left.shape[0] - 1
    hidden = np.empty((1, DIM), np.float32)
    total = np.empty((1, DIM), np.float32)
    bracketed = np.empty(4096, np.uint8)
    node_stack = np.empty(left.shape[0], np.int32)
    score_stack = np.empty(left.shape[0], np.float64)
    block_keys = np.empty((_MAX_BLOCK_WORDS, 2), np.uint64)
    block_places = np.empty(_MAX_BLOCK_WORDS, np.int64)
    block_starts = np.empty(_MAX_BLOCK_WORDS, np.int64)
    block_lengths = np.empty(_MAX_BLOCK_WORDS, np.int64)
    for t in range(offsets.shape[0] - 1):
        for d in range(DIM):
            hidden[0, d] = 0
        num_rows = np.int64(0)
        begin, end = offsets[t], offsets[t + 1]
        ended = inside = False
        start = begin
        for base in range(begin, end + 1, 64):
            # All words that end in these 64 bytes are looked for before one is used, so that the loads overlap.
            words = ~_white_among(data, base, end)
            edges = words ^ np.uint64((words << _ONE) | np.uint64(inside))
            num_words = 0
            while edges != _ZERO:
                at = base + lowest_bit(edges)
                edges &= np.uint64(edges - _ONE)
                inside = not inside
                if inside:
                    start = at
                    continue
                low, high = _key_of(data, start, at - start)
                mixed = np.uint64((low ^ np.uint64(high * _B)) * _A)
                place = np.int64(np.uint64((mixed ^ (mixed >> _S32)) * _B) >> _PLACE_SHIFT)
                prefetch(keys, _KEY_BYTES * place)
                prefetch(sums, _SUM_BYTES * place)
                block_keys[num_words, 0], block_keys[num_words, 1] = low, high
                block_places[num_words] = place
                block_starts[num_words], block_lengths[num_words] = start, at - start
                num_words += 1
            for w in range(num_words):
                low, high, place = block_keys[w, 0], block_keys[w, 1], block_places[w]
                length = block_lengths[w]
                known = keys[place, 1]
                if length <= MAX_KEPT and (keys[place, 0] == low) & (known & _LETTERS == high):
                    add16(hidden, 0, sums, place)
                    num_rows += np.int64(known >> _S56)
                    continue
                if length + 2 > bracketed.shape[0]:
                    bracketed = np.empty(2 * length + 2, np.uint8)
                count = _add_up_word(
                    data, block_starts[w], length, vocabulary, ngrams, input_rows, end_of_line, bracketed, total
                )
                if count < 0:  # the token "</s>", written out, ends a line for fastText
                    ended = True
                    break
                add16(hidden, 0, total, 0)
                num_rows += count
                if length <= MAX_KEPT:
                    keys[place, 0], keys[place, 1] = low, high | (np.uint64(count) << _S56)
                    for d in range(DIM):
                        sums[place, d] = total[0, d]
            if ended:
                break
        add16(hidden, 0, input_rows, end_of_line)
        scale = numba.float32(1.0 / (num_rows + 1))
        for d in range(DIM):
            hidden[0, d] *= scale
        # A label's probability is the product over the turns on the way to it. fastText adds logarithms, with 1e-5
        # in each to keep it finite; here the same 1e-5 goes into each factor.
        best = 1.0
        node = first_target
        while parent[node] >= 0:
            p = _p_right(hidden, weights, parent[node] - num_labels)
            best *= (p if is_right[node] else 1.0 - p) + 1e-5
            node = parent[node]
        label[t] = first_target
        p_first[t] = min(best, 1.0)
        p_label[t] = p_first[t]
        if best > 0.51:  # no other label can reach it, with room for the 1e-5
            continue
        # The likeliest label: down from the root, likelier side first, cutting what cannot win.
        top = 0
        node_stack[0] = root
        score_stack[0] = 1.0
        while top >= 0:
            node = node_stack[top]
            score = score_stack[top]
            top -= 1
            if score <= best:
                continue
            if node < num_labels:
                best = score
                label[t] = node
                continue
            p = _p_right(hidden, weights, node - num_labels)
            to_right = score * (p + 1e-5)
            to_left = score * (1.0 - p + 1e-5)
            if to_left > to_right:
                node_stack[top + 1], score_stack[top + 1] = right[node], to_right
                node_stack[top + 2], score_stack[top + 2] = left[node], to_left
            else:
                node_stack[top + 1], score_stack[top + 1] = left[node], to_left
                node_stack[top + 2], score_stack[top + 2] = right[node], to_right
            top += 2
        p_label[t] = min(best, 1.0)
