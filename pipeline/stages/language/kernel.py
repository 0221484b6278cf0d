"""The compiled loop of the language identifier: words to their vectors, the mean, down the tree of labels.

    64 bytes --classify--> word edges --16 bytes as key--> cache of words --> mean --> label, probability
                                          | not there         `--> are its letters in the lexicon?
                                          `--> lower case --> own row + rows of its n-grams of 2 to 4 characters

fastText adds up the rows of every word and n-gram of a text. Most words of a batch have been seen before in it, so
here a word's rows are added up first, kept under its letters (never a hash of them), and the words' sums are added
up then: the same number up to the rounding of its last bits, and always the same one, because the order of the
additions does not depend on what the cache holds.

All of it is done to the text in lower case, as Python's `str.lower` has it. Upper case changes neither white space
nor where words end, so words are lower-cased one by one, when their rows are added up; the cache knows them by their
letters with A to Z lowered. Two letters need the letters around them, or become two: a text with one of these gets
the label -1, and `model.py` lowers it in Python and asks again.

Everything here is called by `model.py` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from pipeline.compiled.declare import inlined, kernel, part
from pipeline.matching.vectors import add16, load8, lowest_bit, prefetch, white

__all__ = [
    "ASK_PYTHON",
    "BUCKETS",
    "DIM",
    "MAX_N",
    "MIN_N",
    "NUM_CHARACTERS",
    "Answers",
    "Cache",
    "Model",
    "Ngrams",
    "Spelling",
    "Tree",
    "Words",
    "lexicon_table",
    "new_cache",
    "predict",
    "word_table",
]

DIM = 16
BUCKETS = 2_000_000
MIN_N, MAX_N = 2, 4
"""What lid.176 was trained with; compiled in, `load_model` refuses a file with others."""

NUM_CHARACTERS = 0x20000
"""Code points with a place in the table of characters. Of those above, the CJK ideographs are letters, and none has
another case (Unicode 16; a test asks Python)."""
_FIRST_NO_LETTER = 0x40000
ASK_PYTHON = -1
"""In the table of characters: what `str.lower` makes of it depends on its neighbours, or is two characters."""

_CACHE_BITS = 19
MAX_KEPT = 15
"""Bytes of the longest word that the cache keeps."""
_KEY_BYTES, _SUM_BYTES, _LINE_BYTES = 16, 4 * DIM, 64
_MAX_BLOCK_WORDS = 33  # that end in 64 bytes

# Odd multipliers of splitmix64 and MurmurHash3; any odd constants with well-mixed bits would do.
_A = np.uint64(0x9E3779B97F4A7C15)
_B = np.uint64(0xD6E8FEB86659FD93)
_PLACE_SHIFT = np.uint64(65 - _CACHE_BITS)
_ZERO, _ONE, _S3, _EIGHT, _S32, _S56 = (np.uint64(n) for n in (0, 1, 3, 8, 32, 56))
_ALL, _LETTERS = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0x00FFFFFFFFFFFFFF)
_TOPS, _SEVENS = np.uint64(0x8080808080808080), np.uint64(0x7F7F7F7F7F7F7F7F)
_FROM_A, _ABOVE_Z = np.uint64(0x3F3F3F3F3F3F3F3F), np.uint64(0x2525252525252525)  # 0x80 - "A", 0x7F - "Z", eight times
_TWO = np.uint64(2)

_ROWS = 0x3F
"""A word's number of rows and its state travel in one byte; 15 bytes of letters have at most 46 rows."""
_NO_LETTERS, _KNOWN, _UNKNOWN = 0, 1, 3  # states: all runs of letters are in the lexicon, or some are not
_STATE_SHIFT = 6
_ENDS_TEXT, _ASKS = -1, -2
_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


class Words(NamedTuple):
    """Open-addressing table of words."""

    hashes: npt.NDArray[np.uint32]
    ids: npt.NDArray[np.int32]
    """-1 where free."""
    letters: npt.NDArray[np.uint8]
    """The words' bytes, laid end to end."""
    offsets: npt.NDArray[np.int64]
    """int64[W + 1]: where in them each word begins."""


class Ngrams(NamedTuple):
    """The n-grams that pruning has left, by their hash buckets."""

    is_kept: npt.NDArray[np.uint8]
    """uint8[B / 8], a bit each, the lowest first."""
    rows: npt.NDArray[np.int32]
    """int32[B]."""


class Tree(NamedTuple):
    """Huffman tree over L labels, 2 L - 1 nodes, the root last; -1 for what a node has not."""

    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    parent: npt.NDArray[np.int32]
    is_right: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]
    """float32[L - 1, 16], of the inner nodes."""


class Model(NamedTuple):
    """fastText's model file, laid out."""

    vocabulary: Words
    ngrams: Ngrams
    input_rows: npt.NDArray[np.float32]
    """float32[W + kept n-grams, 16]."""
    tree: Tree
    end_of_line: int
    """Row of the token that ends every text."""


class Spelling(NamedTuple):
    """What letters and words are."""

    characters: npt.NDArray[np.int32]
    """int32[NUM_CHARACTERS]: a character's lower case, twice, plus 1 where it is a letter; or ASK_PYTHON."""
    lexicon: npt.NDArray[np.uint64]
    """As `lexicon_table` makes it."""


class Answers(NamedTuple):
    """Of N texts."""

    label: npt.NDArray[np.int32]
    """Of the likeliest; -1 where Python has to lower the text."""
    p_label: npt.NDArray[np.float32]
    p_target: npt.NDArray[np.float32]
    words: npt.NDArray[np.int32]
    """How many have letters."""
    known: npt.NDArray[np.bool_]
    """Whether there are such, and the lexicon has all."""


class Cache(NamedTuple):
    """Words that were added up before, for one thread at a time and one lexicon."""

    keys: npt.NDArray[np.uint64]
    sums: npt.NDArray[np.float32]


def new_cache() -> Cache:
    """Room for 524,288 words, empty, 42 MB. A word has two places, and takes one from whoever was there.

    Keys uint64[524288, 2]: 15 bytes of letters, then one with the number of rows and the word's state; zeros where
    free. The sums of the rows float32[524288, 16]. A sum fills one cache line, and the keys of a word's two places lie
    in one. With one place each, 1.3 % of the words were pushed out by others although five places in six were free.
    """
    keys = _in_lines(np.zeros(2 * (1 << _CACHE_BITS) + _LINE_BYTES // 8, np.uint64), 2)
    return Cache(keys, _in_lines(np.empty((1 << _CACHE_BITS) * DIM + DIM, np.float32), DIM))


def _in_lines(room: npt.NDArray[Any], columns: int) -> npt.NDArray[Any]:
    """The cache's rows in `room`, from where a cache line begins."""
    first = -room.ctypes.data % _LINE_BYTES // room.itemsize
    return room[first : first + (1 << _CACHE_BITS) * columns].reshape(-1, columns)


def word_table(words: Sequence[bytes]) -> Words:
    """The table of these words, each given once."""
    capacity = 1
    while capacity < 4 * len(words):
        capacity *= 2
    offsets = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in words], out=offsets[1:])
    letters = np.frombuffer(b"".join(words) or b"\0", np.uint8)
    table = Words(np.zeros(capacity, np.uint32), np.full(capacity, -1, np.int32), letters, offsets)
    _fill(table)
    return table


@inlined
def _step(value, byte):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """One byte of FNV-1a in 32 bits, with fastText's slip kept: bytes enter as signed characters."""
    extended = numba.uint32(byte)
    if byte >= 128:
        extended |= numba.uint32(0xFFFFFF00)
    return numba.uint32((value ^ extended) * numba.uint32(16_777_619))


@kernel
def _fill(table):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Put all words into an empty table."""
    word_hash, word_id, word_bytes, word_offsets = table
    mask = word_hash.shape[0] - 1
    for row in range(word_offsets.shape[0] - 1):
        value = numba.uint32(2_166_136_261)
        for i in range(word_offsets[row], word_offsets[row + 1]):
            value = _step(value, word_bytes[i])
        slot = numba.int64(value) & mask
        while word_id[slot] >= 0:
            slot = (slot + 1) & mask
        word_hash[slot] = value
        word_id[slot] = row


def lexicon_table(words: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """Open-addressing table of the words' 64-bit FNV-1a hashes uint64[C], 0 where free.

    That two words share a hash, so that an unknown one passes for known, is expected once in 10^14 words.
    """
    capacity = 2
    while capacity < 2 * len(words):
        capacity *= 2
    table = np.zeros(capacity, np.uint64)
    letters, ends = np.frombuffer(b"".join(words) or b"\0", np.uint8), np.cumsum([0, *map(len, words)])
    _fill_lexicon(table, letters, ends)
    return table


@kernel
def _fill_lexicon(table, letters, ends):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Put all words into an empty table."""
    for w in range(ends.shape[0] - 1):
        value = _FNV_START
        for k in range(ends[w], ends[w + 1]):
            value = np.uint64((value ^ np.uint64(letters[k])) * _FNV_PRIME)
        if not _holds(table, value):
            slot = np.int64(value ^ (value >> _S32)) & (table.shape[0] - 1)
            while table[slot] != _ZERO:
                slot = (slot + 1) & (table.shape[0] - 1)
            table[slot] = value


@inlined
def _lower8(letters):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Eight bytes with A to Z lowered."""
    seven = letters & _SEVENS
    upper = np.uint64(seven + _FROM_A) & ~np.uint64(seven + _ABOVE_Z) & ~letters & _TOPS
    return letters | (upper >> _TWO)


@inlined
def _character_at(data, i):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Code point and bytes of the character at data[i], which is not ASCII."""
    byte = np.int64(data[i])
    if byte < 0xE0:
        return (byte & 0x1F) << 6 | (np.int64(data[i + 1]) & 0x3F), 2
    if byte < 0xF0:
        return (byte & 0x0F) << 12 | (np.int64(data[i + 1]) & 0x3F) << 6 | (np.int64(data[i + 2]) & 0x3F), 3
    high = (byte & 0x07) << 18 | (np.int64(data[i + 1]) & 0x3F) << 12
    return high | (np.int64(data[i + 2]) & 0x3F) << 6 | (np.int64(data[i + 3]) & 0x3F), 4


@inlined
def _holds(lexicon, value):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Whether a lexicon has the word of this hash."""
    slot = np.int64(value ^ (value >> _S32)) & (lexicon.shape[0] - 1)
    while lexicon[slot] != _ZERO:
        if lexicon[slot] == value:
            return True
        slot = (slot + 1) & (lexicon.shape[0] - 1)
    return False


@part
def _bracket_lower(data, start, length, spelling, bracketed):  # type: ignore[no-untyped-def]  # compiled: numba infers
    """Write the word in lower case between < and >; returns its bytes (-1 where Python must lower the text) and state.

    `bracketed` has room for half as many bytes more than the word has, and two: no character becomes longer than that.
    """
    characters, lexicon = spelling
    bracketed[0] = 60  # <
    at = 1
    i, end = start, start + length
    state = _NO_LETTERS
    run = _FNV_START
    while i < end:
        byte = data[i]
        before = at
        if byte < 128:
            byte = byte | 32 if 65 <= byte <= 90 else byte
            is_letter = 97 <= byte <= 122
            bracketed[at] = byte
            at += 1
            i += 1
        else:
            code, size = _character_at(data, i)
            i += size
            if code >= characters.shape[0]:  # has one case
                is_letter = code < _FIRST_NO_LETTER
                for k in range(i - size, i):
                    bracketed[at] = data[k]
                    at += 1
            elif characters[code] == ASK_PYTHON:
                return -1, _NO_LETTERS
            else:
                is_letter = characters[code] & 1 != 0
                at = _write_character(bracketed, at, characters[code] >> 1)
        if is_letter:
            for k in range(before, at):
                run = np.uint64((run ^ np.uint64(bracketed[k])) * _FNV_PRIME)
        elif run != _FNV_START:
            state |= _KNOWN if _holds(lexicon, run) else _UNKNOWN
            run = _FNV_START
    if run != _FNV_START:
        state |= _KNOWN if _holds(lexicon, run) else _UNKNOWN
    bracketed[at] = 62  # >
    return at - 1, state


@part
def _write_character(data, at, code):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Write a character as UTF-8; returns where the next one goes."""
    if code < 0x80:  # the Kelvin sign
        data[at] = code
        return at + 1
    if code < 0x800:
        data[at], data[at + 1] = 0xC0 | code >> 6, 0x80 | (code & 0x3F)
        return at + 2
    if code < 0x10000:
        data[at], data[at + 1], data[at + 2] = 0xE0 | code >> 12, 0x80 | (code >> 6 & 0x3F), 0x80 | (code & 0x3F)
        return at + 3
    data[at], data[at + 1] = 0xF0 | code >> 18, 0x80 | (code >> 12 & 0x3F)
    data[at + 2], data[at + 3] = 0x80 | (code >> 6 & 0x3F), 0x80 | (code & 0x3F)
    return at + 4


@inlined
def _p_right(hidden, weights, node):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Probability that the label lies to the right of inner node number `node`."""
    a = b = c = e = numba.float32(0)
    for d in range(0, DIM, 4):
        a += hidden[0, d] * weights[node, d]
        b += hidden[0, d + 1] * weights[node, d + 1]
        c += hidden[0, d + 2] * weights[node, d + 2]
        e += hidden[0, d + 3] * weights[node, d + 3]
    return 1.0 / (1.0 + np.exp(-numba.float32((a + b) + (c + e))))


@part
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


@part
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


@part
def _add_up_word(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    data, start, length, model, spelling, bracketed, total
):
    """Set `total` to the sum of a word's rows; returns their number, or _ENDS_TEXT or _ASKS, and the word's state."""
    vocabulary, input_rows, end_of_line = model.vocabulary, model.input_rows, model.end_of_line
    is_kept, row_of_bucket = model.ngrams
    for d in range(DIM):
        total[0, d] = 0
    length, state = _bracket_lower(data, start, length, spelling, bracketed)
    if length < 0:
        return _ASKS, _NO_LETTERS
    if length >= 9 and _is_label(bracketed, 1):
        return 0, state
    num_rows = 0
    row = _find_word(bracketed, 1, length, vocabulary)
    if row == end_of_line:
        return _ENDS_TEXT, _NO_LETTERS
    if row >= 0:
        add16(total, 0, input_rows, row)
        num_rows += 1
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
    return num_rows, state


@inlined
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


@inlined
def _key_of(data, start, length):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """The first 15 bytes of a word, A to Z lowered, then zeros: no word has a zero byte, so short keys differ."""
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
        _lower8(low & (_ALL >> ((_EIGHT - of_low) << _S3))),
        _lower8(high & np.uint64((_ONE << ((n - of_low) << _S3)) - _ONE)),
    )


@kernel
def predict(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    data, offsets, model, spelling, first_target, cache, answers
) -> Any:
    """Fill `answers`, `p_target` with the probability of the label `first_target`."""
    left, right, parent, is_right, weights = model.tree
    keys, sums = cache
    label, p_label, p_first, words, known_words = answers
    num_labels = (left.shape[0] + 1) // 2
    turn = False
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
        num_rows = num_with_letters = states = np.int64(0)
        begin, end = offsets[t], offsets[t + 1]
        ended = inside = asks = False
        start = begin
        for base in range(begin, end + 1, 64):
            # All words that end in these 64 bytes are looked for before one is used, so that the loads overlap.
            in_words = ~_white_among(data, base, end)
            edges = in_words ^ np.uint64((in_words << _ONE) | np.uint64(inside))
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
                place = np.int64(np.uint64((mixed ^ (mixed >> _S32)) * _B) >> _PLACE_SHIFT) << 1
                prefetch(keys, _KEY_BYTES * place)
                prefetch(sums, _SUM_BYTES * place)
                block_keys[num_words, 0], block_keys[num_words, 1] = low, high
                block_places[num_words] = place
                block_starts[num_words], block_lengths[num_words] = start, at - start
                num_words += 1
            for w in range(num_words):
                low, high, place = block_keys[w, 0], block_keys[w, 1], block_places[w]
                length = block_lengths[w]
                # Which of its two places a word has cannot be foretold, so that is no branch.
                place += np.int64((keys[place, 0] != low) | (keys[place, 1] & _LETTERS != high))
                known = keys[place, 1]
                if length <= MAX_KEPT and (keys[place, 0] == low) & (known & _LETTERS == high):
                    add16(hidden, 0, sums, place)
                    packed = np.int64(known >> _S56)
                    num_rows += packed & _ROWS
                    num_with_letters += packed >> _STATE_SHIFT & 1
                    states |= packed
                    continue
                if 2 * length + 2 > bracketed.shape[0]:
                    bracketed = np.empty(3 * length + 2, np.uint8)
                count, state = _add_up_word(data, block_starts[w], length, model, spelling, bracketed, total)
                if count < 0:  # asks, or the token "</s>", written out, which ends a line for fastText
                    ended = True
                    asks = count == _ASKS
                    break
                add16(hidden, 0, total, 0)
                num_rows += count
                packed = np.int64(state) << _STATE_SHIFT
                num_with_letters += state & 1
                states |= packed
                if length <= MAX_KEPT:
                    packed |= np.int64(count)
                    if keys[place - 1, 0] == _ZERO or turn:
                        place -= 1
                    turn = not turn
                    keys[place, 0], keys[place, 1] = low, high | (np.uint64(packed) << _S56)
                    for d in range(DIM):
                        sums[place, d] = total[0, d]
            if ended:
                break
        if asks:
            label[t] = -1
            continue
        words[t] = num_with_letters
        known_words[t] = num_with_letters > 0 and states < _UNKNOWN << _STATE_SHIFT
        add16(hidden, 0, model.input_rows, model.end_of_line)
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
