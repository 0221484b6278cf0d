"""Every rejection with its reason, every count: `in = kept + rejected` for each stage, always.

Inside a task a `Ledger` takes the Outcome of each batch; its summary travels in the task's done-record,
its rows go to a `.rejections.parquet` beside the task's output. `totals` adds the records up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import PipelineError
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.outcome import Outcome
from pipeline.records.schema import REJECTIONS
from pipeline.storage.parquet import parquet_writer

__all__ = ["Ledger", "LedgerError", "Line", "last_reached", "totals"]


class LedgerError(PipelineError):
    """A stage lost or invented rows: its counts do not add up. Always a bug; please report it."""


@dataclass(kw_only=True)
class Line:
    """Counts of one stage in one unit (record, link, pair)."""

    stage: str
    unit: str
    rows_in: int = 0
    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """Raise LedgerError unless in = kept + rejected."""
        if self.rows_in != self.kept + sum(self.rejected.values()):
            raise LedgerError(
                f"stage {self.stage}: {self.rows_in} {self.unit}s in, but {self.kept} kept and "
                f"{sum(self.rejected.values())} rejected"
            )

    def add(self, other: Line) -> None:
        """Add the counts of the same stage and unit from elsewhere."""
        self.rows_in += other.rows_in
        self.kept += other.kept
        for reason, count in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count


class Ledger:
    """Takes outcomes, writes their rejections to `path` and keeps the counts."""

    def __init__(self, path: Path, config: LedgerConfig) -> None:
        self._writer = parquet_writer(path, REJECTIONS)
        self._limit = config.max_rows_per_task
        self._lines: dict[tuple[str, str], Line] = {}

    def add(self, stage: str, unit: str, outcome: Outcome) -> pa.RecordBatch:
        """Enter one outcome; returns its kept rows, for the next stage."""
        whole_records = pc.and_(pc.is_null(outcome.rejected["link"]), pc.is_null(outcome.rejected["uid"]))
        records = outcome.rejected.filter(whole_records) if outcome.num_records else None
        rows = outcome.rejected.filter(pc.invert(whole_records)) if outcome.num_records else outcome.rejected
        if records is not None:
            reasons = dict(sorted({**_count(records), **outcome.passed_over}.items()))
            kept = outcome.num_records - sum(reasons.values()) if outcome.num_read is None else outcome.num_read
            line = Line(stage=stage, unit="record", rows_in=outcome.num_records, kept=kept, rejected=reasons)
            self._enter(line)
            self._write(records)
        self._enter(
            Line(stage=stage, unit=unit, rows_in=outcome.num_in, kept=outcome.kept.num_rows, rejected=_count(rows))
        )
        self._write(rows)
        return outcome.kept

    def _enter(self, line: Line) -> None:
        line.check()
        known = self._lines.setdefault((line.stage, line.unit), Line(stage=line.stage, unit=line.unit))
        self._already = dict(known.rejected)
        known.add(line)

    def _write(self, rows: pa.RecordBatch) -> None:
        limit = self._limit
        if limit is not None and all(self._already.get(r, 0) >= limit for r in pc.unique(rows["reason"]).to_pylist()):
            return
        if limit is not None:
            keep: list[bool] = []
            seen = dict(self._already)
            for reason in rows["reason"].to_pylist():
                seen[reason] = seen.get(reason, 0) + 1
                keep.append(seen[reason] <= limit)
            rows = rows.filter(pa.array(keep))
        if rows.num_rows:
            self._writer.write_batch(rows)

    def close(self) -> list[dict[str, Any]]:
        """Finish the file; returns the lines as plain data for the done-record."""
        self._writer.close()
        return [vars(line) for line in self._lines.values()]


def totals(infos: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Sum the `lines` of done-records' infos, stages in order of first appearance.

    Raises LedgerError where a stage's sum does not add up.
    """
    sums: dict[tuple[str, str], Line] = {}
    for info in infos:
        for plain in info.get("lines", []):
            line = Line(**plain)
            sums.setdefault((line.stage, line.unit), Line(stage=line.stage, unit=line.unit)).add(line)
    for line in sums.values():
        line.check()
    return list(sums.values())


def last_reached(lines: Sequence[Line]) -> Line | None:
    """The line of the last stage that saw any rows; None where none did."""
    return next((line for line in reversed(lines) if line.rows_in), None)


def _count(rejected: pa.RecordBatch) -> dict[str, int]:
    counted = pc.value_counts(rejected["reason"])
    return dict(sorted((pair["values"], pair["counts"]) for pair in counted.to_pylist()))
