"""balance: which pairs are selected, once every query has its threshold."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.compiled.arrays import read_only
from pipeline.records.identity import first_64_bits, keyed_state
from pipeline.records.outcome import Outcome, reject
from pipeline.stages.balance.edges import ids_of
from pipeline.stages.balance.hashes import Hashes
from pipeline.stages.balance.modes.mode import Mode
from pipeline.stages.balance.thresholds import Thresholds

__all__ = ["balance"]


def balance(
    batch: pa.RecordBatch,
    mode: Mode,
    *,
    seed: int,
    query_hashes: Hashes,
    thresholds: Thresholds,
    column: str = "query_ids",
    stage: str = "balance",
    reason: str = "not_selected",
) -> Outcome:
    """Keep the pairs that some query selects; sets `selected_by` (list<int32>, ascending, of `column`'s ids)."""
    from pipeline.stages.balance import kernel

    lists = batch.column(column)
    offsets, queries = mode.edges(lists)
    ids = first_64_bits(ids_of(batch.column("uid")))
    verdicts = np.empty(len(queries), np.uint8)
    ties = kernel.compare(
        kernel.Edges(read_only(offsets), read_only(queries), read_only(ids), read_only(query_hashes)),
        kernel.Hash(keyed_state(seed), mode.one_hash_a_pair),
        read_only(thresholds.hashes),
        verdicts,
    )
    if ties:
        tied = np.flatnonzero(verdicts == 2)
        rows = np.searchsorted(offsets, tied, side="right") - 1
        uids = batch.column("uid").take(pa.array(rows)).to_pylist()
        limits = thresholds.uids[queries[tied]]
        verdicts[tied] = [uid <= limit.tobytes() for uid, limit in zip(uids, limits, strict=True)]
    chosen = verdicts == 1
    counts = np.concatenate(([0], np.cumsum(chosen)))
    ends = counts[offsets].astype(np.int32)
    keep = np.diff(ends) > 0
    selecting = pa.ListArray.from_arrays(pa.array(ends), pa.array(queries[chosen], pa.int32()))
    selected_by = mode.selected_by(lists, selecting)
    field = pa.field("selected_by", pa.list_(pa.int32()), nullable=False)
    place = batch.schema.get_field_index("selected_by")
    batch = batch.set_column(place, field, selected_by) if place >= 0 else batch.append_column(field, selected_by)
    reasons = pc.if_else(pa.array(keep), pa.scalar(None, pa.string()), pa.scalar(reason))
    return reject(batch, stage=stage, reasons=reasons)
