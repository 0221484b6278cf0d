"""texts, in one pass: each source -> its links -> the stages that judge them -> MATCHED.

    source --extract--> links, some at a time --clean, language, match--> matched

Nothing waits for other sources, and the links are not written: of all that a crawl makes, they would be the most. What
is kept, counted and rejected is what `extract` and then `texts` (`judge_links.py`) give, which write them
(`texts.keep_candidates`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.consent.config import ConsentConfig
from pipeline.consent.signals import PageSignals
from pipeline.engine import Info, Task
from pipeline.records.ledger import Ledger
from pipeline.records.ledger_config import LedgerConfig
from pipeline.stages.extract import ExtractConfig
from pipeline.stages.stage import Stage
from pipeline.steps.extract import read_links
from pipeline.steps.judge_links import LinkStage, Matched, write_matched
from pipeline.steps.source_parts import SourcePart, Sources
from pipeline.steps.step import Accept, Run, ready, step
from pipeline.steps.texts_config import TextsConfig
from pipeline.steps.unreadable import check_heads, gate

__all__ = ["MatchLinks", "match_links"]


@dataclass(frozen=True, kw_only=True)
class MatchLinks(Task[Matched]):
    """Read one part of a source, and judge its links."""

    part: SourcePart
    config: ExtractConfig
    signals: PageSignals
    stages: tuple[Stage, ...]
    batch_rows: int
    ledger: LedgerConfig

    @property
    def subject(self) -> str:
        return self.part.source

    def work(self, out: Matched) -> Info:
        def write(links: Iterator[pa.RecordBatch], ledger: Ledger) -> Info:
            batches = _batches(links, self.batch_rows)
            return {"kept": write_matched(out.matched.local, batches, self.stages, ledger)}

        return read_links(self.part, self.config, self.signals, out.rejections.local, self.ledger, write)


@step("texts", MatchLinks, per="source, or part", stages=["extract"])
def match_links(
    run: Run,
    sources: Sources,
    extract: ExtractConfig,
    consent: ConsentConfig,
    stages: Sequence[LinkStage],
    config: TextsConfig,
) -> Iterator[MatchLinks]:
    """One task per source file, several where it is large."""
    judges, signals = ready(stages), PageSignals.of(consent)
    for part in sources.parts(run):
        yield MatchLinks(
            partition=part.name,
            part=part,
            config=extract,
            signals=signals,
            stages=judges,
            batch_rows=config.batch_rows,
            ledger=run.ledger,
        )


@match_links.checked_by
def _check(
    run: Run,
    sources: Sources,
    extract: ExtractConfig,
    consent: ConsentConfig,
    stages: Sequence[LinkStage],
    config: TextsConfig,
) -> None:
    check_heads(run, sources, extract)


@match_links.accepted_by
def _accept(
    run: Run,
    sources: Sources,
    extract: ExtractConfig,
    consent: ConsentConfig,
    stages: Sequence[LinkStage],
    config: TextsConfig,
) -> Accept:
    return gate(run, sources)


def _batches(links: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows, so many at a time, as they would come from a file."""
    held: list[pa.RecordBatch] = []
    num_held = 0
    for batch in links:
        at = 0
        while at < batch.num_rows:
            taken = batch.slice(at, rows - num_held)
            at += taken.num_rows
            num_held += taken.num_rows
            held.append(taken)
            if num_held == rows:
                yield pa.concat_batches(held)
                held, num_held = [], 0
    if held:
        yield pa.concat_batches(held)
