"""Tokens that are rare in the whole set, by the hash partitions of pairs whose captions hold them.

    unique pairs --tokens--> counts --token_counts--> how many tokens stand so often --token_limit--> the least count
    counts + the least count --rare_tokens--> rare tokens of each partition of pairs

A caption's tokens are its words, as the rule `words` of matching cuts and folds them, and its bigrams (two words in
succession). Words and bigrams share one list (ALIGN, arXiv 2102.05918, section 3: captions go that contain any token
"outside of 100 million most frequent unigrams and bigrams from the raw dataset"). Each time that a token stands in a
caption counts.

Frequent are those that stand at least as often as the least count that no more tokens than the limit reach. So of equal
tokens all are frequent or none, and neither partitions nor the order of files play a part. A token is known by its
digest of 128 bits; DuckDB sums and sorts, and spills beyond its memory limit. What a partition of pairs has to know
comes back to it as a row group of its own, so that no task reads the list of the whole set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.engine import WORKER_MB, Data, Info, Needs, Task, apart, output
from pipeline.matching.characters import fold_case, words
from pipeline.steps.boilerplate import Pairs, part_name
from pipeline.steps.exchange import partition_of
from pipeline.steps.step import Page, Run, step
from pipeline.storage.checked import load_vector, read_batches, read_row_groups
from pipeline.storage.duck import open_duckdb, spill_beside
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import parquet_writer, save_vector

__all__ = [
    "CountTokens",
    "FindRare",
    "FindTokenLimit",
    "Rare",
    "RareTokens",
    "SumTokens",
    "TokenCounts",
    "TokenLimit",
    "Tokens",
    "count_tokens",
    "find_rare",
    "find_rare_tokens",
    "find_token_limit",
    "sum_tokens",
    "tokens_of",
]

_BATCH_ROWS = 65_536
_TOKENS = pa.schema([pa.field("digest", pa.binary(16), nullable=False), pa.field("count", pa.int64(), nullable=False)])
_RARE = pa.schema([pa.field("digest", pa.binary(16), nullable=False)])
_OF_PARTS = pa.schema([*_TOKENS, pa.field("part", pa.int32(), nullable=False)])
_TOTALS = "SELECT digest, part, sum(count) OVER (PARTITION BY digest) AS total FROM tokens"


def tokens_of(caption: str) -> list[str]:
    """Its words, folded, then its bigrams, two words with a space between."""
    found = fold_case(" ".join(words(caption))).split()
    return found + [f"{first} {second}" for first, second in pairwise(found)]


def find_rare_tokens(page: Page, pairs: Data[Pairs], frequent: int, memory_mb: int) -> Data[Rare]:
    """The steps that find, for each partition of pairs, which of its tokens are not among the `frequent` ones."""
    tokens = page.add(count_tokens(pairs, memory_mb))
    counts = page.add(sum_tokens(tokens, memory_mb))
    limit = page.add(find_token_limit(counts, frequent))
    return page.add(find_rare(tokens, limit, memory_mb))


# --- tokens: how often each stands in a partition of pairs ---------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """How often each token stands in a hash partition of pairs."""

    tokens: Location = output("tokens.parquet", _TOKENS)
    """One row group per partition of tokens, which are ranges of digests."""


@dataclass(frozen=True, kw_only=True)
class CountTokens(Task[Tokens]):
    """Those of a hash partition of pairs."""

    pairs: Location
    partitions: int
    memory_mb: int = apart()

    @property
    def needs(self) -> Needs:
        return Needs(memory_mb=WORKER_MB + self.memory_mb)

    def work(self, out: Tokens) -> Info:
        def counted() -> Iterator[pa.RecordBatch]:
            for batch in read_batches(self.pairs, _BATCH_ROWS, ["caption"]):
                counts = Counter(chain.from_iterable(map(tokens_of, batch.column("caption").to_pylist())))
                found = [_ids(_digests(counts)), pa.array(counts.values(), pa.int64())]
                yield pa.RecordBatch.from_arrays(found, schema=_TOKENS)

        path = out.tokens.local
        streams = {"tokens": (_TOKENS, counted())}
        with open_duckdb(spill_beside(path), memory_mb=self.memory_mb, streams=streams) as database:
            sums = database.sql(
                "SELECT digest, sum(count)::BIGINT AS count FROM tokens GROUP BY digest ORDER BY digest"
            )
            slices = _by_range(sums.to_arrow_reader(_BATCH_ROWS), self.partitions)
            rows = _write_groups(path, _TOKENS, slices, self.partitions)
        return {"tokens": rows}


@step("tokens", CountTokens, title="count tokens of captions", per="hash partition")
def count_tokens(run: Run, pairs: Data[Pairs], memory_mb: int) -> Iterator[CountTokens]:
    """One task per hash partition of pairs."""
    for part in pairs.parts:
        yield CountTokens(partition=part.name, pairs=part.files.pairs, partitions=len(pairs.parts), memory_mb=memory_mb)


# --- token_counts, token_limit: from how many times on a token is frequent -----------------------


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """How many tokens of a partition of tokens stand so often in the whole set."""

    histogram: Location = output("histogram.npy")
    """int64[N, 2]: each count that occurs, in order, and the number of tokens that have it."""


@dataclass(frozen=True, kw_only=True)
class SumTokens(Task[TokenCounts]):
    """Those of a partition of tokens."""

    tokens: Files
    number: int
    memory_mb: int = apart()

    @property
    def needs(self) -> Needs:
        return Needs(memory_mb=WORKER_MB + self.memory_mb)

    def work(self, out: TokenCounts) -> Info:
        path = out.histogram.local
        streams = {"tokens": (_OF_PARTS, _of_parts(self.tokens, self.number))}
        with open_duckdb(spill_beside(path), memory_mb=self.memory_mb, streams=streams) as database:
            found = database.sql(
                "SELECT total, count(*) FROM (SELECT sum(count)::BIGINT AS total FROM tokens GROUP BY digest) "
                "GROUP BY total ORDER BY total"
            ).fetchall()
        save_vector(path, np.array(found, np.int64).reshape(-1, 2))
        return {"tokens": sum(tokens for _, tokens in found)}


@step("token_counts", SumTokens, title="sum counts of tokens", per="hash partition")
def sum_tokens(run: Run, tokens: Data[Tokens], memory_mb: int) -> Iterator[SumTokens]:
    """One task per partition of tokens."""
    files = tokens.files(lambda out: out.tokens)
    for number in range(len(files)):
        yield SumTokens(partition=part_name(number), tokens=files, number=number, memory_mb=memory_mb)


@dataclass(frozen=True, kw_only=True)
class TokenLimit:
    """From which count on a token is frequent. The one part tells `least`, and how many `tokens` are `frequent`."""

    histogram: Location = output("histogram.npy")
    """As that of `TokenCounts`, of the whole set."""


@dataclass(frozen=True, kw_only=True)
class FindTokenLimit(Task[TokenLimit]):
    """The least count that no more than `frequent` tokens reach."""

    histograms: Files
    frequent: int

    def work(self, out: TokenLimit) -> Info:
        found = np.concatenate([np.empty((0, 2), np.int64), *map(load_vector, self.histograms)])
        counts, where = np.unique(found[:, 0], return_inverse=True)
        tokens = np.zeros(len(counts), np.int64)
        np.add.at(tokens, where.ravel(), found[:, 1])
        save_vector(out.histogram.local, np.stack([counts, tokens], axis=1))
        reach = tokens[::-1].cumsum()[::-1]  # how many tokens stand at least so often
        fits = np.flatnonzero(reach <= self.frequent)
        first = int(fits[0]) if len(fits) else len(counts)
        least = 1 if first == 0 else int(counts[first - 1]) + 1
        return {"least": least, "tokens": int(tokens.sum()), "frequent": int(tokens[first:].sum())}


@step("token_limit", FindTokenLimit, title="find the least count of a frequent token", per="set")
def find_token_limit(run: Run, counts: Data[TokenCounts], frequent: int) -> Iterator[FindTokenLimit]:
    """One task."""
    yield FindTokenLimit(partition="all", histograms=counts.files(lambda out: out.histogram), frequent=frequent)


# --- rare_tokens: what each partition of pairs has to know ---------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rare:
    """The rare ones of a partition of tokens."""

    rare: Location = output("rare.parquet", _RARE)
    """One row group per hash partition of pairs, with those that its captions hold."""


@dataclass(frozen=True, kw_only=True)
class FindRare(Task[Rare]):
    """Those of a partition of tokens."""

    tokens: Files
    number: int
    least: int
    memory_mb: int = apart()

    @property
    def needs(self) -> Needs:
        return Needs(memory_mb=WORKER_MB + self.memory_mb)

    def work(self, out: Rare) -> Info:
        path = out.rare.local
        streams = {"tokens": (_OF_PARTS, _of_parts(self.tokens, self.number))}
        with open_duckdb(spill_beside(path), memory_mb=self.memory_mb, streams=streams) as database:
            found = database.sql(
                f"SELECT part, digest FROM ({_TOTALS}) WHERE total < {self.least} ORDER BY part, digest"
            ).to_arrow_reader(_BATCH_ROWS)
            rows = _write_groups(path, _RARE, _by_part(found), len(self.tokens))
        return {"rows": rows}


@step("rare_tokens", FindRare, title="find rare tokens", per="hash partition")
def find_rare(run: Run, tokens: Data[Tokens], limit: Data[TokenLimit], memory_mb: int) -> Iterator[FindRare]:
    """One task per partition of tokens."""
    files, least = tokens.files(lambda out: out.tokens), int(limit.only.info["least"])
    for number in range(len(files)):
        yield FindRare(partition=part_name(number), tokens=files, number=number, least=least, memory_mb=memory_mb)


class RareTokens:
    """The rare tokens of a partition of pairs, 16 bytes each."""

    def __init__(self, files: Files, number: int) -> None:
        groups = [group for file in files for group in read_row_groups(file, number, len(files))]
        columns = [_bytes_of(group["digest"]) for group in groups]
        self._digests: npt.NDArray[np.bytes_] = np.concatenate([np.empty(0, "S16"), *columns])
        """In order: partitions of tokens are ranges of digests."""

    def first_in(self, captions: pa.Array) -> pa.Array:
        """string[N]: the first rare token of each caption, words before bigrams; null where it has none."""
        found = [tokens_of(caption) for caption in captions.to_pylist()]
        rare = self._among(list(dict.fromkeys(chain.from_iterable(found))))
        return pa.array([next(filter(rare.__contains__, tokens), None) for tokens in found], pa.string())

    def _among(self, tokens: list[str]) -> frozenset[str]:
        if not len(self._digests) or not tokens:
            return frozenset()
        digests = np.frombuffer(_digests(tokens), "S16")  # of equal length, so that zeros at the end count
        at = np.minimum(np.searchsorted(self._digests, digests), len(self._digests) - 1)
        return frozenset(tokens[i] for i in np.flatnonzero(self._digests[at] == digests))


# --- reading and writing -------------------------------------------------------------------------


def _digests(tokens: Iterable[str]) -> bytes:
    """xxh3-128 of every token, 16 bytes each."""
    return b"".join(xxhash.xxh3_128_digest(token.encode("utf-8", "surrogatepass")) for token in tokens)


def _ids(digests: bytes) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(16), len(digests) // 16, [None, pa.py_buffer(digests)])


def _bytes_of(digests: pa.ChunkedArray) -> npt.NDArray[np.bytes_]:
    """S16[N]"""
    column = digests.combine_chunks()
    return np.frombuffer(column.buffers()[1] or b"", "S16")[column.offset : column.offset + len(column)]


def _of_parts(files: Files, number: int) -> Iterator[pa.RecordBatch]:
    """The rows of a partition of tokens, with the partition of pairs in which they were counted."""
    for part, file in enumerate(files):
        for group in read_row_groups(file, number, len(files)):
            for batch in group.cast(_TOKENS).to_batches(max_chunksize=_BATCH_ROWS):
                place = pa.array(np.full(batch.num_rows, part, np.int32))
                yield pa.RecordBatch.from_arrays([*batch.columns, place], schema=_OF_PARTS)


def _by_range(batches: Iterable[pa.RecordBatch], partitions: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Slices of rows in the order of digests, each with the partition of tokens that it is in."""
    for batch in batches:
        plain = batch.cast(_TOKENS)
        where = partition_of(plain.column("digest"), partitions)
        yield from _slices(plain, where)


def _by_part(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    for batch in batches:
        yield from _slices(batch.select(["digest"]).cast(_RARE), batch.column("part").to_numpy())


def _slices(batch: pa.RecordBatch, where: npt.NDArray[np.integer]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Of a batch that `where` (int[N]) orders."""
    places, first = np.unique(where, return_index=True)
    for place, begin, end in zip(places.tolist(), first, [*first[1:], batch.num_rows], strict=True):
        yield place, batch.slice(int(begin), int(end - begin))


def _write_groups(path: Path, schema: pa.Schema, slices: Iterable[tuple[int, pa.RecordBatch]], groups: int) -> int:
    """Write a row group for each of `groups`, empty ones too; the slices come in their order. Returns the row count."""
    rows = 0
    held: list[pa.RecordBatch] = []
    with parquet_writer(path, schema) as writer:
        done = 0

        def flush() -> None:
            table = pa.Table.from_batches(held, schema)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            held.clear()

        for place, batch in slices:
            while done < place:
                flush()
                done += 1
            held.append(batch)
            rows += batch.num_rows
        while done < groups:
            flush()
            done += 1
    return rows
