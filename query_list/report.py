"""What a query list holds, which of its queries are in vain, and how the two rules of matching differ."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.matching.config import MatchConfig
from pipeline.matching.matcher import Matcher, can_match, normal_form
from pipeline.records.queries import QueryList
from pipeline.storage.lines import read_lines
from pipeline.storage.place import Place
from pipeline.storage.store_client import StoreError
from query_list.config import EmptyQueriesConfig
from query_list.stop_words import Judge

__all__ = ["Difference", "Finding", "SourceFacts", "diff_rules", "lint", "read_texts", "stats"]

_NEAR_STOP_TEXTS = 0.05
"""A query is called a near stop word from this share of sample texts that contain it on."""


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """One source of a list."""

    source: str
    num_queries: int
    figure: str
    """Range of what its queries are ranked by."""
    first: tuple[str, ...]
    last: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One query that deserves a look."""

    kind: str
    """never_matches, duplicate, lone_letter, near_stop_word."""
    query_id: int
    query: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One (text, query) on which the two rules disagree."""

    only: str
    """The rule that finds the query in the text."""
    query: str
    text: str


def stats(query_list: QueryList, examples: int = 5) -> list[SourceFacts]:
    """Sizes, figures and examples by source, in the list's order."""
    table = query_list.table
    sources = np.array(table.column("source").to_pylist())
    facts: list[SourceFacts] = []
    for source in dict.fromkeys(sources.tolist()):
        rows = table.filter(pa.array(sources == source))
        figure = ""
        for name in ("pmi", "views", "count"):
            values = [value for value in rows.column(name).to_pylist() if value is not None]
            if values and not figure:
                figure = f"{name} {max(values):,} to {min(values):,}"
        queries = rows.column("query").to_pylist()
        facts.append(
            SourceFacts(
                source=source,
                num_queries=len(queries),
                figure=figure,
                first=tuple(queries[:examples]),
                last=tuple(queries[-examples:]),
            )
        )
    return facts


def lint(
    query_list: QueryList,
    config: MatchConfig,
    texts: Sequence[str] = (),
    *,
    empty_queries: EmptyQueriesConfig | None = None,
) -> list[Finding]:
    """Queries that can never match, that match what an earlier one matches, or that say nothing about a picture.

    These go by the rule of `build` (stop_words.py) with the list's own counts if it has some, and by the share of
    `texts` (if given) that contain them.
    """
    findings: list[Finding] = []
    seen: dict[str, int] = {}
    judge = _judge(query_list, empty_queries or EmptyQueriesConfig())
    share_of_texts = _shares(query_list, config, texts)
    for query_id, query in enumerate(query_list.queries):
        if not can_match(query, config):
            detail = "no letter or digit in it" if config.rule == "words" else "a wrapped mark inside a word"
            findings.append(Finding(kind="never_matches", query_id=query_id, query=query, detail=detail))
            continue
        first = seen.setdefault(normal_form(query, config), query_id)
        if first != query_id:
            detail = f"matches exactly what {query_list.queries[first]!r} (query {first}) matches"
            findings.append(Finding(kind="duplicate", query_id=query_id, query=query, detail=detail))
        empty = judge.reason(query)
        if empty is None and len(texts) and share_of_texts[query_id] >= _NEAR_STOP_TEXTS:
            empty = "near_stop_word", f"in {share_of_texts[query_id]:.1%} of the texts"
        if empty is not None:
            findings.append(Finding(kind=empty[0], query_id=query_id, query=query, detail=empty[1]))
    return findings


def _judge(query_list: QueryList, config: EmptyQueriesConfig) -> Judge:
    table = query_list.table
    rows = zip(*(table.column(name).to_pylist() for name in ("query", "count", "source")), strict=True)
    counts = {query: count for query, count, source in rows if count and source == "unigrams"}
    return Judge(config, counts, sum(counts.values()))


def diff_rules(query_list: QueryList, texts: Sequence[str], config: MatchConfig) -> list[Difference]:
    """Every (text, query) that `config`'s words rule matches and the published rule does not, or the reverse."""
    ours = Matcher.build(query_list, MatchConfig(rule="words", case=config.case))
    published = Matcher.build(query_list, MatchConfig(rule="metaclip"))
    our_offsets, our_ids = ours.find(texts)
    their_offsets, their_ids = published.find(texts)
    differences: list[Difference] = []
    for i, text in enumerate(texts):
        mine = set(our_ids[our_offsets[i] : our_offsets[i + 1]].tolist())
        theirs = set(their_ids[their_offsets[i] : their_offsets[i + 1]].tolist())
        for only, ids in (("words", mine - theirs), ("metaclip", theirs - mine)):
            differences += [Difference(only=only, query=query_list.queries[q], text=text) for q in sorted(ids)]
    return differences


def read_texts(path: Place) -> list[str]:
    """Texts of a .txt file (one a line) or of the column caption, alt_text or text of a .parquet, .csv or .tsv.

    Raises InputError where there is no such file or column.
    """
    names = ("caption", "alt_text", "text")
    try:
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path if isinstance(path, Path) else pa.BufferReader(path.read_bytes()))
            columns = [name for name in names if name in file.schema_arrow.names]
            if columns:
                return [text or "" for text in file.read(columns=columns[:1]).column(0).to_pylist()]
        elif path.suffix in (".csv", ".tsv"):
            with io.StringIO(path.read_bytes().decode("utf-8"), newline="") as lines:
                reader = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")
                columns = [name for name in names if name in (reader.fieldnames or ())]
                if columns:
                    return [row[columns[0]] or "" for row in reader]
        else:
            return read_lines(path)
    except StoreError:
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read the sample of texts ({error}); give a .txt with one a line") from error
    raise InputError(f"{path}: has none of the columns {', '.join(names)}; rename one")


def _shares(
    query_list: QueryList, config: MatchConfig, texts: Sequence[str]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    counts = np.zeros(len(query_list.queries), np.float64)
    if len(texts):
        _, ids = Matcher.build(query_list, config).find(texts)
        counts += np.bincount(ids, minlength=len(counts))
        counts /= len(texts)
    return counts
