"""What a card shows of a set: answers, charts, pictures.

catalog --named queries--> answers --> charts --.
config, runs, records --> header ---------------+--> Card --> render.py
tars --by offset--> samples --------------------'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import duckdb

from pipeline.config import WitConfig
from pipeline.consent.config import Signal
from pipeline.pages import config_of, page_of, reasons_of
from pipeline.questions.card.answers import Answers, Row
from pipeline.questions.card.charts import Curve, Histogram, curve_of, histogram_of
from pipeline.questions.card.header import Header, header_of
from pipeline.questions.card.samples import Sample, samples_of
from pipeline.questions.card.words import answer_in_words
from pipeline.records.reasons import REASONS
from pipeline.steps.fetch.retries import Retries, retries_of
from pipeline.storage.place import Place

__all__ = ["Card", "gather"]

_PICTURES = 48
_ROWS = 15
_EXAMPLES = 30
_REJECTIONS = 60
_LARGEST_SIDE = 1536
_AFTERWARDS = ("subset", "takedown")
"""Stages of no step."""
_COPIES = ("dedup", "captions", "image_dedup")


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything that a card shows."""

    header: Header
    totals: Row
    figures: Sequence[Row]
    """Ours beside the published ones."""
    links_left: Sequence[Row]
    read: Sequence[Row]
    """Ledger lines of what is no link: sources, records."""
    retries: Retries
    curve: Curve | None
    query_sources: Sequence[Row]
    head: Sequence[Row]
    tail: Sequence[Row]
    unmatched: Sequence[Row]
    rejections: Sequence[Row]
    """With what each reason means."""
    shown: int
    """How many of them are seen at once."""
    words: Histogram | None
    characters: Histogram | None
    probability: Histogram | None
    languages: Sequence[Row]
    sides: Histogram | None
    aspects: Histogram | None
    formats: Sequence[Row]
    hosts: Sequence[Row]
    host_shares: Row | None
    """None where the pairs that were fetched are not there; `hosts` are those of samples then."""
    licences: Sequence[Row]
    consent: Sequence[Row]
    respected: Sequence[str]
    """The signals that the config says to honour."""
    copies: Sequence[Row]
    """Rejections as duplicates."""
    duplicates: Sequence[Row]
    samples: Sequence[Sample] = field(repr=False)


def gather(
    output: Place, database: duckdb.DuckDBPyConnection, *, config: WitConfig | None = None, pictures: bool = True
) -> Card:
    """Ask the data set in `output`, whose catalog is `database`. `config` is what to show in the place of its own.

    Raises OSError or DamagedFileError where a tar cannot be read, duckdb.Error where a Parquet file cannot.
    """
    ask, config = Answers(database), config or config_of(output)
    units = {row["unit"]: row for row in ask.rows("funnel") if row["unit"] not in ("link", "pair")}
    sources = units.get("source")
    header = header_of(output, config, None if sources is None else sources["kept"])
    failures = _explained(output, ask.rows("failures"))
    has_hosts = ask.has_hosts()
    return Card(
        header=header,
        totals=ask.one("totals"),
        figures=ask.balance_figures(),
        links_left=ask.rows("links_left"),
        read=list(units.values()),
        retries=retries_of(output),
        curve=curve_of(ask.curve(), header.t, header.limit),
        query_sources=ask.rows("query_sources", _ROWS),
        head=[_final(row) for row in ask.rows("balance", _ROWS)],
        tail=ask.rows("balance_tail", _EXAMPLES),
        unmatched=ask.rows("balance_unmatched", _EXAMPLES),
        rejections=failures[:_REJECTIONS],
        shown=_ROWS,
        words=_histogram(ask, "caption_words", 1, lambda at: _or_more(at, 40)),
        characters=_histogram(ask, "caption_characters", 10, lambda at: _or_more(at, 300)),
        probability=_histogram(ask, "language_probability", 0.05, lambda at: f"{at:.2f}"),
        languages=ask.rows("languages", _ROWS),
        sides=_sides(ask.rows("image_sizes")),
        aspects=_histogram(ask, "aspect_ratios", 1, _aspect),
        formats=ask.rows("formats", _ROWS),
        hosts=ask.rows("hosts" if has_hosts else "sample_hosts", _ROWS),
        host_shares=ask.one("host_shares") if has_hosts else None,
        licences=ask.rows("licences", _ROWS),
        consent=ask.rows("consent", _ROWS),
        respected=_respected(config),
        copies=[row for row in failures if row["stage"] in _COPIES],
        duplicates=ask.rows("duplicates"),
        samples=samples_of(output, ask.samples(_PICTURES)) if pictures else (),
    )


def _explained(output: Place, failures: Sequence[Row]) -> list[Row]:
    """`failures` with what each reason means; nothing is known of those of a later version."""
    reasons = {**reasons_of(page_of(output)), **{stage: REASONS[stage] for stage in _AFTERWARDS}}

    def meaning(stage: str, reason: str) -> str:
        of_stage = reasons.get(stage, {})
        return of_stage.get(reason) or answer_in_words(reason)

    return [{**row, "means": meaning(row["stage"], row["reason"])} for row in failures]


def _final(row: Row) -> Row:
    """A row of `balance` with the counts of the finished set where there are any."""
    return {
        **row,
        **{name: row[f"final_{name}"] for name in ("selected", "contained") if row[f"final_{name}"] is not None},
    }


Name = Callable[[float], str]


def _histogram(ask: Answers, query: str, step: float, name: Name, what: str = "samples") -> Histogram | None:
    """Of a named query that gives (where a bin begins, ..., samples)."""
    rows = [tuple(row.values()) for row in ask.rows(query)]
    return histogram_of([(float(row[0]), int(row[-1])) for row in rows], step=step, name=name, what=what)


def _sides(rows: Sequence[Row]) -> Histogram | None:
    """Of `image_sizes`, whose last bins are put into one."""
    counted: dict[float, int] = {}
    for row in rows:
        at = float(min(row["shorter_side_from"], _LARGEST_SIDE))
        counted[at] = counted.get(at, 0) + int(row["samples"])
    return histogram_of(sorted(counted.items()), step=64, name=lambda at: _or_more(at, _LARGEST_SIDE), what="samples")


def _or_more(at: float, last: int) -> str:
    return f"{at:.0f}{'+' if at >= last else ''}"


def _aspect(quarter_doublings: float) -> str:
    """Width to height, as people write it: 3:2 is 1.5:1 here."""
    ratio = 2 ** (abs(quarter_doublings) / 4)
    shown = f"{ratio:.2f}".rstrip("0").rstrip(".")
    return f"{shown}:1" if quarter_doublings >= 0 else f"1:{shown}"


_SIGNALS: dict[Signal, str] = {
    "tdm_reservation": "tdm-reservation",
    "content_usage": "Content-Usage: train-ai=n",
    "content_signal": "Content-Signal: ai-train=no",
    "xmp_data_mining": "plus:DataMining in XMP",
    "c2pa": "training and data mining assertions of C2PA",
}


def _respected(config: WitConfig | None) -> list[str]:
    """What the config says to honour, in words; empty where there is no config."""
    if config is None:
        return []
    found = []
    consent = config.consent
    if consent.honours("page_robots"):
        found.append(f"robots metas and headers of pages ({', '.join(consent.page_directives)})")
    if consent.honours("x_robots_tag"):
        found.append(f"X-Robots-Tag of pictures ({', '.join(consent.x_robots_directives)})")
    found += (words for signal, words in _SIGNALS.items() if consent.honours(signal))
    if config.fetch.robots_txt or consent.honours("robots_txt"):
        found.append("robots.txt of the pictures' hosts")
    if config.fetch.block:
        found.append(f"a block list of {len(config.fetch.block):,} entries")
    return found
