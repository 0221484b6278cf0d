"""What a stage returns: the rows it kept, the rows it rejected, and how many it was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records.schema import REJECTIONS

__all__ = ["Outcome", "empty_rejections", "reject", "rejections_from_rows"]

_MAX_DETAIL_CHARS = 200
_WHERE_FOUND = ["source", "record", "link", "uid"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One batch after one stage. `num_in == kept.num_rows + rejected link rows` always holds.

    `num_in` counts the stage's unit (links, pairs, URLs). Stages that also read whole records (extract)
    count those in `num_records`; a record that is rejected is a row of `rejected` without a link. Also
    `num_records == num_read + passed over + rejected record rows` holds.
    """

    kept: pa.RecordBatch
    rejected: pa.RecordBatch
    num_in: int
    num_records: int = 0
    num_read: int | None = None
    """How many of the records were read, counted one by one where that was done; null where nobody counts, and a
    record that is not rejected was read."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """Records without anything to read, by reason. They have no row in `rejected`: a crawl has more pictures and
    scripts than pages."""


def empty_rejections() -> pa.RecordBatch:
    """A batch of no rejections."""
    return pa.RecordBatch.from_pylist([], schema=REJECTIONS)


def rejections_from_rows(rows: Sequence[dict[str, object]]) -> pa.RecordBatch:
    """Rejections from plain rows (keys of REJECTIONS; missing ones are null)."""
    return pa.RecordBatch.from_pylist(list(rows), schema=REJECTIONS)


def reject(
    batch: pa.RecordBatch,
    *,
    stage: str,
    reasons: pa.StringArray,
    details: pa.StringArray | None = None,
) -> Outcome:
    """Split `batch` by `reasons` (string[N], null where the row is kept) into an Outcome.

    `batch` needs the columns source, record, link and uid. `details` (string[N]) are cut to 200
    characters.
    """
    if reasons.null_count == len(reasons):
        return Outcome(kept=batch, rejected=empty_rejections(), num_in=batch.num_rows)
    drop = pc.is_valid(reasons)
    rejected = batch.select(_WHERE_FOUND).filter(drop)
    if details is None:
        shown = pa.nulls(rejected.num_rows, pa.string())
    else:
        shown = pc.utf8_slice_codeunits(details.filter(drop), 0, _MAX_DETAIL_CHARS)
    columns = rejected.columns
    columns.append(pa.repeat(pa.scalar(stage), rejected.num_rows))
    columns.append(pc.cast(reasons.filter(drop), pa.string()))
    columns.append(shown)
    return Outcome(
        kept=batch.filter(pc.invert(drop)),
        rejected=pa.RecordBatch.from_arrays(columns, schema=REJECTIONS),
        num_in=batch.num_rows,
    )
