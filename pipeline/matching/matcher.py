"""The matcher's tables: built once from a query list, saved, and mapped into every worker's memory."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.load import ConfigError, fingerprint, from_mapping, to_mapping
from pipeline.errors import QueryListError
from pipeline.matching.characters import NUM_CODE_POINTS, character_tables, fold_case, words
from pipeline.storage import commit, temporary_name, write_json

if TYPE_CHECKING:
    from pipeline.queries import QueryList

__all__ = ["MATCH_VERSION", "MatchConfig", "Matcher", "can_match", "normal_form"]

MATCH_VERSION = 1
"""Grows with every change of a rule or of the tables' layout."""
_ALL_BITS = 0xFFFFFFFFFFFFFFFF
_WRAPPED = ",.;:?!`"
"""The marks that the published rule wraps in spaces (MetaCLIP, "Demystifying CLIP Data", section 3.2)."""
_TURNED_INTO_SPACE = "\t\n\r"
_HEADER = 4  # int32 words before a record's letters
_ARRAYS = ("byte_table", "classes", "folds", "slots", "bloom", "records")


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """When a caption contains a query; docs/matching.md shows both rules by examples."""

    rule: Literal["words", "metaclip"] = "words"
    """words: the query's words stand in the caption one after the other, whatever white space or punctuation
    lies between. metaclip: the published rule to the letter (substring between single spaces)."""
    case: Literal["smart", "fold", "exact"] = "smart"
    """For the rule `words`. smart: a query without capitals matches any case, a query with capitals only as
    written. fold: case never counts. exact: it always does. The rule `metaclip` is always exact."""


def normal_form(query: str, config: MatchConfig) -> str:
    """What the rule sees of a query: equal for two queries exactly when they match the same captions.

    Under `words`: the words joined by single spaces, in lower case where case does not count.
    """
    if config.rule == "metaclip":
        return query
    text = " ".join(words(query))
    return fold_case(text) if config.case == "fold" else text


def can_match(query: str, config: MatchConfig) -> bool:
    """Whether any caption at all can contain the query under the rule."""
    if config.rule == "words":
        return bool(words(query))
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
    byte_table: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    folds: npt.NDArray[np.int32]
    slots: npt.NDArray[np.uint64]
    bloom: npt.NDArray[np.uint64]
    records: npt.NDArray[np.int32]

    @classmethod
    def build(cls, query_list: QueryList, config: MatchConfig, *, hash_mask: int = _ALL_BITS) -> Matcher:
        """Tables for `query_list`: about 60 bytes a query, a few seconds for 500,000.

        `hash_mask` is for tests: it weakens the hash, which must not change any match.
        """
        from pipeline.matching import kernel  # compiles; only who matches should pay for it

        queries = query_list.queries
        by_words = config.rule == "words"
        alive = np.array([can_match(query, config) for query in queries], np.uint8)
        if by_words:
            plain = [" ".join(words(query)) for query in queries]
            folded = plain if config.case == "exact" else [fold_case(text) for text in plain]
            smart = config.case == "smart"
            as_written = np.array([smart and a != b for a, b in zip(plain, folded, strict=True)], np.uint8)
            shown = [a if keep else b for a, b, keep in zip(plain, folded, as_written.tolist(), strict=True)]
            letters, letter_offsets = _code_points(shown)
            tables = character_tables()
            classes = tables.classes
            folds = tables.folds if config.case != "exact" else np.arange(NUM_CODE_POINTS, dtype=np.int32)
            byte_table = fill_table = _word_bytes(folds)
            rule_of_fill = kernel.RULE_WORDS
        else:
            plain = list(queries)
            as_written = np.zeros(len(queries), np.uint8)
            classes = np.zeros(1, np.uint8)
            folds = np.zeros(1, np.int32)
            byte_table, fill_table = _metaclip_bytes()
            rule_of_fill = kernel.RULE_SPACES
        data, offsets = _buffers(pa.array(plain, pa.large_string()))
        if not by_words:
            letters, letter_offsets = data.astype(np.int32), offsets.copy()
        capacity = 1 << max(10, int(2 * _num_tokens(data, len(queries)) - 1).bit_length())
        slots = np.zeros(2 * capacity, np.uint64)
        bloom = np.zeros(kernel.BLOOM_WORDS, np.uint64)
        records, record_offsets = _records(letters, letter_offsets, alive, as_written)
        scratch = _scratch(offsets)
        kernel.fill(
            rule_of_fill, data, offsets, _frozen(fill_table), _frozen(classes), _frozen(folds), np.uint64(hash_mask),
            record_offsets, records, slots, bloom, *scratch,
        )  # fmt: skip
        return cls(
            config=config,
            fingerprint=fingerprint(
                query_list.fingerprint, config, MATCH_VERSION, unicodedata.unidata_version if by_words else ""
            ),
            num_queries=len(queries),
            hash_mask=hash_mask,
            byte_table=_frozen(byte_table),
            classes=_frozen(classes),
            folds=_frozen(folds),
            slots=_frozen(slots),
            bloom=_frozen(bloom),
            records=_frozen(records),
        )

    def save(self, directory: Path) -> None:
        """Write the tables as .npy files and, last, matcher.json."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            temporary = temporary_name(directory / f"{name}.npy")
            with temporary.open("wb") as file:
                np.save(file, getattr(self, name))
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
            texts = [unicodedata.normalize("NFC", text) for text in array.take(pa.array(rows)).to_pylist()]
            more_offsets, more_ids, _ = self._run(pa.array(texts, pa.large_string()), check_settled=False)
            offsets, ids = _spliced(offsets, ids, rows, more_offsets, more_ids)
        return offsets, ids

    def _run(
        self, array: pa.Array, *, check_settled: bool
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        from pipeline.matching import kernel

        data, offsets = _buffers(array)
        rule = kernel.RULE_WORDS if self.config.rule == "words" else kernel.RULE_METACLIP
        scratch = _scratch(offsets)
        out_offsets = np.zeros(len(offsets), np.int64)
        unsettled = np.zeros(len(array), np.uint8)
        out = np.empty(8 * len(array) + 64, np.int32)
        done = 0
        while True:
            done = kernel.run(
                rule, data, offsets, self.byte_table, self.classes, self.folds, check_settled,
                np.uint64(self.hash_mask), self.slots, self.bloom, self.records,
                *scratch, done, out_offsets, out, unsettled,
            )  # fmt: skip
            if done == len(array):
                return out_offsets, out[: out_offsets[-1]], unsettled
            out = np.concatenate((out, np.empty(len(out), np.int32)))


def _buffers(array: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes and int64 offsets of a string array, without copying the bytes."""
    wide = pa.types.is_large_string(array.type)
    _, offset_buffer, data_buffer = array.buffers()
    if len(array) == 0 or offset_buffer is None:
        return _frozen(np.zeros(0, np.uint8)), _frozen(np.zeros(len(array) + 1, np.int64))
    kind = np.int64 if wide else np.int32
    offsets = np.frombuffer(offset_buffer, kind)[array.offset : array.offset + len(array) + 1]
    data = np.zeros(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return _frozen(data), _frozen(offsets.astype(np.int64))


def _scratch(
    offsets: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Room for the tokens of the longest text: two for every byte and one at the end, at most."""
    longest = int(np.diff(offsets).max(initial=0))
    size = 2 * longest + 2
    return np.empty(size, np.uint64), np.empty(size, np.int64), np.empty(size, np.int64)


def _spliced(
    offsets: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    more_offsets: npt.NDArray[np.int64],
    more_ids: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Put the results of `rows` (which have none in `ids`) in their places."""
    counts = np.diff(offsets)
    counts[rows] = np.diff(more_offsets)
    joined = np.concatenate(([0], np.cumsum(counts)))
    out = np.empty(int(joined[-1]), np.int32)
    out[np.arange(len(ids)) + np.repeat(joined[:-1] - offsets[:-1], np.diff(offsets))] = ids
    out[np.arange(len(more_ids)) + np.repeat(joined[rows] - more_offsets[:-1], np.diff(more_offsets))] = more_ids
    return joined, out


def _code_points(texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.int32)
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return points, offsets


def _records(
    letters: npt.NDArray[np.int32],
    letter_offsets: npt.NDArray[np.int64],
    alive: npt.NDArray[np.uint8],
    as_written: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The queries' records (see kernel.fill), not chained yet, and where each begins; -1 for dead queries."""
    lengths = np.diff(letter_offsets)
    begins = letter_offsets[:-1] + _HEADER * np.arange(len(lengths))
    records = np.empty(len(letters) + _HEADER * len(lengths), np.int32)
    records[begins] = np.arange(len(lengths))
    records[begins + 1] = -1
    records[begins + 2] = lengths
    records[begins + 3] = as_written
    records[np.arange(len(letters)) + np.repeat(_HEADER * np.arange(1, len(lengths) + 1), lengths)] = letters
    return records, np.where(alive.astype(bool), begins, -1)


def _num_tokens(data: npt.NDArray[np.uint8], num_queries: int) -> int:
    """At least the number of trie states: no query has more tokens than spaces plus one."""
    return int(np.count_nonzero(data == 32)) + num_queries + 1


def _word_bytes(folds: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """uint8[256]: an ASCII letter or digit folded, 0 for any other ASCII byte, 1 above ASCII."""
    table = np.ones(256, np.uint8)
    for byte in range(128):
        table[byte] = folds[byte] if chr(byte).isalnum() else 0
    return table


def _metaclip_bytes() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Byte tables for captions and for queries: 0 space, 1 character, 2 wrapped mark."""
    captions = np.ones(256, np.uint8)
    captions[[ord(c) for c in " " + _TURNED_INTO_SPACE]] = 0
    captions[[ord(c) for c in _WRAPPED]] = 2
    queries = np.ones(256, np.uint8)
    queries[ord(" ")] = 0
    return captions, queries


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view: mapped and fresh tables must look alike, or the kernel compiles twice."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
