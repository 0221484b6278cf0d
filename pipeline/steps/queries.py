"""queries: the query list, checked, with the matcher's tables ready to be memory-mapped by every worker."""

from __future__ import annotations

import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine import Info, Task, apart, output
from pipeline.matching.config import MatchConfig
from pipeline.matching.matcher import MATCH_VERSION, Matcher
from pipeline.records.queries import read_queries, write_queries
from pipeline.records.schema import QUERIES
from pipeline.steps.step import Run, step
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import save_vector

__all__ = ["ListQueries", "Queries", "list_queries"]


@dataclass(frozen=True, kw_only=True)
class Queries:
    """The query list as the other steps read it."""

    queries: Location = output("queries.parquet", QUERIES, view="queries")
    query_hashes: Location = output("query_hashes.npy")
    tables: Files = output(names=Matcher.FILES)


@dataclass(frozen=True, kw_only=True)
class ListQueries(Task[Queries]):
    """Read the list, build the tables."""

    path: str = apart()
    fingerprint: str
    config: MatchConfig
    rules: tuple[str, ...]

    def work(self, out: Queries) -> Info:
        queries = read_queries(self.path)
        write_queries(queries.table, out.queries.local)
        save_vector(out.query_hashes.local, queries.query_hashes)
        with tempfile.TemporaryDirectory(dir=out.queries.local.parent, prefix="tables.tmp-") as scratch:
            Matcher.build(queries, self.config).save(Path(scratch))
            for name, table in zip(Matcher.FILES, out.tables, strict=True):
                shutil.move(Path(scratch) / name, table.local)
        return {"rows": len(queries.queries), "num_queries": len(queries.queries), "fingerprint": queries.fingerprint}


@step("queries", ListQueries, title="prepare the query list", per="list")
def list_queries(run: Run, path: str, config: MatchConfig) -> Iterator[ListQueries]:
    """One task. Raises QueryListError at once when the list is missing or damaged."""
    rules = (str(MATCH_VERSION), unicodedata.unidata_version)
    fingerprint = read_queries(path).fingerprint
    yield ListQueries(partition="all", path=path, fingerprint=fingerprint, config=config, rules=rules)
