"""THE page: WebImageText from raw web data, every step in order, what goes in and what comes out.

    sources --extract--> links --clean, language, match, privacy--> matched (in one pass, or with the links kept)
    matched --exchange, dedup--> unique --less what a captured robots.txt forbids--> unique
    unique --balance: at most t pairs a query--> chosen --schedule--> plan
    plan --ask hosts for robots.txt, fetch what is not known yet, check image, resize--> pictures and facts
    plan with facts --judges, image dedup (if asked), final balance--> survivors --shards--> tars + Parquet

`build` says which steps there are, and looks at no file: `run`, `plan`, `status`, `explain`, the catalog's views and
docs/steps.md are all made from it. How a step is cut into tasks is asked when what it reads is done (`steps/step.py`).
"""

from __future__ import annotations

from pipeline.config import WitConfig
from pipeline.own.stages import NO_STAGES, OwnStages, with_own
from pipeline.records.schema import CANDIDATES, FETCHED
from pipeline.stages.clean.clean import Clean
from pipeline.stages.language.language import Language
from pipeline.stages.privacy.pii import Privacy
from pipeline.steps.balance.final import final_balance
from pipeline.steps.balance.plan import balance
from pipeline.steps.dedup import dedup
from pipeline.steps.exchange import exchange
from pipeline.steps.extract import extract_links
from pipeline.steps.fetch.facts import store_of
from pipeline.steps.fetch.fetch import fetch_pictures
from pipeline.steps.fetch.import_shards import import_pictures
from pipeline.steps.judge_links import judge_links, match
from pipeline.steps.judges.decontaminate import decontaminate
from pipeline.steps.judges.image_dedup import image_dedup
from pipeline.steps.judges.image_filters import filters
from pipeline.steps.judges.judge_pairs import judge_pairs
from pipeline.steps.match_links import match_links
from pipeline.steps.queries import list_queries
from pipeline.steps.robots.archives import robots_archives
from pipeline.steps.robots.permit import permitted
from pipeline.steps.schedule import schedule
from pipeline.steps.shards import write_shards
from pipeline.steps.source_parts import Sources
from pipeline.steps.step import Page
from pipeline.storage.place import place_of

__all__ = ["build", "sources_of"]


def build(c: WitConfig, own: OwnStages = NO_STAGES) -> Page:
    """The steps of a run, in order; `own` are stages that the user brings along. Looks at no file."""
    page = Page(place_of(c.output), seed=c.seed, ledger=c.ledger, elsewhere=store_of(c.fetch))
    sources = sources_of(c)

    # The query list; what the crawl knows of hosts' robots.txt, if asked for; links with text, and of these what is
    # clean, in a target language, and contains a query. Personal data in captions is named.
    queries = page.add(list_queries(c.queries, c.match))  #                         QUERIES
    captured = robots_archives(page, c.consent, c.fetch, c.max_bad_sources)  #      ROBOTS
    stages = [Clean(config=c.clean), Language(config=c.language), match(c.match, queries, c.texts)]
    stages = with_own([*stages, Privacy(config=c.privacy)], own.links, CANDIDATES)
    if c.texts.keep_candidates:
        links = page.add(extract_links(sources, c.extract, c.consent))  #           CANDIDATES
        matched = page.add(judge_links(links, stages, c.texts))  #                  MATCHED
    else:
        matched = page.add(match_links(sources, c.extract, c.consent, stages, c.texts))  # MATCHED

    # One pair a picture, or per (canonical URL, caption), over the whole set, less those that their hosts are known not
    # to allow; of these at most t a query.
    exchanged = page.add(exchange(matched, c.texts))
    unique = dedup(page, exchanged, queries, c.texts, c.dedup)  #                   MATCHED
    unique = permitted(page, unique, captured, queries, c.consent, c.fetch)  #      MATCHED
    chosen = balance(page, unique, queries, c.balance)  #                           QUERY_COUNTS
    planned = page.add(schedule(chosen.pairs, c.shards.samples_per_shard))  #       SELECTED

    # The pictures of the plan: those stored beside the source, those known from before, and the rest from the web.
    stored = None
    if sources.store_pictures:
        stored = import_pictures(page, sources, matched, c.image, c.fetch, c.extract, c.texts, c.privacy)  # FACTS, tar
    arrived = fetch_pictures(page, planned, stored, captured, c.fetch, c.consent, c.image, c.privacy)  # FETCHED, tar

    # Which pairs stay: all that is asked for here is off unless the config says so.
    judges = [*filters(page, c.filters), *decontaminate(page, c.decontaminate, c.image)]
    if judges := with_own(judges, own.pairs, FETCHED):
        arrived = page.add(judge_pairs(arrived, judges))  #                         FETCHED
    if c.image_dedup.mode != "off":
        arrived = image_dedup(page, arrived, c.image_dedup)  #                      FETCHED

    # What a reserve brought beyond t goes; what is left is written in the set's order.
    final = final_balance(page, arrived, chosen, queries, c.balance.mode)  #        FINAL_COUNTS
    page.add(write_shards(final, c.shards))  #                                      SAMPLES, tar
    return page


def sources_of(c: WitConfig) -> Sources:
    """What the config says of the sources."""
    return Sources(
        patterns=c.sources,
        format=c.source_format,
        most=c.max_sources,
        max_bad=c.max_bad_sources,
        max_rows=c.max_rows,
        table_bytes=c.texts.table_bytes_per_task,
        archive_bytes=c.texts.archive_bytes_per_task,
    )
