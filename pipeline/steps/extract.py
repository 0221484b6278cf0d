"""extract: each source -> CANDIDATES, for the step `texts`; in one pass with the stages, `match_links.py` reads it.

A source that cannot be read is a rejection, of the unit `source`, and its file of CANDIDATES is empty: one of 90,000
does not stop a crawl. Too many of them do (`unreadable.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.consent.config import ConsentConfig
from pipeline.consent.signals import PageSignals
from pipeline.engine import Info, Task, output
from pipeline.errors import InputError
from pipeline.records.ledger import Ledger, Line
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome, rejections_from_rows
from pipeline.records.schema import CANDIDATES, REJECTIONS
from pipeline.stages.extract import ExtractConfig, extract, format_of
from pipeline.steps.source_parts import SourcePart, Sources, partition_name
from pipeline.steps.step import Accept, Run, step
from pipeline.steps.unreadable import check_heads, gate
from pipeline.storage.location import Location
from pipeline.storage.parquet import parquet_writer
from pipeline.watching import counting, tally_here

__all__ = ["Candidates", "ExtractLinks", "extract_links", "read_links"]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The links of a source, or of a part of one."""

    candidates: Location = output("candidates.parquet", CANDIDATES, view="candidates")
    rejections: Location = output("rejections.parquet", REJECTIONS)


@dataclass(frozen=True, kw_only=True)
class ExtractLinks(Task[Candidates]):
    """Read one part of a source."""

    part: SourcePart
    config: ExtractConfig
    signals: PageSignals
    ledger: LedgerConfig

    version = 5

    @property
    def subject(self) -> str:
        return self.part.source

    def work(self, out: Candidates) -> Info:
        def write(links: Iterator[pa.RecordBatch], _: Ledger) -> Info:
            with parquet_writer(out.candidates.local, CANDIDATES) as writer:
                for batch in links:
                    writer.write_batch(batch)
                    tally_here().kept += batch.num_rows
            return {}

        return read_links(self.part, self.config, self.signals, out.rejections.local, self.ledger, write)


@step("extract", ExtractLinks, title="extract image links", per="source, or part", stages=["extract"])
def extract_links(run: Run, sources: Sources, config: ExtractConfig, consent: ConsentConfig) -> Iterator[ExtractLinks]:
    """One task per source file, several where it is large."""
    signals = PageSignals.of(consent)
    for part in sources.parts(run):
        yield ExtractLinks(partition=part.name, part=part, config=config, signals=signals, ledger=run.ledger)


@extract_links.checked_by
def _check(run: Run, sources: Sources, config: ExtractConfig, consent: ConsentConfig) -> None:
    check_heads(run, sources, config)


@extract_links.accepted_by
def _accept(run: Run, sources: Sources, config: ExtractConfig, consent: ConsentConfig) -> Accept:
    return gate(run, sources)


class _UnreadableError(Exception):
    """The source cannot be read."""


def read_links(
    part: SourcePart,
    config: ExtractConfig,
    signals: PageSignals,
    rejections: Path,
    ledger_config: LedgerConfig,
    write: Callable[[Iterator[pa.RecordBatch], Ledger], Info],
) -> Info:
    """Have `write` take the links of a part, batches of CANDIDATES with a row at least; what there is to say of them.

    What came of a source before it proved unreadable is written over: then `write` is called once more, with no links,
    and a new ledger. The source counts as one rejection, and nothing else; its first part enters that.
    """
    ledger = Ledger(rejections, ledger_config)
    info: Info
    try:
        info = write(_links(part, config, signals, ledger), ledger)
        sources = [vars(Line(stage="extract", unit="source", rows_in=1, kept=1))] if part.stretch.is_first else []
        info["lines"] = [*sources, *ledger.close()]
    except _UnreadableError as error:
        ledger.close()  # its file is about to be written anew
        ledger = Ledger(rejections, ledger_config)
        if part.stretch.is_first:
            ledger.add("extract", "source", _unreadable(part.source, str(error)))
        info = write(iter(()), ledger)
        info |= {"lines": ledger.close(), "unreadable": str(error)}
    info["rows"] = sum(
        line["rows_in"] for line in info["lines"] if (line["stage"], line["unit"]) == ("extract", "link")
    )
    whole = partition_name(part.source)
    return info if part.name == whole else info | {"part_of": whole}


def _links(part: SourcePart, config: ExtractConfig, signals: PageSignals, ledger: Ledger) -> Iterator[pa.RecordBatch]:
    tally = counting("link", total_bytes=_num_bytes(part), kept_as="kept")
    try:
        for outcome in extract(part.source, config, signals, format=part.format, stretch=part.stretch):
            kept = ledger.add("extract", "link", outcome)
            tally.done += outcome.num_in
            if tally.total_bytes:  # of an archive, where a record's number is its place
                tally.num_bytes = max(_last_record(outcome) - part.stretch.begin, tally.num_bytes)
            if kept.num_rows:
                yield kept
    except InputError as error:
        raise _UnreadableError(str(error)) from error


def _num_bytes(part: SourcePart) -> int:
    """Of an archive, or the part of one, as far as the file's size tells; else 0."""
    size = int(part.stamp[0] or 0) if part.stamp else 0
    if not size or part.stretch.max_rows is not None or format_of(part.source, part.format).cut != "archive":
        return 0
    return (size if part.stretch.end is None else part.stretch.end) - part.stretch.begin


def _last_record(outcome: Outcome) -> int:
    ends = [batch["record"][-1].as_py() for batch in (outcome.kept, outcome.rejected) if batch.num_rows]
    return max((end for end in ends if end is not None), default=0)


def _unreadable(source: str, told: str) -> Outcome:
    row: dict[str, object] = {
        "source": source,
        "stage": "extract",
        "reason": "unreadable_source",
        "detail": told[:1000],
    }
    nothing = pa.RecordBatch.from_pylist([], schema=CANDIDATES)
    return Outcome(kept=nothing, rejected=rejections_from_rows([row]), num_in=1)
