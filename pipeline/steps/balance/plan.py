"""The balance of the plan: count, find t and the windows, gather, find thresholds, balance.

    unique (hash partitions) --count--> counts --limit--> t, windows --gather--> edges --threshold--> thresholds
    unique + thresholds --balance--> chosen --query_counts--> QUERY_COUNTS

What each of them computes, and why it is exact, is in `stages/balance`. What grows with the web is read batch by
batch, and only the columns that are needed; what is held is per query, and the chosen rows of one partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.engine import Data, Info, Needs, Task, output
from pipeline.records.earlier import as_now
from pipeline.records.identity import first_64_bits, keyed_hash
from pipeline.records.ledger import Ledger
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.schema import MATCHED, QUERY_COUNTS, REJECTIONS, SELECTED
from pipeline.stages.balance import BalanceConfig, mode_of
from pipeline.stages.balance.edges import EDGES, Gather, edges_of, gather_from, ids_of
from pipeline.stages.balance.limit import planned_limit, selection_limit
from pipeline.stages.balance.thresholds import solve
from pipeline.stages.balance.windows import Windows, find_windows
from pipeline.steps.balance.rule import Rule, Selection, ThresholdFiles, add_up, count_ids, load
from pipeline.steps.dedup import Unique
from pipeline.steps.queries import Queries
from pipeline.steps.step import Page, Run, step
from pipeline.storage.checked import load_vector, read_batches
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import parquet_writer, save_vector, write_parquet

__all__ = [
    "CHOSEN",
    "BalancePairs",
    "Balanced",
    "Chosen",
    "Count",
    "CountSelections",
    "Counts",
    "Edges",
    "FindLimit",
    "FindThresholds",
    "GatherEdges",
    "Limit",
    "QueryCounts",
    "balance",
    "balance_pairs",
    "count",
    "count_selections",
    "find_limit",
    "gather",
    "threshold",
]

_BATCH_ROWS = 65_536
_CHOSEN_GROUP_ROWS = 2_048  # few: a task of `schedule` reads a narrow range of `order` from every file
_EDGE_COLUMNS = ["uid", "query_ids"]
CHOSEN = pa.schema([*SELECTED][:-1])
"""All of SELECTED but the staging shard, which nobody knows before the plan is whole."""


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """What the balance of the plan leaves to the steps after it."""

    pairs: Data[Chosen]
    limit: Data[Limit]
    thresholds: Data[ThresholdFiles]
    query_counts: Data[QueryCounts]


def balance(page: Page, unique: Data[Unique], queries: Data[Queries], config: BalanceConfig) -> Balanced:
    """The steps that choose at most t pairs a query."""
    counts = page.add(count(unique))
    limit = page.add(find_limit(counts, config))
    edges = page.add(gather(unique, limit, queries, config.mode))
    thresholds = page.add(threshold(edges, unique, limit, queries, config.mode))
    pairs = page.add(balance_pairs(unique, thresholds, queries, config.mode))
    query_counts = page.add(count_selections(pairs, counts, thresholds))
    return Balanced(pairs=pairs, limit=limit, thresholds=thresholds, query_counts=query_counts)


# --- count: how many distinct pairs contain each query ------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many pairs contain each query. The one part tells `pairs`, all that there are."""

    counts: Location = output("counts.npy")
    """int64[Q]"""


@dataclass(frozen=True, kw_only=True)
class Count(Task[Counts]):
    """Add the partitions' counts up."""

    counts: Files
    pairs: int

    version = 2

    def work(self, out: Counts) -> Info:
        counts = add_up(self.counts)
        save_vector(out.counts.local, counts)
        return {"matches": int(counts.sum()), "pairs": self.pairs}


@step("count", Count, title="count pairs per query", per="set")
def count(run: Run, unique: Data[Unique]) -> Iterator[Count]:
    """One task."""
    yield Count(partition="all", counts=unique.files(lambda out: out.counts), pairs=unique.total("kept"))


# --- limit: t, and where to look for each head query's threshold ---------------------------------


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Where to look for thresholds. The one part tells `t`, and `planned_t` with its reserve."""

    counted: Location = output("counted.npy")
    """int64[Q]: the edges of each query, of the nameless one in mode none."""
    lows: Location = output("lows.npy")
    highs: Location = output("highs.npy")

    def windows(self) -> Windows:
        """What was found. Raises DamagedFileError."""
        return Windows(lows=load(self.lows), highs=load(self.highs))


@dataclass(frozen=True, kw_only=True)
class FindLimit(Task[Limit]):
    """t as a number, its reserve, and the windows."""

    counts: Location
    pairs: int
    config: BalanceConfig

    version = 2

    def work(self, out: Limit) -> Info:
        matches = load(self.counts)
        limit = selection_limit(matches, self.config, pairs=self.pairs)
        planned = planned_limit(limit, self.config)
        counts = mode_of(self.config.mode).counts(matches, self.pairs)
        windows = find_windows(counts, planned)
        save_vector(out.counted.local, counts)
        save_vector(out.lows.local, windows.lows)
        save_vector(out.highs.local, windows.highs)
        return {"t": limit, "planned_t": planned, "head_queries": int((counts > planned).sum())}


@step("limit", FindLimit, title="find t and the head queries", per="set")
def find_limit(run: Run, counts: Data[Counts], config: BalanceConfig) -> Iterator[FindLimit]:
    """One task."""
    counted = counts.only
    yield FindLimit(partition="all", counts=counted.files.counts, pairs=int(counted.info["pairs"]), config=config)


# --- gather and threshold: where each head query's sample ends ----------------------------------


def _gather(unique: Files, rule: Rule) -> Gather:
    return gather_from(
        lambda: (batch for file in unique for batch in read_batches(file, _BATCH_ROWS, _EDGE_COLUMNS)),
        mode_of(rule.mode),
        seed=rule.seed,
        query_hashes=load(rule.query_hashes),
    )


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The head queries' edges in their windows, of a hash partition."""

    edges: Location = output("edges.parquet", EDGES)
    below: Location = output("below.npy")
    """int64: edges under the window of each head query, in their order."""


@dataclass(frozen=True, kw_only=True)
class GatherEdges(Task[Edges]):
    """Those of a hash partition."""

    unique: Location
    limit: Limit
    rule: Rule

    version = 2

    def work(self, out: Edges) -> Info:
        windows = self.limit.windows()
        below = np.zeros(len(windows.lows), np.int64)
        rows = write_parquet(out.edges.local, _gather(Files([self.unique]), self.rule)(windows, below), EDGES)
        save_vector(out.below.local, below[windows.needed])
        return {"rows": rows}


@step("gather", GatherEdges, title="gather edges of head queries", per="hash partition")
def gather(
    run: Run, unique: Data[Unique], limit: Data[Limit], queries: Data[Queries], mode: str
) -> Iterator[GatherEdges]:
    """One task per hash partition."""
    rule = Rule.of(run, queries, mode)
    for part in unique.parts:
        yield GatherEdges(partition=part.name, unique=part.files.unique, limit=limit.only.files, rule=rule)


@dataclass(frozen=True, kw_only=True)
class FindThresholds(Task[ThresholdFiles]):
    """Every query's threshold."""

    edges: Files
    below: Files
    unique: Files
    limit: Limit
    planned_t: int
    rule: Rule

    version = 2
    needs = Needs(memory_mb=1500)

    def work(self, out: ThresholdFiles) -> Info:
        counts = load(self.limit.counted)
        below = np.zeros(len(counts), np.int64)
        below[self.limit.windows().needed] = add_up(self.below)
        edges = edges_of((batch for file in self.edges for batch in read_batches(file)), below)
        gather = _gather(self.unique, self.rule)
        thresholds, again = solve(gather, counts, self.planned_t, mode_of(self.rule.mode), gathered=edges)
        out.save(thresholds)
        return {"rows": len(edges.queries), "gathered_again": again}


@step("threshold", FindThresholds, title="find thresholds", per="set")
def threshold(
    run: Run, edges: Data[Edges], unique: Data[Unique], limit: Data[Limit], queries: Data[Queries], mode: str
) -> Iterator[FindThresholds]:
    """One task."""
    yield FindThresholds(
        partition="all",
        edges=edges.files(lambda out: out.edges),
        below=edges.files(lambda out: out.below),
        unique=unique.files(lambda out: out.unique),
        limit=limit.only.files,
        planned_t=int(limit.only.info["planned_t"]),
        rule=Rule.of(run, queries, mode),
    )


# --- balance: which pairs are selected -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The selected pairs of a hash partition, in the data set's order. A part tells how many: `selected`."""

    chosen: Location = output("chosen.parquet", CHOSEN)
    rejections: Location = output("rejections.parquet", REJECTIONS)
    selected: Location = output("selected.npy")
    """int64[Q]: the pairs that each query selects."""
    contained: Location = output("contained.npy")
    """int64[Q]: the selected pairs that contain each query."""


@dataclass(frozen=True, kw_only=True)
class BalancePairs(Task[Chosen]):
    """Those of a hash partition."""

    unique: Location
    thresholds: ThresholdFiles
    rule: Rule
    ledger: LedgerConfig

    version = 2
    needs = Needs(memory_mb=1000)

    def work(self, out: Chosen) -> Info:
        select = Selection(self.rule, self.thresholds)
        ledger = Ledger(out.rejections.local, self.ledger)
        kept: list[pa.RecordBatch] = []
        rows = 0
        for batch in read_batches(self.unique, _BATCH_ROWS):
            rows += batch.num_rows
            kept.append(ledger.add("balance", "pair", select(as_now(batch, MATCHED))))
        schema = pa.schema([*CHOSEN][:-1])
        table = pa.Table.from_batches([batch.cast(schema) for batch in kept], schema)
        url_ids = [first_64_bits(ids_of(batch.column("url_id"))) for batch in kept if batch.num_rows]
        orders = keyed_hash(self.rule.seed, np.concatenate([np.empty(0, np.uint64), *url_ids]))
        table = table.append_column(CHOSEN.field("order"), pa.array(orders, pa.uint64()))
        table = table.sort_by([("order", "ascending"), ("uid", "ascending")])
        with parquet_writer(out.chosen.local, CHOSEN) as writer:
            writer.write_table(table, row_group_size=_CHOSEN_GROUP_ROWS)
        queries = len(load_vector(self.rule.query_hashes))
        save_vector(out.selected.local, count_ids(table["selected_by"].chunks, queries))
        save_vector(out.contained.local, count_ids(table["query_ids"].chunks, queries))
        return {"rows": rows, "selected": table.num_rows, "lines": ledger.close()}


@step("balance", BalancePairs, title="balance", per="hash partition", stages=["balance"])
def balance_pairs(
    run: Run, unique: Data[Unique], thresholds: Data[ThresholdFiles], queries: Data[Queries], mode: str
) -> Iterator[BalancePairs]:
    """One task per hash partition."""
    rule = Rule.of(run, queries, mode)
    for part in unique.parts:
        yield BalancePairs(
            partition=part.name,
            unique=part.files.unique,
            thresholds=thresholds.only.files,
            rule=rule,
            ledger=run.ledger,
        )


# --- query_counts: what each query got -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class QueryCounts:
    """One row a query."""

    query_counts: Location = output("query_counts.parquet", QUERY_COUNTS, view="query_counts")


@dataclass(frozen=True, kw_only=True)
class CountSelections(Task[QueryCounts]):
    """QUERY_COUNTS, before and after."""

    counts: Location
    hashes: Location
    selected: Files
    contained: Files

    version = 2

    def work(self, out: QueryCounts) -> Info:
        counts = load(self.counts)
        columns = [
            pa.array(np.arange(len(counts), dtype=np.int32)),
            pa.array(counts),
            pa.array(np.array(np.broadcast_to(load(self.hashes), counts.shape))),  # one for all of a nameless query
            pa.array(add_up(self.selected)),
            pa.array(add_up(self.contained)),
        ]
        table = pa.Table.from_arrays(columns, schema=QUERY_COUNTS)
        return {"rows": write_parquet(out.query_counts.local, table, QUERY_COUNTS)}


@step("query_counts", CountSelections, title="count selections per query", per="set")
def count_selections(
    run: Run, chosen: Data[Chosen], counts: Data[Counts], thresholds: Data[ThresholdFiles]
) -> Iterator[CountSelections]:
    """One task."""
    yield CountSelections(
        partition="all",
        counts=counts.only.files.counts,
        hashes=thresholds.only.files.hashes,
        selected=chosen.files(lambda out: out.selected),
        contained=chosen.files(lambda out: out.contained),
    )
