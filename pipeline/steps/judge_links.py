"""texts: CANDIDATES -> the stages that judge links, one after the other -> MATCHED, one task per file of candidates.

The step of those who keep the candidates, to tune the stages without reading the sources again; `match_links.py` is
that of all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.engine import Data, Info, Task, output
from pipeline.matching.config import MatchConfig
from pipeline.records.ledger import Ledger
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.schema import CANDIDATES, MATCHED, REJECTIONS
from pipeline.stages.match import Match
from pipeline.stages.stage import Stage
from pipeline.steps.extract import Candidates
from pipeline.steps.queries import Queries
from pipeline.steps.step import Run, Stages, StageToBe, ready, step
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage.checked import read_batches
from pipeline.storage.location import Location
from pipeline.storage.parquet import parquet_writer
from pipeline.watching import counting, tally_here

__all__ = ["JudgeLinks", "LinkStage", "Matched", "judge_links", "match", "write_matched"]

LinkStage = Stage | StageToBe
_ROW_GROUP_ROWS = 65_536
_IDENTITY = ("uid", "source", "record", "link")
_PLACE = pa.field("place", pa.int32(), nullable=False)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The links that every stage kept."""

    matched: Location = output("matched.parquet", MATCHED, view="matched")
    rejections: Location = output("rejections.parquet", REJECTIONS)


@dataclass(frozen=True, kw_only=True)
class JudgeLinks(Task[Matched]):
    """All stages over one file."""

    candidates: Location
    stages: Stages
    batch_rows: int
    ledger: LedgerConfig

    version = 5

    def work(self, out: Matched) -> Info:
        ledger = Ledger(out.rejections.local, self.ledger)
        tally = counting("link", kept_as="kept")
        rows = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for batch in read_batches(self.candidates, self.batch_rows):
                rows += batch.num_rows
                tally.done += batch.num_rows
                yield batch

        kept = write_matched(out.matched.local, batches(), self.stages.each, ledger)
        return {"rows": rows, "kept": kept, "lines": ledger.close()}


def write_matched(path: Path, links: Iterable[pa.RecordBatch], stages: Sequence[Stage], ledger: Ledger) -> int:
    """Judge batches of CANDIDATES, and write MATCHED; how many rows that are.

    The same rows are the same bytes, whatever batches they come in: a row group is full, and one piece.
    """
    held: list[pa.RecordBatch] = []
    held_rows = rows = 0
    tally = tally_here()
    with parquet_writer(path, MATCHED) as writer:
        for batch in links:
            kept = _judge(batch, stages, ledger)
            held.append(kept)
            held_rows += kept.num_rows
            rows += kept.num_rows
            tally.kept += kept.num_rows
            while held_rows >= _ROW_GROUP_ROWS:
                table = pa.Table.from_batches(held, MATCHED).combine_chunks()
                writer.write_table(table.slice(0, _ROW_GROUP_ROWS))
                held = table.slice(_ROW_GROUP_ROWS).to_batches()
                held_rows -= _ROW_GROUP_ROWS
        if held_rows:
            writer.write_table(pa.Table.from_batches(held, MATCHED).combine_chunks())
    return rows


def _judge(batch: pa.RecordBatch, stages: Sequence[Stage], ledger: Ledger) -> pa.RecordBatch:
    """MATCHED. The stages see the columns that they judge by, and each row's place, so that the other columns are
    copied once and not with every stage."""
    wanted = {name for stage in stages for name in stage.reads}
    kept = batch.select([name for name in CANDIDATES.names if name in _IDENTITY or name in wanted])
    kept = kept.append_column(_PLACE, pa.array(np.arange(batch.num_rows, dtype=np.int32)))
    for number, stage in enumerate(stages):
        kept = ledger.add(stage.name, "link", stage.judge(kept))
        later = {name for each in stages[number + 1 :] for name in each.reads}
        done_with = [name for name in wanted - later if name in CANDIDATES.names and name not in _IDENTITY]
        kept = kept.drop_columns([name for name in done_with if name in kept.schema.names])
    others = batch.select([name for name in CANDIDATES.names if name not in _IDENTITY]).take(kept[_PLACE.name])
    columns = [kept[name] if name in kept.schema.names else others[name] for name in MATCHED.names]
    return pa.RecordBatch.from_arrays(columns, schema=MATCHED)


@step("texts", JudgeLinks, per="source, or part")
def judge_links(
    run: Run, links: Data[Candidates], stages: Sequence[LinkStage], config: TextsConfig
) -> Iterator[JudgeLinks]:
    """One task per file of candidates, named like it."""
    judges = ready(stages)
    for part in links.parts:
        yield JudgeLinks(
            partition=part.name,
            candidates=part.files.candidates,
            stages=judges,
            batch_rows=config.batch_rows,
            ledger=run.ledger,
        )


@dataclass(frozen=True, kw_only=True)
class _Matching(StageToBe):
    """Match, by the tables of a query list that is still to be read."""

    config: MatchConfig
    queries: Data[Queries]
    keep_unmatched: bool

    stage: ClassVar[type[Stage]] = Match

    def ready(self) -> Stage:
        tables = self.queries.only.files.tables
        return Match(config=self.config, tables=tables, keep_unmatched=self.keep_unmatched)


def match(config: MatchConfig, queries: Data[Queries], texts: TextsConfig) -> LinkStage:
    """The stage that keeps what contains a query of the list, unless all is kept."""
    return _Matching(config=config, queries=queries, keep_unmatched=texts.keep_unmatched)
