"""THE page: WebImageText from raw web data, every step in order, what goes in and what comes out.

    sources --extract--> candidates --texts (clean, language, match)--> matched
    matched --dedup--> unique --count, gather, threshold, balance--> chosen --schedule--> plan
    plan --fetch (fetch, check image)--> pictures and facts --shards--> tars + Parquet --publish--> OUT/shards

`recipe` yields the steps one after the other and is sent the done-records of each; whoever drives it may run
them (`run.py`), or only look (`plan`, `status`). A step's tasks depend on nothing but what came before.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from configs.load import ConfigError
from pipeline.engine import Done, EngineConfig
from pipeline.ledger import LedgerConfig
from pipeline.stages.balance import BalanceConfig
from pipeline.stages.check_image import ImageConfig
from pipeline.stages.clean import CleanConfig
from pipeline.stages.extract import ExtractConfig
from pipeline.stages.fetch import FetchConfig
from pipeline.stages.language import LanguageConfig
from pipeline.stages.match import MatchConfig
from pipeline.steps import dedup, extract, fetch, queries, select, shards, texts
from pipeline.steps.dedup import DedupConfig
from pipeline.steps.shards import ShardsConfig
from pipeline.steps.step import Step
from pipeline.steps.texts import TextsConfig

__all__ = ["PAGE", "Entry", "WitConfig", "recipe", "work_directory"]


@dataclass(frozen=True, kw_only=True)
class WitConfig:
    """Everything that a data set depends on."""

    sources: tuple[str, ...]
    """Crawl archives or tables: paths, globs or fsspec URLs."""
    source_format: Literal["auto", "wat", "warc", "parquet", "csv", "tsv", "jsonl"] = "auto"
    """What the sources are; auto goes by file name."""
    queries: str
    """The query list: a Parquet file made by `python -m query_list build`, or your own .txt, .csv or .parquet."""
    output: str
    """The directory of the data set."""
    seed: int = 0
    """Key of every random draw."""
    sample_web: str | None = None
    """Directory of the built-in sample web, to be served on this machine while fetching; null for the real web."""
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    texts: TextsConfig = field(default_factory=TextsConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    fetch: FetchConfig
    image: ImageConfig = field(default_factory=ImageConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources: name at least one crawl archive or table")


Recipe = Generator[Step, Sequence[Done], Sequence[Done]]


def recipe(config: WitConfig) -> Recipe:
    """Yield each step; receive its records; return the records of the finished shards."""

    def at(step: str) -> Path:
        return work_directory(Path(config.output), step)

    sources = extract.find_sources(config.sources)  # a missing one stops before any work

    # The query list, with the matcher's tables.                                          QUERIES
    listed = yield queries.plan(config.queries, config.match)
    query_list = (listed[0], at("queries"))

    # Archives and tables -> image links with text.                                       CANDIDATES
    extracted = yield extract.plan(sources, config.source_format, config.extract, config.ledger)

    # Clean the text, keep the target languages, keep what contains a query.              MATCHED
    matched = yield texts.plan(
        [(done, at("extract")) for done in extracted],
        *query_list,
        texts=config.texts,
        clean_config=config.clean,
        language=config.language,
        match_config=config.match,
        ledger=config.ledger,
    )

    # One row per (canonical URL, caption) over the whole set.                            MATCHED
    unique = yield dedup.plan(
        [(done, at("texts")) for done in matched],
        partitions=config.texts.partitions,
        num_queries=int(listed[0].info["num_queries"]),
        config=config.dedup,
        ledger=config.ledger,
    )

    # At most t pairs per query: count, find each query's threshold, keep what is selected.
    counted = yield select.plan_count(unique, at("dedup"))
    counts = (counted[0], at("count"))
    gathered = yield select.plan_gather(unique, at("dedup"), counts, query_list, config.balance, config.seed)
    found = yield select.plan_threshold(
        gathered, at("gather"), (unique, at("dedup")), counts, query_list, config.balance, config.seed
    )
    thresholds = (found[0], at("threshold"))
    chosen = yield select.plan_balance(
        unique, at("dedup"), thresholds, query_list, config.balance, config.seed, config.ledger
    )
    yield select.plan_report(chosen, at("balance"), counts, thresholds)  #                QUERY_COUNTS

    # Spread the plan over staging shards by keyed hash, request and check the pictures.  SELECTED, FETCHED
    scheduled = yield select.plan_schedule(chosen, at("balance"), config.shards.samples_per_shard)
    fetched = yield fetch.plan(scheduled, at("schedule"), config.fetch, config.image, config.ledger)

    # Write every surviving pair once, in the set's order.                                SAMPLES
    return (yield shards.plan(fetched, at("fetch"), config.shards))


def work_directory(output: Path, step: str) -> Path:
    """Where a step keeps its files."""
    return output / "work" / step


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the page, for people: what a step does."""

    step: str
    stages: str
    reads: str
    writes: str
    per: str


PAGE: tuple[Entry, ...] = (
    Entry(step="queries", stages="-", reads="query list", writes="QUERIES, tables", per="list"),
    Entry(step="extract", stages="extract", reads="WAT, WARC, tables", writes="CANDIDATES", per="source file"),
    Entry(step="texts", stages="clean, language, match", reads="CANDIDATES", writes="MATCHED", per="source file"),
    Entry(step="dedup", stages="dedup", reads="MATCHED", writes="MATCHED (unique)", per="hash partition"),
    Entry(step="count", stages="-", reads="MATCHED (unique)", writes="counts", per="whole set"),
    Entry(step="gather", stages="balance", reads="MATCHED (unique)", writes="edges", per="hash partition"),
    Entry(step="threshold", stages="balance", reads="edges", writes="thresholds", per="whole set"),
    Entry(step="balance", stages="balance", reads="MATCHED (unique)", writes="chosen pairs", per="hash partition"),
    Entry(step="query_counts", stages="-", reads="counts", writes="QUERY_COUNTS", per="whole set"),
    Entry(step="schedule", stages="-", reads="chosen pairs", writes="SELECTED", per="staging shard"),
    Entry(step="fetch", stages="fetch, check_image", reads="SELECTED", writes="FETCHED, tar", per="staging shard"),
    Entry(step="shards", stages="-", reads="FETCHED, tar", writes="SAMPLES, tar", per="shard"),
)
"""The steps of `recipe`, in order; a test holds the two equal."""
