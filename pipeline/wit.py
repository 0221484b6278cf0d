"""THE page: WebImageText from raw web data, every step in order, what goes in and what comes out.

    sources --extract--> candidates --texts (clean, language, match)--> matched
    matched --exchange, dedup--> unique --count, limit, gather, threshold, balance--> chosen --schedule--> plan
    matched --import (if pictures are stored beside the source: check image), exchange--> pictures and facts
    plan --requests, fetch (fetch, check image)--> pictures and facts --fetched--> plan with facts
    plan with facts --filters, decontaminate, image dedup (if asked), final balance--> survivors
    survivors --shards--> tars + Parquet --publish--> OUT/shards

`recipe` yields the steps one after the other and is sent the done-records of each; whoever drives it may run
them (`run.py`), or only look (`plan`, `status`). A step's tasks depend on nothing but what came before.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import WitConfig
from pipeline.engine import Done
from pipeline.stages.fetch.block import BlockList
from pipeline.stages.fetch.transfer import check_authorities
from pipeline.stages.language import lexicon_fingerprints
from pipeline.steps import (
    decontaminate,
    dedup,
    exchange,
    extract,
    fetch,
    fetched,
    final,
    image_dedup,
    image_filters,
    import_shards,
    imported,
    queries,
    requests,
    schedule,
    select,
    shards,
    texts,
)
from pipeline.steps.facts import facts_in, settings_of
from pipeline.steps.retries import retries_of
from pipeline.steps.sources import Stamp, find_sources
from pipeline.steps.step import Step
from pipeline.storage import is_output

__all__ = ["PAGE", "Entry", "Recipe", "WitConfig", "recipe", "sources_of", "work_directory"]


Place = tuple[Sequence[Done], Path]
"""The records of a step, and the directory that their files are in."""
Recipe = Generator[Step, Sequence[Done], Sequence[Done]]
"""Yields steps, is sent the records of each, returns those of the last."""


def recipe(config: WitConfig) -> Recipe:
    """Yield each step; receive its records; return the records of the finished shards."""

    def at(step: str) -> Path:
        return work_directory(Path(config.output), step)

    sources = sources_of(config)  # a missing one stops here
    lexicon_fingerprints(config.language)  # so does a word list that cannot be read
    check_authorities(config.fetch)  # mistakes in the files that fetching goes by
    extract.check(sources, config.source_format, config.extract, max_bad=config.max_bad_sources)  # and missing columns
    block = BlockList(config.fetch.block, config.fetch.block_files)

    # The query list, with the matcher's tables.                                          QUERIES
    listed = yield queries.plan(config.queries, config.match)
    query_list = (listed[0], at("queries"))

    # Archives and tables -> image links with text.                                       CANDIDATES
    extracted = yield extract.plan(
        sources, config.source_format, config.extract, config.ledger, max_bad=config.max_bad_sources
    )

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

    # Pictures that are stored beside their rows need no request.                         FACTS
    stored = yield from _import(config, list(sources), (matched, at("texts")))

    # One row per picture, or per (canonical URL, caption), over the whole set.            MATCHED
    partitions, limits = config.texts.partitions, config.dedup
    blocks = yield exchange.plan(
        [(done, at("texts")) for done in matched], partitions=partitions, rows_per_task=config.texts.rows_per_flush
    )
    inputs = [(done, at("exchange")) for done in blocks]
    pairs = yield dedup.plan_pairs(inputs, partitions=partitions, config=limits, ledger=config.ledger)
    captions = yield dedup.plan_captions(pairs, at("pairs"), limits)
    unique = yield dedup.plan(
        inputs,
        partitions=partitions,
        num_queries=int(listed[0].info["num_queries"]),
        config=limits,
        ledger=config.ledger,
        seed=config.seed,
        pairs=(pairs, at("pairs")),
        captions=(captions, at("captions")),
    )

    # At most t pairs per query: count, find each query's threshold, keep what is selected.
    balance, seed = config.balance, config.seed
    (counted,) = yield select.plan_count(unique, at("dedup"))
    counts = (counted, at("count"))
    (limited,) = yield select.plan_limit(counts, balance)
    limit = (limited, at("limit"))
    gathered = yield select.plan_gather(unique, at("dedup"), limit, query_list, balance, seed)
    (found,) = yield select.plan_threshold(
        gathered, at("gather"), (unique, at("dedup")), limit, query_list, balance, seed
    )
    thresholds = (found, at("threshold"))
    chosen = yield select.plan_balance(unique, at("dedup"), thresholds, query_list, balance, seed, config.ledger)
    (reported,) = yield select.plan_report(chosen, at("balance"), counts, thresholds)  #  QUERY_COUNTS
    query_counts = (reported, at("query_counts"))

    # Spread the plan over staging shards by keyed hash; request and check the pictures that are not known yet.
    spread = yield schedule.plan(chosen, at("balance"), config.shards.samples_per_shard)  # SELECTED
    planned = schedule.shards_of(spread)
    settings, facts = settings_of(config.fetch, config.image), at("fetch")
    known = [*facts_in(facts), *imported.facts_of(stored, settings=settings, seed=seed)]
    asked = yield requests.plan(
        planned,
        at("schedule"),
        at("requests"),
        (known, facts),
        settings=settings,
        seed=seed,
        fetch=config.fetch,
        block=block,
        retries=retries_of(Path(config.output)),
    )
    answers = yield fetch.plan(asked, at("requests"), planned, config.fetch, config.image, seed, block=block)
    arrived = yield fetched.plan(  #                                                      FETCHED
        (planned, at("schedule")), (asked, at("requests")), (answers, facts), config.ledger
    )

    # Filters, evaluation pictures, pictures that are the same: all off unless the config says so.
    survivors = yield from _judge(config, (arrived, at("fetched")))

    # What a reserve brought beyond t goes: each query keeps its t smallest among the survivors.
    (last,) = yield final.plan_threshold(*survivors, limit, thresholds, query_list, balance, seed)
    final_thresholds = (last, at("final_threshold"))
    kept = yield final.plan_balance(*survivors, final_thresholds, query_list, balance, seed, config.ledger)
    yield final.plan_counts(kept, at("final_balance"), final_thresholds, limit, query_counts, balance)

    # Write every surviving pair once, in the set's order.                                SAMPLES
    return (yield shards.plan(kept, at("final_balance"), config.shards, tars=facts))


def _import(config: WitConfig, sources: Sequence[str], matched: Place) -> Recipe:
    """The steps that take pictures from beside their rows, where the sources have them; returns the facts' records."""
    if config.source_format != "img2dataset":
        sources, matched = (), ((), matched[1])
    work = work_directory(Path(config.output), "fetch")
    most, missing = config.fetch.max_bytes, config.extract.missing_pictures
    stored = yield import_shards.plan(sources, matched, config.image, max_bytes=most, missing=missing)
    cut = yield imported.plan_exchange(stored, work, config.seed, rows_per_task=config.texts.rows_per_flush)
    return (yield imported.plan(cut, work_directory(Path(config.output), "import_exchange")))


def _judge(config: WitConfig, survivors: Place) -> Generator[Step, Sequence[Done], Place]:
    """The steps that turn pictures away after they arrived; FETCHED in, FETCHED out."""

    def at(step: str) -> Path:
        return work_directory(Path(config.output), step)

    scored = yield image_filters.plan_scores(config.filters)
    filtered = yield image_filters.plan(survivors, (scored, at("scores")), config.filters, config.ledger)
    survivors = (filtered, at("filters")) if filtered else survivors

    known = yield decontaminate.plan_evaluation(config.decontaminate, config.image)
    apart = yield decontaminate.plan(survivors, (known, at("evaluation")), config.decontaminate, config.ledger)
    survivors = (apart, at("decontaminate")) if apart else survivors

    same_as = config.image_dedup
    pictures = ((yield image_dedup.plan_pictures(survivors, same_as)), at("pictures"))
    same = ((yield image_dedup.plan_same(pictures, same_as)), at("same_pictures"))
    near = ((yield image_dedup.plan_near(same, same_as)), at("near_pictures"))
    clusters = ((yield image_dedup.plan_clusters(near, same, same_as)), at("clusters"))
    single = yield image_dedup.plan(survivors, same, clusters, same_as, config.ledger)
    return (single, at("image_dedup")) if single else survivors


def sources_of(config: WitConfig) -> Mapping[str, Stamp]:
    """The files that the config names, with their stamps. Raises InputError for one that is missing."""
    output = Path(config.output)
    lists = work_directory(output, "lists") if is_output(output) else None
    most, share = config.max_sources, config.max_bad_sources
    return find_sources(config.sources, most=most, seed=config.seed, lists=lists, max_missing=share)


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
    """What one task is for."""
    optional: bool = False
    """Whether it has tasks only where the config asks for it."""


PAGE: tuple[Entry, ...] = (
    Entry(step="queries", stages="-", reads="query list", writes="QUERIES, tables", per="list"),
    Entry(step="extract", stages="extract", reads="WAT, WARC, tables", writes="CANDIDATES", per="source file"),
    Entry(step="texts", stages="clean, language, match", reads="CANDIDATES", writes="MATCHED", per="source file"),
    Entry(
        step="fetch/imported",
        stages="check_image",
        reads="MATCHED, tar",
        writes="FACTS, tar",
        per="source file",
        optional=True,
    ),
    Entry(
        step="import_exchange", stages="-", reads="FACTS", writes="FACTS, by order", per="million rows", optional=True
    ),
    Entry(step="fetch/by_order", stages="-", reads="FACTS", writes="FACTS", per="range of order", optional=True),
    Entry(step="exchange", stages="-", reads="MATCHED", writes="MATCHED, by URL", per="million rows"),
    Entry(
        step="pairs", stages="dedup", reads="MATCHED", writes="MATCHED, captions", per="hash partition", optional=True
    ),
    Entry(step="captions", stages="-", reads="captions", writes="boilerplate", per="hash partition", optional=True),
    Entry(step="dedup", stages="dedup, captions", reads="MATCHED", writes="MATCHED (unique)", per="hash partition"),
    Entry(step="count", stages="-", reads="MATCHED (unique)", writes="counts", per="set"),
    Entry(step="limit", stages="balance", reads="counts", writes="t, windows", per="set"),
    Entry(step="gather", stages="balance", reads="MATCHED (unique)", writes="edges", per="hash partition"),
    Entry(step="threshold", stages="balance", reads="edges", writes="thresholds", per="set"),
    Entry(step="balance", stages="balance", reads="MATCHED (unique)", writes="chosen pairs", per="hash partition"),
    Entry(step="query_counts", stages="-", reads="counts", writes="QUERY_COUNTS", per="set"),
    Entry(step="schedule", stages="-", reads="chosen pairs", writes="SELECTED", per="64 shards"),
    Entry(step="requests", stages="-", reads="SELECTED, FACTS", writes="missing URLs", per="staging shard"),
    Entry(step="fetch", stages="fetch, check_image", reads="missing URLs", writes="FACTS, tar", per="staging shard"),
    Entry(step="fetched", stages="-", reads="SELECTED, FACTS", writes="FETCHED", per="staging shard"),
    Entry(step="scores", stages="-", reads="scores by uid", writes="scores", per="score file", optional=True),
    Entry(step="filters", stages="filters", reads="FETCHED", writes="FETCHED", per="staging shard", optional=True),
    Entry(step="evaluation", stages="-", reads="evaluation sets", writes="their hashes", per="set", optional=True),
    Entry(
        step="decontaminate",
        stages="decontaminate",
        reads="FETCHED",
        writes="FETCHED",
        per="staging shard",
        optional=True,
    ),
    Entry(step="pictures", stages="-", reads="FETCHED", writes="pictures", per="staging shard", optional=True),
    Entry(
        step="same_pictures",
        stages="image_dedup",
        reads="pictures",
        writes="the same",
        per="hash partition",
        optional=True,
    ),
    Entry(
        step="near_pictures", stages="image_dedup", reads="pictures", writes="pairs alike", per="band", optional=True
    ),
    Entry(step="clusters", stages="image_dedup", reads="pairs alike", writes="who goes", per="set", optional=True),
    Entry(
        step="image_dedup", stages="image_dedup", reads="FETCHED", writes="FETCHED", per="staging shard", optional=True
    ),
    Entry(step="final_threshold", stages="balance", reads="FETCHED", writes="thresholds", per="set"),
    Entry(step="final_balance", stages="balance", reads="FETCHED", writes="FETCHED (final)", per="staging shard"),
    Entry(step="final_counts", stages="-", reads="FETCHED (final)", writes="FINAL_COUNTS", per="set"),
    Entry(step="shards", stages="-", reads="FETCHED (final)", writes="SAMPLES, tar", per="shard"),
)
"""The steps of `recipe`, in order; a test holds the two equal."""
