"""judge_pairs: FETCHED -> the stages that judge pairs, one after the other -> FETCHED, one task per staging shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.engine import Data, Info, Task
from pipeline.records.ledger_config import LedgerConfig
from pipeline.stages.stage import Stage
from pipeline.steps.judges.survivors import Survivors, judge_survivors
from pipeline.steps.step import Run, Stages, StageToBe, ready, step
from pipeline.storage.location import Location

__all__ = ["JudgePairs", "PairStage", "judge_pairs"]

PairStage = Stage | StageToBe


@dataclass(frozen=True, kw_only=True)
class JudgePairs(Task[Survivors]):
    """All stages over the pairs of a staging shard. They see every column of FETCHED."""

    fetched: Location
    stages: Stages
    ledger: LedgerConfig

    def work(self, out: Survivors) -> Info:
        return judge_survivors(
            self.fetched, out, self.ledger, [(stage.name, stage.judge) for stage in self.stages.each]
        )


@step("judge_pairs", JudgePairs, per="staging shard")
def judge_pairs(run: Run, arrived: Data[Survivors], stages: Sequence[PairStage]) -> Iterator[JudgePairs]:
    """One task per staging shard, named like it."""
    judges = ready(stages)
    for part in arrived.parts:
        yield JudgePairs(partition=part.name, fetched=part.files.fetched, stages=judges, ledger=run.ledger)
