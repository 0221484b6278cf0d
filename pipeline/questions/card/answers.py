"""The figures of a card: every one is a row of a named query, and the card shows the query beside it."""

from __future__ import annotations

from typing import Any

import duckdb

from pipeline.catalog.catalog import named_query

__all__ = ["Answers", "Row"]

Row = dict[str, Any]
"""Column -> value."""
_POINTS_A_DECADE = 60
_BALANCE_FIGURES = "balance_summary"


class Answers:
    """Named queries over one data set, by `make sql Q=NAME`. DuckDB reads what they need in bounded memory; what comes
    here is at most some hundred rows."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database

    def rows(self, name: str, limit: int | None = None) -> list[Row]:
        """The first rows of a named query."""
        return self._rows(named_query(name), limit)

    def one(self, name: str) -> Row:
        """The only row of a named query."""
        return self.rows(name, 1)[0]

    def balance_figures(self) -> list[Row]:
        """figure, here, published; nothing before the pairs are counted."""
        return self.rows(_BALANCE_FIGURES) if self._any("query_counts") else []

    def curve(self) -> list[Row]:
        """`queries_by_rank` with 60 points a decade, each a mean over ranks: 500,000 queries stay a small drawing."""
        return self._rows(
            f"""SELECT CASE WHEN max(rank) = any_value(last) THEN max(rank) ELSE min(rank) END AS rank,
                       avg(matched) AS matched, avg(selected) AS selected, avg(contained) AS contained
                FROM (SELECT *, max(rank) OVER () AS last FROM ({_without_end(named_query("queries_by_rank"))}))
                GROUP BY floor(log10(rank) * {_POINTS_A_DECADE})
                ORDER BY rank"""
        )

    def has_hosts(self) -> bool:
        """Whether the pairs that were fetched are there, not only those that became samples."""
        return self._any("hosts")

    def samples(self, most: int) -> list[Row]:
        """The first samples of the set's order, with the queries that selected them."""
        return self._rows(
            f"""SELECT shard, tar_offset, num_bytes, caption, lang, width, height,
                       list(query ORDER BY query) FILTER (query IS NOT NULL) AS queries
                FROM (SELECT *, unnest(CASE WHEN len(selected_by) > 0 THEN selected_by ELSE [NULL] END) AS query_id
                      FROM (SELECT * FROM published ORDER BY "order", uid LIMIT {most}))
                LEFT JOIN queries USING (query_id)
                GROUP BY shard, tar_offset, num_bytes, caption, lang, width, height, "order", uid
                ORDER BY "order", uid"""
        )

    def _any(self, view: str) -> bool:
        return bool(self._rows(f"SELECT 1 FROM {view} LIMIT 1"))

    def _rows(self, query: str, limit: int | None = None) -> list[Row]:
        result = self._database.execute(query)
        names = [column[0] for column in result.description or []]
        rows = result.fetchall() if limit is None else result.fetchmany(limit)
        return [dict(zip(names, row, strict=True)) for row in rows]


def _without_end(query: str) -> str:
    return query.strip().rstrip(";")
