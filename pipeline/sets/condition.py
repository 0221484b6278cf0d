"""A user's condition in parts: what is joined by AND at its top, each as text, with the columns that it names.

"clip_score >= 0.2 AND (a IS NULL OR b)" --DuckDB's own parser--> clip_score >= 0.2 | (a IS NULL) OR b
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

__all__ = ["Clause", "clauses_of"]


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One part."""

    sql: str
    columns: tuple[str, ...] = ()
    """Names in it that may be columns, in order; not those within its subqueries."""


def clauses_of(database: duckdb.DuckDBPyConnection, where: str) -> list[Clause]:
    """The parts of a condition, in order; the whole as one part where DuckDB does not take it apart."""
    whole = [Clause(sql=" ".join(where.split()))]
    try:
        parsed = json.loads(_asked(database, "SELECT json_serialize_sql(?)", f"SELECT 1 WHERE (\n{where}\n)"))
        statement = parsed["statements"][0]
        found = statement["node"].pop("where_clause")
        parts = found["children"] if found["type"] == "CONJUNCTION_AND" else [found]
        clauses = []
        for part in parts:
            node = {**statement["node"], "select_list": [part], "where_clause": None}
            text = json.dumps({**parsed, "statements": [{**statement, "node": node}]})
            sql = _asked(database, "SELECT json_deserialize_sql(CAST(? AS JSON))", text)
            clauses.append(Clause(sql=_bare(sql.removeprefix("SELECT ")), columns=tuple(dict.fromkeys(_names(part)))))
        return clauses
    except (duckdb.Error, ValueError, KeyError, IndexError, TypeError):
        return whole


def _asked(database: duckdb.DuckDBPyConnection, query: str, text: str) -> str:
    return str(database.execute(query, [text]).fetchall()[0][0])


def _bare(sql: str) -> str:
    """Without the brackets around the whole."""
    if not (sql.startswith("(") and sql.endswith(")")):
        return sql
    depth = 0
    for place, character in enumerate(sql):
        depth += (character == "(") - (character == ")")
        if not depth and place < len(sql) - 1:
            return sql  # it ends before: (a) OR (b)
    return sql[1:-1]


def _names(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if part.get("class") == "COLUMN_REF":
            yield str(part["column_names"][-1])
        elif part.get("class") != "SUBQUERY":
            for each in part.values():
                yield from _names(each)
    elif isinstance(part, list):
        for each in part:
            yield from _names(each)
