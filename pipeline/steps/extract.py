"""extract: each source file -> one file of CANDIDATES.

A source that cannot be read is a rejection, of the unit `source`, and its file of CANDIDATES is empty: one of 90,000
does not stop a crawl. Too many of them do (`max_bad_sources`), since then the fault is elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from configs.load import fingerprint, from_mapping, to_mapping
from pipeline.engine import Done, Task, forget
from pipeline.errors import InputError
from pipeline.ledger import Ledger, LedgerConfig, Line
from pipeline.outcome import Outcome, rejections_from_rows
from pipeline.schema import CANDIDATES
from pipeline.stages.extract import ExtractConfig, Format, check_source, extract
from pipeline.steps.sources import Stamp
from pipeline.steps.step import Step
from pipeline.storage import parquet_writer, write_parquet

__all__ = ["NAME", "VERSION", "check", "is_unreadable", "plan"]

NAME = "extract"
VERSION = "extract-3"

_CHECKED = 100
_BAD_AT_FIRST = 3
"""So many unreadable sources before any other stop a run: nobody waits for 900 time-outs of a server that is gone."""


def check(sources: Mapping[str, Stamp], source_format: Format, config: ExtractConfig, *, max_bad: float) -> None:
    """Look at the heads of the tables on this machine, of many at a hundred, before anything is made of them.

    Raises InputError where more than the share `max_bad` of those looked at cannot be read: a column is missing, or
    holds no text; a file is cut, or of another format.
    """
    names = list(sources)
    looked_at = names[:: -(-len(names) // _CHECKED)]
    bad: list[InputError] = []
    for name in looked_at:
        try:
            check_source(name, config, format=source_format)
        except InputError as error:
            bad.append(error)
    if len(bad) > max_bad * len(looked_at):
        raise bad[0]


def plan(
    sources: Mapping[str, Stamp], source_format: Format, config: ExtractConfig, ledger: LedgerConfig, *, max_bad: float
) -> Step:
    """One task per source file (of `find_sources`); its key holds the file's stamp, not the content."""
    tasks = []
    for source, stamp in sources.items():
        name = _partition_name(source)
        arguments = {
            "source": source,
            "format": source_format,
            "config": to_mapping(config),
            "ledger": to_mapping(ledger),
        }
        tasks.append(
            Task(
                partition=name,
                work=_work,
                arguments=arguments,
                outputs=(f"{name}.candidates.parquet", f"{name}.rejections.parquet"),
                key=fingerprint(VERSION, arguments, stamp),
            )
        )
    return Step(name=NAME, title="extract image links", tasks=tasks, accept=_Gate(len(sources), max_bad).accept)


def is_unreadable(done: Done) -> bool:
    """Whether the source of this record could not be read."""
    return "unreadable" in done.info


class _Gate:
    """Counts unreadable sources as their records come, and stops the step at too many."""

    def __init__(self, num_sources: int, max_bad: float) -> None:
        self._num_sources = num_sources
        self._max_bad = max_bad
        self._num_good = 0
        self._bad: list[Done] = []

    def accept(self, directory: Path, done: Done) -> None:
        """Raise InputError at one too many; all that were unreadable are asked again by the next run."""
        if not is_unreadable(done):
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


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    try:
        return _extract(arguments, outputs)
    except InputError as error:
        return _reject_source(arguments, outputs, str(error))


def _reject_source(arguments: Mapping[str, Any], outputs: Mapping[str, Path], told: str) -> dict[str, Any]:
    """Write over what came of the source before it proved unreadable: it counts as one rejection, and nothing else."""
    candidates_path, rejections_path = outputs.values()
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    row = {"source": arguments["source"], "stage": "extract", "reason": "unreadable_source", "detail": told[:1000]}
    nothing = pa.RecordBatch.from_pylist([], schema=CANDIDATES)
    ledger.add("extract", "source", Outcome(kept=nothing, rejected=rejections_from_rows([row]), num_in=1))
    write_parquet(candidates_path, [nothing], CANDIDATES)
    return {"rows": 0, "lines": ledger.close(), "unreadable": told}


def _extract(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    candidates_path, rejections_path = outputs.values()
    config = from_mapping(ExtractConfig, arguments["config"])
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    rows = 0
    try:
        with parquet_writer(candidates_path, CANDIDATES) as writer:
            for outcome in extract(arguments["source"], config, format=arguments["format"]):
                kept = ledger.add("extract", "link", outcome)
                if kept.num_rows:
                    writer.write_batch(kept)
                rows += outcome.num_in
    except InputError:
        ledger.close()  # its file is about to be written anew
        raise
    read = Line(stage="extract", unit="source", rows_in=1, kept=1)
    return {"rows": rows, "lines": [vars(read), *ledger.close()]}


def _partition_name(source: str) -> str:
    """Readable, unique, and the same whatever other sources there are."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(source))[:60].strip("-")
    return f"{stem}-{xxhash.xxh3_64_hexdigest(source.encode())[:8]}"
