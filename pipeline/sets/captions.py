"""Of each sample the one text that becomes its caption: what the page said, or what captioners wrote of the picture.

    samples, captions by uid, scores --every text as a row, those that fit, the first by `choose`--> one a sample
    view `samples` --caption, caption_source, caption_score, alt_text_score replaced--> view `samples`

A sample none of whose texts fits has a null for `caption_source`. `alt_text` is not touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.catalog.catalog import quote_name, sql_errors
from pipeline.catalog.uid_tables import rows_by_uid
from pipeline.errors import InputError
from pipeline.records.schema import CAPTIONS_MADE_BY
from pipeline.sets.captions_config import CaptionsConfig
from pipeline.storage.checked import read_schema
from pipeline.storage.duck import quote_text
from pipeline.storage.location import Location
from pipeline.storage.place import files_in, place_of

__all__ = ["CHOSEN", "WEB", "choose_captions", "detail_of"]

CHOSEN = ("caption", "caption_source", "caption_score", "alt_text_score")
"""Columns of a sample that say which text it has."""
WEB = "web"
"""The source of what a page said."""
_UNKNOWN = "synthetic"
_WROTE = "give what `openwit caption` or `openwit score-captions` wrote of this very set"
_AGAIN = "run `openwit caption` over this set again, it goes on where it stopped"


@dataclass(frozen=True, kw_only=True)
class _Table:
    """One of the files."""

    sql: str
    """A SELECT of uid, captions, scores and alt_text_score."""
    source: str
    has_scores: bool


def choose_captions(database: duckdb.DuckDBPyConnection, config: CaptionsConfig) -> None:
    """Have the view `samples` show what is chosen, for as long as `database` is open.

    Raises InputError where a file holds no captions, those of another set, not all of this one or some twice; and where
    scores are asked for that are not there, or were made by different judges.
    """
    tables = [_table(database, file) for file in config.files]
    _check_judges(config)
    scored = all(table.has_scores for table in tables)
    if not scored and (config.choose == "best" or config.min_score is not None):
        lacks = next(file for file, table in zip(config.files, tables, strict=True) if not table.has_scores)
        asked = "--choose best" if config.choose == "best" else "--min_caption_score"
        raise InputError(
            f"{lacks}: has no scores, which {asked} goes by; make them with `openwit score-captions`, or set "
            "--choose synthetic"
        )
    with sql_errors("captions"):
        for file, table in zip(config.files, tables, strict=True):
            _check_uids(database, file, table)
        published = {str(row[0]) for row in database.execute("DESCRIBE published").fetchall()}
        # Of a set whose captions were chosen before, the text that it has may be a captioner's.
        own = f"coalesce(p.caption_source, {quote_text(WEB)})" if "caption_source" in published else quote_text(WEB)
        database.execute(f"CREATE TABLE chosen_captions AS {_chosen(config, tables, own)}")
        # A view keeps the columns that were there when it was made.
        database.execute("ALTER VIEW samples RENAME TO samples_before_captions")
        there = {str(row[0]) for row in database.execute("DESCRIBE samples_before_captions").fetchall()}
        gone = ", ".join(name for name in CHOSEN if name in there)
        said = ", ".join(f"chosen.{name}" for name in (*CHOSEN, *_TOLD))
        database.execute(
            f"CREATE VIEW samples AS SELECT given.* EXCLUDE ({gone}), {said} FROM samples_before_captions AS given "
            "LEFT JOIN chosen_captions AS chosen ON given.uid = chosen.uid"
        )


_BEST = "best score of captions"
_TOLD = (quote_name(_BEST),)
"""What the ledger tells beside the choice."""


def detail_of(config: CaptionsConfig) -> str:
    """SQL of a text over the view `samples`: why none of a sample's texts fits."""

    def number(column: str) -> str:
        return f"coalesce(printf('%.4g', {column}::DOUBLE), 'none')"

    return (
        f"'its own text ' || {number('alt_text_score')} || ', the best caption ' || {number(quote_name(_BEST))} || "
        f"{quote_text('' if config.min_score is None else f', below {config.min_score:g}')}"
    )


def _table(database: duckdb.DuckDBPyConnection, file: str) -> _Table:
    place = place_of(file)
    rows, columns = rows_by_uid(database, place)
    kinds = {row[0]: str(row[1]) for row in database.execute(f"DESCRIBE {rows}").fetchall()}
    if kinds.get("captions") != "VARCHAR[]":
        raise InputError(f"{file}: has no column captions, lists of strings (but {', '.join(columns)}); {_WROTE}")
    has_scores = kinds.get("scores") in ("FLOAT[]", "DOUBLE[]") and kinds.get("alt_text_score") in ("FLOAT", "DOUBLE")
    scores = "scores::FLOAT[] AS scores, alt_text_score::FLOAT AS alt_text_score"
    if not has_scores:
        scores = "NULL::FLOAT[] AS scores, NULL::FLOAT AS alt_text_score"
    return _Table(
        sql=f"SELECT uid, captions, {scores} FROM ({rows})",
        source=str(_made_by(file).get("source", _UNKNOWN)),
        has_scores=has_scores,
    )


def _made_by(file: str) -> Mapping[str, Any]:
    """What the file says of itself; nothing where it is not ours."""
    place = place_of(file)
    first = files_in(place, "*.parquet")[0] if place.is_dir() else place
    schema: pa.Schema = read_schema(Location(str(first), ""))
    try:
        told = json.loads((schema.metadata or {}).get(CAPTIONS_MADE_BY.encode(), b"{}"))
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _check_judges(config: CaptionsConfig) -> None:
    judges = {file: judge for file in config.files if (judge := _made_by(file).get("judge")) is not None}
    if len(set(judges.values())) > 1:
        first, other = list(judges)[:2]
        raise InputError(
            f"{first} and {other}: scored by different models, whose scores do not compare; score both by one"
        )


def _check_uids(database: duckdb.DuckDBPyConnection, file: str, table: _Table) -> None:
    count, different = database.execute(f"SELECT count(*), count(DISTINCT uid) FROM ({table.sql})").fetchall()[0]
    if count != different:
        again = database.execute(
            f"SELECT lower(hex(uid)) FROM ({table.sql}) GROUP BY uid HAVING count(*) > 1 ORDER BY uid LIMIT 1"
        ).fetchall()[0][0]
        raise InputError(f"{file}: {count - different:,} rows repeat a uid, for example {again}; keep one each")
    samples, missing, example = database.execute(
        "SELECT (SELECT count(*) FROM published), count(*), lower(hex(min(uid))) "
        f"FROM published ANTI JOIN ({table.sql}) USING (uid)"
    ).fetchall()[0]
    if samples and missing == samples:
        raise InputError(f"{file}: none of its {count:,} uids is a sample of this set; {_WROTE}")
    if missing:
        raise InputError(f"{file}: {missing:,} samples have no row in it, for example {example}; {_AGAIN}")


def _chosen(config: CaptionsConfig, tables: Sequence[_Table], own_source: str) -> str:
    """SQL: of every sample its uid, CHOSEN, and the best score of its captions; nulls where no text fits. `own_source`
    is SQL of where the text that it has is from."""
    own = " ".join(
        f"LEFT JOIN (SELECT uid, alt_text_score FROM ({table.sql})) AS t{number} ON p.uid = t{number}.uid"
        for number, table in enumerate(tables)
    )
    own_score = f"coalesce({', '.join(f't{number}.alt_text_score' for number in range(len(tables)))})"
    texts = [
        f"SELECT p.uid, {own_source} AS source, p.caption AS text, {own_score} AS score, -1 AS file, 0 AS place "
        f"FROM published AS p {own}"
    ]
    for number, table in enumerate(tables):
        texts.append(
            f"SELECT uid, {quote_text(table.source)} AS source, unnest(captions) AS text, unnest(scores) AS score, "
            f"{number} AS file, generate_subscripts(captions, 1) AS place FROM ({table.sql}) "
            "SEMI JOIN published USING (uid)"
        )
    first = {"best": "", "web": "file >= 0, ", "synthetic": "file < 0, "}[config.choose]
    fits = "trim(text) <> ''"
    if config.min_score is not None:
        fits += f" AND score >= {float(config.min_score)!r}::FLOAT"
    return (
        f"WITH texts AS ({' UNION ALL '.join(texts)}), "
        "firsts AS (SELECT uid, source, CASE WHEN file < 0 THEN text ELSE trim(text) END AS text, score FROM texts "
        f"WHERE {fits} QUALIFY "
        f"row_number() OVER (PARTITION BY uid ORDER BY {first}score DESC NULLS LAST, file, place) = 1), "
        "of_texts AS (SELECT uid, max(score) FILTER (file < 0) AS alt_text_score, "
        f"max(score) FILTER (file >= 0) AS {quote_name(_BEST)} FROM texts GROUP BY uid) "
        "SELECT of_texts.uid, firsts.text AS caption, firsts.source AS caption_source, firsts.score AS caption_score, "
        f"of_texts.alt_text_score, of_texts.{quote_name(_BEST)} FROM of_texts LEFT JOIN firsts USING (uid)"
    )
