"""extract: each source file -> one file of CANDIDATES.

A source that cannot be read is a rejection, of the unit `source`, and its file of CANDIDATES is empty: one of 90,000
does not stop a crawl. Too many of them do (`max_bad_sources`), since then the fault is elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import xxhash

from pipeline.engine import Done, Info, Task, forget, output
from pipeline.errors import InputError
from pipeline.records.ledger import Ledger, Line
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome, rejections_from_rows
from pipeline.records.schema import CANDIDATES, REJECTIONS
from pipeline.stages.extract import ExtractConfig, Format, check_source, extract, stores_pictures
from pipeline.steps.sources import Stamp, find_sources
from pipeline.steps.step import Accept, Run, step
from pipeline.storage.location import Location
from pipeline.storage.output import is_output
from pipeline.storage.parquet import parquet_writer, write_parquet
from pipeline.storage.place import Place

__all__ = ["Candidates", "ExtractLinks", "Sources", "extract_links", "is_unreadable", "partition_name"]

_CHECKED = 100
_BAD_AT_FIRST = 3
"""So many unreadable sources before any other stop a run: nobody waits for 900 time-outs of a server that is gone."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the config says of the sources, and the files that it names."""

    patterns: tuple[str, ...]
    format: Format
    most: int | None
    """Of the files of each pattern."""
    max_bad: float
    """The share of them that may be unreadable."""

    @property
    def store_pictures(self) -> bool:
        """Whether pictures lie beside the rows."""
        return stores_pictures(self.format)

    def found(self, run: Run) -> Mapping[str, Stamp]:
        """The files with their stamps, looked for once. Raises InputError for one that is missing."""
        if run.output not in self._found:
            lists = run.directory("lists") if is_output(run.output) else None
            self._found[run.output] = find_sources(
                self.patterns, most=self.most, seed=run.seed, lists=lists, max_missing=self.max_bad
            )
        return self._found[run.output]

    @cached_property
    def _found(self) -> dict[Place, Mapping[str, Stamp]]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The links of a source."""

    candidates: Location = output("candidates.parquet", CANDIDATES, view="candidates")
    rejections: Location = output("rejections.parquet", REJECTIONS)


@dataclass(frozen=True, kw_only=True)
class ExtractLinks(Task[Candidates]):
    """Read one source. Its key holds the file's stamp, not the content."""

    source: str
    stamp: Stamp
    format: Format
    config: ExtractConfig
    ledger: LedgerConfig

    version = 3

    def work(self, out: Candidates) -> Info:
        try:
            return self._extract(out)
        except InputError as error:
            return self._reject(out, str(error))

    def _extract(self, out: Candidates) -> Info:
        ledger = Ledger(out.rejections.local, self.ledger)
        rows = 0
        try:
            with parquet_writer(out.candidates.local, CANDIDATES) as writer:
                for outcome in extract(self.source, self.config, format=self.format):
                    kept = ledger.add("extract", "link", outcome)
                    if kept.num_rows:
                        writer.write_batch(kept)
                    rows += outcome.num_in
        except InputError:
            ledger.close()  # its file is about to be written anew
            raise
        read = Line(stage="extract", unit="source", rows_in=1, kept=1)
        return {"rows": rows, "lines": [vars(read), *ledger.close()]}

    def _reject(self, out: Candidates, told: str) -> Info:
        """Write over what came of the source before it proved unreadable: it counts as one rejection, and nothing
        else."""
        ledger = Ledger(out.rejections.local, self.ledger)
        row: dict[str, object] = {
            "source": self.source,
            "stage": "extract",
            "reason": "unreadable_source",
            "detail": told[:1000],
        }
        nothing = pa.RecordBatch.from_pylist([], schema=CANDIDATES)
        ledger.add("extract", "source", Outcome(kept=nothing, rejected=rejections_from_rows([row]), num_in=1))
        write_parquet(out.candidates.local, [nothing], CANDIDATES)
        return {"rows": 0, "lines": ledger.close(), "unreadable": told}


@step("extract", ExtractLinks, title="extract image links", per="source file", stages=["extract"])
def extract_links(run: Run, sources: Sources, config: ExtractConfig) -> Iterator[ExtractLinks]:
    """One task per source file."""
    for source, stamp in sources.found(run).items():
        yield ExtractLinks(
            partition=partition_name(source),
            source=source,
            stamp=stamp,
            format=sources.format,
            config=config,
            ledger=run.ledger,
        )


def partition_name(source: str) -> str:
    """Readable, unique, and the same whatever other sources there are."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(source))[:60].strip("-")
    return f"{stem}-{xxhash.xxh3_64_hexdigest(source.encode())[:8]}"


@extract_links.checked_by
def _check(run: Run, sources: Sources, config: ExtractConfig) -> None:
    """Look at the heads of the tables on this machine, of many at a hundred, before anything is made of them.

    Raises InputError where a source is missing, and where more than the share `max_bad` of those looked at cannot be
    read: a column is missing, or holds no text; a file is cut, or of another format.
    """
    names = list(sources.found(run))
    looked_at = names[:: -(-len(names) // _CHECKED)]
    bad: list[InputError] = []
    for name in looked_at:
        try:
            check_source(name, config, format=sources.format)
        except InputError as error:
            bad.append(error)
    if len(bad) > sources.max_bad * len(looked_at):
        raise bad[0]


# --- sources that cannot be read ------------------------------------------------------------------


def is_unreadable(info: Mapping[str, Any]) -> bool:
    """Whether the source that a task tells of could not be read."""
    return "unreadable" in info


@extract_links.accepted_by
def _gate(run: Run, sources: Sources, config: ExtractConfig) -> Accept:
    return _Gate(len(sources.found(run)), sources.max_bad).accept


class _Gate:
    """Counts unreadable sources as their records come, and stops the step at too many."""

    def __init__(self, num_sources: int, max_bad: float) -> None:
        self._num_sources = num_sources
        self._max_bad = max_bad
        self._num_good = 0
        self._bad: list[Done] = []

    def accept(self, directory: Place, done: Done) -> None:
        """Raise InputError at one too many; all that were unreadable are asked again by the next run."""
        if not is_unreadable(done.info):
            self._num_good += 1
            return
        self._bad.append(done)
        at_first = not self._num_good and len(self._bad) >= _BAD_AT_FIRST
        if not at_first and len(self._bad) <= self._max_bad * self._num_sources:
            return
        for bad in self._bad:
            forget(directory, bad.partition)
        told = str(self._bad[0].info["unreadable"])
        if self._num_sources > 1:
            others = f"{len(self._bad)} of {self._num_sources:,} sources cannot be read so far"
            told = f"{told} ({others}; max_bad_sources is {self._max_bad:g})"
        raise InputError(told)
