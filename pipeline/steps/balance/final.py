"""The balance of what was really fetched, a pure function of the plan and of which pairs survived.

    FETCHED (all staging shards) --final_threshold--> thresholds among each query's surviving planned edges
    FETCHED + thresholds --final_balance--> FETCHED, survivors only, `selected_by` final --final_counts--> FINAL_COUNTS

Each query takes its t smallest planned edges whose pair survived (`stages/balance`). Without a reserve no query has
more than t survivors, and nothing is cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.engine import Data, Info, Needs, Task, output
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.schema import FINAL_COUNTS, QUERY_COUNTS
from pipeline.stages.balance import mode_of
from pipeline.stages.balance.edges import gather_from
from pipeline.stages.balance.thresholds import solve
from pipeline.steps.balance.plan import Balanced, Limit, QueryCounts
from pipeline.steps.balance.rule import Rule, Selection, ThresholdFiles, count_ids, load
from pipeline.steps.judges.survivors import Survivors, judge_survivors, survivors_of
from pipeline.steps.queries import Queries
from pipeline.steps.step import Page, Run, step
from pipeline.storage.checked import read_table
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import save_vector, write_parquet

__all__ = [
    "BalanceSurvivors",
    "CountFinal",
    "FinalCounts",
    "FinalThresholds",
    "FindFinalThresholds",
    "balance_survivors",
    "final_balance",
    "final_counts",
    "final_threshold",
]

_EDGE_COLUMNS = ["uid", "selected_by"]


def final_balance(
    page: Page, arrived: Data[Survivors], planned: Balanced, queries: Data[Queries], mode: str
) -> Data[Survivors]:
    """The steps that cut what a reserve brought beyond t, and count what each query got."""
    thresholds = page.add(final_threshold(arrived, planned.limit, planned.thresholds, queries, mode))
    final = page.add(balance_survivors(arrived, thresholds, queries, mode))
    page.add(final_counts(final, thresholds, planned.limit, planned.query_counts, mode))
    return final


@dataclass(frozen=True, kw_only=True)
class FinalThresholds(ThresholdFiles):
    """Thresholds among each query's planned pairs that arrived."""

    survived: Location = output("survived.npy")
    """int64[Q]: how many these are."""


@dataclass(frozen=True, kw_only=True)
class FindFinalThresholds(Task[FinalThresholds]):
    """Over three columns of every staging shard."""

    fetched: Files
    limit: int
    planned_hashes: Location
    rule: Rule

    needs = Needs(memory_mb=1500)

    def work(self, out: FinalThresholds) -> Info:
        mode = mode_of(self.rule.mode)
        query_hashes = load(self.rule.query_hashes)
        survived = np.zeros(len(query_hashes), np.int64)
        rows = 0
        for batch in self._edges():
            rows += batch.num_rows
            survived += count_ids([batch.column("selected_by")], len(survived))
        counts = mode.counts(survived, rows)
        gather = gather_from(self._edges, mode, seed=self.rule.seed, query_hashes=query_hashes, column="selected_by")
        thresholds, again = solve(gather, counts, self.limit, mode, reach=load(self.planned_hashes))
        out.save(thresholds)
        save_vector(out.survived.local, survived)
        return {"rows": rows, "cut_queries": int((counts > self.limit).sum()), "gathered_again": again}

    def _edges(self) -> Iterator[pa.RecordBatch]:
        for file in self.fetched:
            yield from survivors_of(file, _EDGE_COLUMNS)


@step("final_threshold", FindFinalThresholds, title="find final thresholds", per="set")
def final_threshold(
    run: Run,
    arrived: Data[Survivors],
    limit: Data[Limit],
    planned: Data[ThresholdFiles],
    queries: Data[Queries],
    mode: str,
) -> Iterator[FindFinalThresholds]:
    """One task; `planned` are the plan's thresholds."""
    yield FindFinalThresholds(
        partition="all",
        fetched=arrived.files(lambda out: out.fetched),
        limit=int(limit.only.info["t"]),
        planned_hashes=planned.only.files.hashes,
        rule=Rule.of(run, queries, mode),
    )


@dataclass(frozen=True, kw_only=True)
class BalanceSurvivors(Task[Survivors]):
    """Those of a staging shard."""

    fetched: Location
    thresholds: ThresholdFiles
    rule: Rule
    ledger: LedgerConfig

    def work(self, out: Survivors) -> Info:
        select = Selection(
            self.rule, self.thresholds, column="selected_by", stage="final_balance", reason="reserve_not_needed"
        )
        return judge_survivors(self.fetched, out, self.ledger, [("final_balance", select)])


@step(
    "final_balance", BalanceSurvivors, title="balance what was fetched", per="staging shard", stages=["final_balance"]
)
def balance_survivors(
    run: Run, arrived: Data[Survivors], thresholds: Data[FinalThresholds], queries: Data[Queries], mode: str
) -> Iterator[BalanceSurvivors]:
    """One task per staging shard."""
    rule = Rule.of(run, queries, mode)
    found = thresholds.only.files
    for part in arrived.parts:
        yield BalanceSurvivors(
            partition=part.name,
            fetched=part.files.fetched,
            thresholds=ThresholdFiles(hashes=found.hashes, uids=found.uids),
            rule=rule,
            ledger=run.ledger,
        )


@dataclass(frozen=True, kw_only=True)
class FinalCounts:
    """One row a query."""

    final_counts: Location = output("final_counts.parquet", FINAL_COUNTS, view="final_counts")


@dataclass(frozen=True, kw_only=True)
class CountFinal(Task[FinalCounts]):
    """What each query got, and how many it is short of."""

    final: Files
    survived: Location
    query_counts: Location
    limit: int
    mode: str

    def work(self, out: FinalCounts) -> Info:
        planned = read_table(self.query_counts).cast(QUERY_COUNTS)["selected"].to_numpy()
        selected, contained = np.zeros(len(planned), np.int64), np.zeros(len(planned), np.int64)
        for file in self.final:
            for batch in survivors_of(file, ["selected_by", "query_ids"]):
                selected += count_ids([batch.column("selected_by")], len(planned))
                contained += count_ids([batch.column("query_ids")], len(planned))
        short = np.maximum(np.minimum(planned, self.limit) - selected, 0)
        if mode_of(self.mode).whole_set:
            short[:] = 0  # no query has a t of its own
        ids = np.arange(len(planned), dtype=np.int32)
        columns = [ids, planned, load(self.survived), selected, contained, short]
        table = pa.Table.from_arrays([pa.array(column) for column in columns], schema=FINAL_COUNTS)
        write_parquet(out.final_counts.local, table, FINAL_COUNTS)
        return {"rows": len(ids), "short": int(short.sum()), "short_queries": int((short > 0).sum())}


@step("final_counts", CountFinal, title="count what each query got", per="set")
def final_counts(
    run: Run,
    final: Data[Survivors],
    thresholds: Data[FinalThresholds],
    limit: Data[Limit],
    query_counts: Data[QueryCounts],
    mode: str,
) -> Iterator[CountFinal]:
    """One task."""
    yield CountFinal(
        partition="all",
        final=final.files(lambda out: out.fetched),
        survived=thresholds.only.files.survived,
        query_counts=query_counts.only.files.query_counts,
        limit=int(limit.only.info["t"]),
        mode=mode,
    )
