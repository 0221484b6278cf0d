"""The list: each source's queries by its own rank, cut at its budget.

totals, pages, WordNet, lists of one's own --one source after the other, each giving what is new--> the list
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine import Info, Task, apart, output
from pipeline.errors import QueryListError
from pipeline.records.queries import read_queries, write_queries
from pipeline.records.schema import QUERIES
from pipeline.storage.location import Files, Location
from query_list.bigrams import bigrams
from query_list.candidate import Candidate
from query_list.config import (
    BUILD_VERSION,
    BigramsConfig,
    EmptyQueriesConfig,
    TitlesConfig,
    UnigramsConfig,
    WordnetConfig,
)
from query_list.corpus import PAGES
from query_list.counting import COUNTS, read_bucket
from query_list.merge import Totals
from query_list.stop_words import Judge
from query_list.titles import titles
from query_list.unigrams import unigrams
from query_list.wordnet import wordnet

__all__ = ["RankAndCut", "Ranked"]

_SPARE_TITLES = 10_000
"""So many more titles are asked for, since those that say nothing are passed over: letters, digits, short words."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The list. Its part tells its `fingerprint`."""

    queries: Location = output("parquet", QUERIES)


@dataclass(frozen=True, kw_only=True)
class RankAndCut(Task[Ranked]):
    """Take from each source in turn what no earlier one gave, up to its budget."""

    path: str = apart()
    """Where the list is to go; named where there is none."""
    lists: Files
    totals: Totals
    pages: Files
    num_words: int
    """In the corpus, those too that are under the minimum."""
    wordnet_index: Files
    wordnet_data: Files
    unigrams: UnigramsConfig | None
    bigrams: BigramsConfig | None
    titles: TitlesConfig | None
    wordnet: WordnetConfig | None
    empty_queries: EmptyQueriesConfig

    version = BUILD_VERSION

    def work(self, out: Ranked) -> Info:
        chosen: dict[str, tuple[str, int, Candidate]] = {}
        dropped = {"lone_letter": 0, "near_stop_word": 0}
        words = _table_of(self.totals.words)
        judge = self._judge(words)

        def take(source: str, candidates: Sequence[Candidate], budget: int | None) -> None:
            rank = 0
            for candidate in candidates:
                if rank == budget:
                    return
                empty = judge.reason(candidate.query) if judge and source != "file" else None
                if empty is not None:
                    dropped[empty[0]] += 1
                elif candidate.query not in chosen:
                    chosen[candidate.query] = (source, rank, candidate)
                    rank += 1

        for file in self.lists:
            take("file", [Candidate(query=query) for query in read_queries(file.path).queries], None)
        single: set[str] = set()
        if self.unigrams is not None:
            found = unigrams(words, self.unigrams)
            take("unigrams", found, self.unigrams.budget)
            single = {candidate.query for candidate in found[: self.unigrams.budget]}
        if self.bigrams is not None:
            pairs = _table_of(self.totals.bigrams)
            take("bigrams", bigrams(pairs, words, self.num_words, single, self.bigrams), self.bigrams.budget)
        if self.titles is not None:
            # What earlier sources gave already is passed over, so so many more are asked for.
            limit = self.titles.budget + len(chosen) + _SPARE_TITLES
            views, pages = _reader_of(self.totals.views), _pages_reader(self.pages)
            scratch = out.queries.local.parent
            take("titles", titles(views, pages, self.titles, limit=limit, scratch=scratch), self.titles.budget)
        if self.wordnet is not None:
            index, data = ([file.path for file in files] for files in (self.wordnet_index, self.wordnet_data))
            take("wordnet", wordnet(index, data, self.wordnet), self.wordnet.budget)
        if not chosen:
            raise QueryListError(
                f"{self.path}: the sources give no query; set dump.files, wordnet.index or lists, "
                "or lower the minimum counts"
            )
        mark = write_queries(_table(chosen), out.queries.local)
        return {"rows": len(chosen), "fingerprint": mark, **dropped}

    def _judge(self, words: pa.Table) -> Judge | None:
        if self.empty_queries.rule == "keep":
            return None
        counts = dict(zip(words.column("key").to_pylist(), words.column("count").to_pylist(), strict=True))
        return Judge(self.empty_queries, counts, self.num_words)


def _table_of(totals: Files) -> pa.Table:
    tables = [read_bucket(file.place, 0) for file in totals]
    return pa.concat_tables(tables) if tables else COUNTS.empty_table()


def _reader_of(totals: Files) -> pa.RecordBatchReader:
    """The same, bucket by bucket."""
    batches = (batch for file in totals for batch in read_bucket(file.place, 0).to_batches())
    return pa.RecordBatchReader.from_batches(COUNTS, batches)


def _pages_reader(pages: Files) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(PAGES, (batch for file in pages for batch in _pages_of(file)))


def _pages_of(file: Location) -> Iterator[pa.RecordBatch]:
    source = file.place
    opened = source if isinstance(source, Path) else pa.PythonFile(source.open(), mode="r")
    yield from (batch.cast(PAGES) for batch in pq.ParquetFile(opened).iter_batches())


def _table(chosen: Mapping[str, tuple[str, int, Candidate]]) -> pa.Table:
    rows = list(chosen.values())
    columns = {
        "query_id": pa.array(range(len(rows)), pa.int32()),
        "query": pa.array(list(chosen), pa.string()),
        "source": pa.array([source for source, _, _ in rows], pa.string()),
        "count": pa.array([candidate.count for _, _, candidate in rows], pa.int64()),
        "views": pa.array([candidate.views for _, _, candidate in rows], pa.int64()),
        "pmi": pa.array([candidate.pmi for _, _, candidate in rows], pa.float64()),
        "rank": pa.array([rank for _, rank, _ in rows], pa.int32()),
    }
    return pa.table(columns, schema=QUERIES)
