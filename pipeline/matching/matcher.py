"""The matcher's tables: built once from a query list, saved, and mapped into every worker's memory."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.load import ConfigError, fingerprint, from_mapping, to_mapping
from pipeline.compiled.arrays import read_only
from pipeline.errors import QueryListError
from pipeline.matching.characters import (
    COMPATIBLE,
    NUM_CODE_POINTS,
    UNSETTLED,
    character_tables,
    fold_case,
    has_capital,
    settled,
    words,
)
from pipeline.matching.config import MatchConfig
from pipeline.storage.atomic import commit, temporary_name, write_json
from pipeline.storage.parquet import save_vector

if TYPE_CHECKING:
    from pipeline.matching.kernel import Walk
    from pipeline.matching.tokens import Tokens
    from pipeline.records.queries import QueryList

__all__ = ["MATCH_VERSION", "Matcher", "can_match", "normal_form"]

MATCH_VERSION = 5
"""Grows with every change of a rule or of the tables' layout."""
_ALL_BITS = 0xFFFFFFFFFFFFFFFF
_WRAPPED = ",.;:?!`"
"""The marks that the published rule wraps in spaces (MetaCLIP, "Demystifying CLIP Data", section 3.2)."""
_TURNED_INTO_SPACE = "\t\n\r"
_PADDING = 64  # bytes that the kernel may read behind a text
_ASCII_CASE_BITS = 0x4040404040404040  # what tells a letter from a digit, in each of eight bytes
_ARRAYS = ("classes", "folds", "slots", "bloom", "records")


def normal_form(query: str, config: MatchConfig) -> str:
    """What the rule sees of a query: equal for two queries exactly when they match the same captions.

    Under `words`: the words joined by single spaces, in lower case where case does not count.
    """
    if config.rule == "metaclip":
        return query
    text = " ".join(words(query, compatibility_forms=config.compatibility_forms))
    any_case = config.case == "fold" or (config.case == "smart" and not has_capital(text))
    return fold_case(text) if any_case else text


def can_match(query: str, config: MatchConfig) -> bool:
    """Whether any caption at all can contain the query under the rule."""
    if config.rule == "words":
        return bool(words(query, compatibility_forms=config.compatibility_forms))
    if any(c in query for c in _TURNED_INTO_SPACE):
        return False  # captions have none left
    # A wrapped mark never touches another character in a caption.
    return all(len(token) == 1 or not any(c in token for c in _WRAPPED) for token in query.split(" "))


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """Read-only tables of one query list under one rule. Make it with `build` or `open`."""

    FILES: ClassVar[tuple[str, ...]] = (*(f"{name}.npy" for name in _ARRAYS), "matcher.json")
    """The names of the files that `save` writes."""

    config: MatchConfig
    fingerprint: str
    """Of the query list, the rule, its version and the Unicode data: what the matches depend on."""
    num_queries: int
    hash_mask: int
    classes: npt.NDArray[np.uint8]
    folds: npt.NDArray[np.int32]
    slots: npt.NDArray[np.uint64]
    bloom: npt.NDArray[np.uint64]
    records: npt.NDArray[np.uint64]

    @classmethod
    def build(cls, query_list: QueryList, config: MatchConfig, *, hash_mask: int = _ALL_BITS) -> Matcher:
        """Tables for `query_list`: about 110 bytes a query, a second or two for 500,000.

        Raises QueryListError where the list is too long: that takes some 10 million queries.

        `hash_mask` is for tests: it weakens the hash, which must not change any match.
        """
        from pipeline.matching import kernel  # compiles; only who matches should pay for it

        queries = query_list.queries
        alive = np.array([can_match(query, config) for query in queries], bool)
        as_written = np.zeros(len(queries), bool)
        if config.rule == "words":
            cut = kernel.RULE_WORDS
            forms = config.compatibility_forms
            texts = [" ".join(words(query, compatibility_forms=forms)) for query in queries]
            shown = texts if config.case == "exact" else [fold_case(text) for text in texts]
            if config.case == "smart":
                as_written = np.array([has_capital(text) for text in texts], bool)
                shown = [a if keep else b for a, b, keep in zip(texts, shown, as_written.tolist(), strict=True)]
            tables = character_tables()
            compatible = tables.classes & COMPATIBLE != 0
            # For the kernel a text is settled or not: `find` brings the others into normal form.
            classes = np.where(compatible & forms, tables.classes | UNSETTLED, tables.classes)
            folds = tables.folds if config.case != "exact" else np.arange(NUM_CODE_POINTS, dtype=np.int32)
        else:
            cut = kernel.RULE_SPACES
            texts = shown = queries
            classes = np.zeros(1, np.uint8)
            folds = np.zeros(1, np.int32)
        data, offsets = _buffers(pa.array(texts, pa.large_string()))
        num_states = _num_tokens(texts)
        while True:
            capacity = 2 * num_states + 16  # half full
            slots = _in_cache_lines(kernel.SLOT_WORDS * capacity)
            bloom = np.zeros(kernel.BLOOM_WORDS, np.uint64)
            records, places = _records(shown, as_written, kernel.HEADER_WORDS)
            if len(records) >= kernel.MAX_RECORD_WORDS:
                raise QueryListError("the queries hold more letters than the matcher has room for; shorten the list")
            used = kernel.fill(
                kernel.Texts(_padded(data), offsets),
                kernel.Rule(cut, _fold_bits(config), np.uint64(hash_mask), False, read_only(classes), read_only(folds)),
                np.where(alive, places, -1),
                _tokens(offsets),
                kernel.Trie(slots, bloom, records),
            )
            if used == num_states:
                break
            num_states = used  # the table is as large as the states need, not as the tokens might have needed
        characters = unicodedata.unidata_version if config.rule == "words" else ""
        return cls(
            config=config,
            fingerprint=fingerprint(query_list.fingerprint, config, MATCH_VERSION, characters),
            num_queries=len(queries),
            hash_mask=hash_mask,
            classes=read_only(classes),
            folds=read_only(folds),
            slots=read_only(slots),
            bloom=read_only(bloom),
            records=read_only(records),
        )

    def save(self, directory: Path) -> None:
        """Write the tables as .npy files and, last, matcher.json."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            temporary = temporary_name(directory / f"{name}.npy")
            save_vector(temporary, getattr(self, name))
            commit(temporary, directory / f"{name}.npy")
        write_json(
            directory / "matcher.json",
            {
                "version": MATCH_VERSION,
                "config": to_mapping(self.config),
                "fingerprint": self.fingerprint,
                "num_queries": self.num_queries,
                "hash_mask": self.hash_mask,
            },
        )

    @classmethod
    def open(cls, directory: Path) -> Matcher:
        """Map the tables of `save` into memory; all processes of a machine share the same pages.

        Raises QueryListError where they are missing, damaged or of another version.
        """
        try:
            facts: dict[str, Any] = json.loads((directory / "matcher.json").read_text(encoding="utf-8"))
            if facts["version"] != MATCH_VERSION:
                raise ValueError(f"version {facts['version']}")
            arrays = {name: np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS}
            return cls(
                config=from_mapping(MatchConfig, facts["config"]),
                fingerprint=str(facts["fingerprint"]),
                num_queries=int(facts["num_queries"]),
                hash_mask=int(facts["hash_mask"]),
                **arrays,
            )
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise QueryListError(
                f"{directory}: the matcher's tables cannot be read ({error}); delete the directory and run again"
            ) from error

    def find(self, captions: pa.StringArray | Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """The queries of every caption: offsets int64[N + 1] and query ids int32[M], ascending, each once."""
        array = captions if isinstance(captions, pa.Array) else pa.array(captions, pa.large_string())
        if array.null_count:
            array = array.fill_null("")
        settled_only = self.config.rule == "words"
        offsets, ids, unsettled = self._run(array, check_settled=settled_only)
        rows = np.flatnonzero(unsettled)
        if len(rows):
            forms = self.config.compatibility_forms
            texts = [settled(text, compatibility_forms=forms) for text in array.take(pa.array(rows)).to_pylist()]
            more_offsets, more_ids, _ = self._run(pa.array(texts, pa.large_string()), check_settled=False)
            offsets, ids = _spliced(offsets, ids, rows, more_offsets, more_ids)
        return offsets, ids

    def _run(
        self, array: pa.Array, *, check_settled: bool
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        from pipeline.matching import kernel

        data, offsets = _buffers(array)
        cut = kernel.RULE_WORDS if self.config.rule == "words" else kernel.RULE_METACLIP
        fold_bits, hash_mask = _fold_bits(self.config), np.uint64(self.hash_mask)
        rule = kernel.Rule(cut, fold_bits, hash_mask, check_settled, self.classes, self.folds)
        trie = kernel.Trie(self.slots, self.bloom, self.records)
        tokens, walk = _tokens(offsets), _walk(offsets)
        found = kernel.Found(
            offsets=np.zeros(len(offsets), np.int64),
            queries=np.empty(32 * len(array) + 64, np.int32),  # what is not written takes no memory
            unsettled=np.zeros(len(array), np.uint8),
        )
        done: int = 0
        # The last texts of a buffer have too little behind them: they are matched in a copy.
        safe = int(np.searchsorted(offsets[1:], len(data) - _PADDING, side="right"))
        most = kernel.Texts(data, offsets)
        rest = kernel.Texts(_padded(data[offsets[safe] : offsets[-1]]), read_only(offsets - offsets[safe]))
        while done < len(array):
            texts, stop = (most, safe) if done < safe else (rest, len(array))
            done = kernel.run(texts, rule, trie, tokens, walk, done, stop, found)
            if done < stop:
                room = np.empty(len(found.queries), np.int32)
                found = found._replace(queries=np.concatenate((found.queries, room)))
        return found.offsets, found.queries[: found.offsets[-1]], found.unsettled


def _buffers(array: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes and int64 offsets of a string array, without copying the bytes."""
    wide = pa.types.is_large_string(array.type)
    _, offset_buffer, data_buffer = array.buffers()
    if len(array) == 0 or offset_buffer is None:
        return read_only(np.zeros(0, np.uint8)), read_only(np.zeros(len(array) + 1, np.int64))
    kind = np.int64 if wide else np.int32
    offsets = np.frombuffer(offset_buffer, kind)[array.offset : array.offset + len(array) + 1]
    data = np.zeros(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return read_only(data), read_only(offsets.astype(np.int64))


def _padded(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A copy with room behind it for the kernel's wide loads."""
    return read_only(np.concatenate((data, np.zeros(_PADDING, np.uint8))))


def _fold_bits(config: MatchConfig) -> np.uint64:
    return np.uint64(0 if config.rule == "metaclip" or config.case == "exact" else _ASCII_CASE_BITS)


def _max_tokens(offsets: npt.NDArray[np.int64]) -> int:
    """Of any text: two for every byte and one at the end, and one more that is looked at."""
    return 2 * int(np.diff(offsets).max(initial=0)) + 2


def _tokens(offsets: npt.NDArray[np.int64]) -> Tokens:
    from pipeline.matching import kernel

    size = _max_tokens(offsets)
    return kernel.Tokens(
        hashes=np.empty(size, np.uint64),
        starts=np.empty(size, np.int64),
        ends=np.empty(size, np.int64),
        marks=np.empty(size, np.uint8),
        letters=np.zeros(size + _PADDING, np.uint8),
    )


def _walk(offsets: npt.NDArray[np.int64]) -> Walk:
    from pipeline.matching import kernel

    size = _max_tokens(offsets)
    return kernel.Walk(
        states=np.empty(size, np.uint64),
        paths=np.empty(size, np.int64),
        hits=np.empty(size, np.int64),
        hit_paths=np.empty(size, np.int64),
        ranks=np.empty(2 * kernel.MAX_RANKED, np.int32),
    )


def _spliced(
    offsets: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    more_offsets: npt.NDArray[np.int64],
    more_ids: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Put the results of `rows` (which have none in `ids`) in their places: they are few, and the others are not
    looked at one by one."""
    counts = np.diff(offsets)
    counts[rows] = np.diff(more_offsets)
    pieces: list[npt.NDArray[np.int32]] = []
    done = 0
    for row, begin, end in zip(
        offsets[rows].tolist(), more_offsets[:-1].tolist(), more_offsets[1:].tolist(), strict=True
    ):
        pieces += ids[done:row], more_ids[begin:end]
        done = row
    return np.concatenate(([0], np.cumsum(counts))), np.concatenate((*pieces, ids[done:]))


def _records(
    shown: Sequence[str], as_written: npt.NDArray[np.bool_], header: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The queries' records (see kernel.HEADER_WORDS), not chained yet, and where each begins."""
    data, offsets = _buffers(pa.array(shown, pa.large_string()))
    lengths = np.diff(offsets)
    sizes = header + (lengths + 7) // 8
    places = np.cumsum(sizes) - sizes
    records = np.zeros(int(sizes.sum()) + _PADDING // 8, np.uint64)
    records[places] = np.arange(len(shown), dtype=np.uint64)
    records[places + 1] = lengths.astype(np.uint64) | (as_written.astype(np.uint64) << np.uint64(32))
    letters = records.view(np.uint8)
    letters[np.arange(len(data)) + np.repeat(8 * (places + header) - offsets[:-1], lengths)] = data
    return records, places


def _num_tokens(texts: Sequence[str]) -> int:
    """At least the number of trie states: no query has more tokens than spaces plus one."""
    return sum(text.count(" ") + 1 for text in texts) + 1


def _in_cache_lines(size: int) -> npt.NDArray[np.uint64]:
    """uint64[size], zeros, from the start of a cache line: no slot lies across two."""
    room = np.zeros(size + 7, np.uint64)
    first = -room.ctypes.data % 64 // 8
    return room[first : first + size]
