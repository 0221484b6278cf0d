"""balance: each query selects at most t of the pairs that contain it; a pair is kept if some query selects it.

    counts --head_bounds--> gather (a sliver of each head query's edges) --find_thresholds--> balance

An edge is one (pair, query) with the query in the pair's caption. Every edge has a 64-bit keyed hash; a query
selects the edges at or under its threshold. Modes differ in the hash and the threshold only:

    quota        hash of (seed, uid, query text); threshold is the query's t-th smallest (hash, uid), so that
                 it selects exactly min(t, count). CLIP's rule (section 2.2: "up to 20,000 pairs per query").
    coordinated  the same threshold over one hash of (seed, uid) for all queries: no favour for long texts.
    metaclip     independent draws: selected with probability t / max(count, t) (MetaCLIP, section 3.2).
    none         everything is selected; a raw baseline.

Why a sliver is enough. Of a query's `count` uniform hashes, the number under b = (t / count)(1 + 6 / sqrt(t))
is binomial with mean t + 6 sqrt(t) and standard deviation at most sqrt(t + 6 sqrt(t)); fewer than t of them
is about a six-sigma event (under 1e-7 a query for t >= 100). `find_thresholds` names the queries for which it
happened anyway, and the caller gathers those again with no bound: the result is exact in every case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import ConfigError
from pipeline.identity import first_64_bits, keyed_hash
from pipeline.outcome import Outcome, reject

__all__ = [
    "EDGES",
    "BalanceConfig",
    "Thresholds",
    "balance",
    "find_thresholds",
    "gather",
    "head_bounds",
    "ids_of",
]

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_LAST_UID = b"\xff" * 16
_SLACK_SIGMAS = 6.0

EDGES = pa.schema(
    [
        pa.field("query_id", pa.int32(), nullable=False),
        pa.field("hash", pa.uint64(), nullable=False),
        pa.field("uid", pa.binary(16), nullable=False),
    ]
)
"""Candidate edges of head queries, on their way to a threshold."""


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """How many pairs a query may select, and how it chooses."""

    mode: Literal["quota", "coordinated", "metaclip", "none"] = "quota"
    """quota: exactly its t smallest keyed hashes. coordinated: likewise, one hash a pair. metaclip: independent
    draws, t expected. none: no balancing."""
    max_pairs_per_query: int = 20_000
    """t: the most pairs that one query selects. 20,000 in CLIP, for 400 M pairs."""

    def __post_init__(self) -> None:
        if self.max_pairs_per_query < 1:
            raise ConfigError(f"max_pairs_per_query must be at least 1, not {self.max_pairs_per_query}")


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Per query: the largest selected (hash, uid); edges up to and including it are selected."""

    hashes: npt.NDArray[np.uint64]
    """uint64[Q]"""
    uids: npt.NDArray[np.void]
    """V16[Q]: breaks ties between equal hashes."""


def ids_of(column: pa.Array) -> npt.NDArray[np.uint8]:
    """uint8[N, 16] view of a binary(16) column without nulls."""
    data = np.frombuffer(column.buffers()[1], np.uint8)
    return data[16 * column.offset : 16 * (column.offset + len(column))].reshape(-1, 16)


def _edges(
    batch: pa.RecordBatch, config: BalanceConfig, seed: int, query_hashes: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """(row int64[E], query_id int32[E], hash uint64[E]) of every edge of a batch of MATCHED rows."""
    lists = batch.column("query_ids")
    queries = lists.flatten().to_numpy(zero_copy_only=False)
    lengths = np.diff(lists.offsets.to_numpy(zero_copy_only=False))
    rows = np.repeat(np.arange(batch.num_rows, dtype=np.int64), lengths)
    uids = first_64_bits(ids_of(batch.column("uid")))
    if config.mode == "coordinated":
        hashes = keyed_hash(seed, uids)[rows]
    else:
        hashes = keyed_hash(seed, uids[rows], query_hashes[queries])
    return rows, queries, hashes


def head_bounds(counts: npt.NDArray[np.int64], config: BalanceConfig) -> npt.NDArray[np.uint64]:
    """uint64[Q]: gather edges with hash <= bound; 0 for queries that need no threshold."""
    bounds = np.zeros(len(counts), np.uint64)
    if config.mode in ("quota", "coordinated"):
        t = config.max_pairs_per_query
        head = np.flatnonzero(counts > t)
        share = t / counts[head] * (1 + _SLACK_SIGMAS / np.sqrt(t))
        bounds[head] = np.where(share < 1, np.minimum(share, 0.999) * 2.0**64, 2.0**64 - 2**11).astype(np.uint64)
        bounds[head[share >= 1]] = _ALL
    return bounds


def gather(
    batch: pa.RecordBatch,
    config: BalanceConfig,
    *,
    seed: int,
    query_hashes: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.uint64],
) -> pa.RecordBatch:
    """The batch's edges (EDGES) at or under their query's bound."""
    rows, queries, hashes = _edges(batch, config, seed, query_hashes)
    limit = bounds[queries]
    near = (limit > 0) & (hashes <= limit)
    columns = [
        pa.array(queries[near], pa.int32()),
        pa.array(hashes[near], pa.uint64()),
        batch.column("uid").take(pa.array(rows[near])),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=EDGES)


def find_thresholds(
    edges: pa.Table, counts: npt.NDArray[np.int64], config: BalanceConfig
) -> tuple[Thresholds, npt.NDArray[np.int64]]:
    """Thresholds from gathered edges, and the query ids whose sliver was too small (int64[K]).

    `edges` has EDGES' columns in any order of rows. The thresholds of the named queries are not valid: gather
    these again without a bound and call this with those edges added.
    """
    t = config.max_pairs_per_query
    thresholds = Thresholds(
        hashes=np.full(len(counts), _ALL, np.uint64), uids=np.full(len(counts), _LAST_UID, dtype="V16")
    )
    head = np.flatnonzero(counts > t)
    if config.mode == "metaclip":
        # Selected when hash < p 2^64, p = t / count: as an inclusive bound, one less.
        thresholds.hashes[head] = (t / counts[head] * 2.0**64).astype(np.uint64) - np.uint64(1)
        return thresholds, np.empty(0, np.int64)
    if config.mode == "none" or not len(head):
        return thresholds, np.empty(0, np.int64)
    edges = edges.sort_by([("query_id", "ascending"), ("hash", "ascending"), ("uid", "ascending")])
    queries = edges["query_id"].to_numpy()
    first = np.searchsorted(queries, head, side="left")
    found = np.searchsorted(queries, head, side="right") - first
    enough = found >= t
    cut = pa.array(first[enough] + t - 1)
    thresholds.hashes[head[enough]] = edges["hash"].take(cut).to_numpy()
    uids = edges["uid"].take(cut).combine_chunks()
    thresholds.uids[head[enough]] = np.ascontiguousarray(ids_of(uids)).view("V16").ravel() if len(cut) else []
    return thresholds, head[~enough]


def balance(
    batch: pa.RecordBatch,
    config: BalanceConfig,
    *,
    seed: int,
    query_hashes: npt.NDArray[np.uint64],
    thresholds: Thresholds,
) -> Outcome:
    """Keep the pairs that some query selects; adds `selected_by` (list<int32>, ascending)."""
    rows, queries, hashes = _edges(batch, config, seed, query_hashes)
    limit = thresholds.hashes[queries]
    chosen = hashes < limit
    for tie in np.flatnonzero(hashes == limit):
        uid = batch.column("uid")[int(rows[tie])].as_py()
        chosen[tie] = uid <= thresholds.uids[queries[tie]].tobytes()
    per_row = np.bincount(rows[chosen], minlength=batch.num_rows)
    offsets = np.concatenate(([0], np.cumsum(per_row))).astype(np.int32)
    selected_by = pa.ListArray.from_arrays(pa.array(offsets), pa.array(queries[chosen], pa.int32()))
    field = pa.field("selected_by", pa.list_(pa.int32()), nullable=False)
    batch = batch.append_column(field, selected_by)
    not_selected = pa.array(per_row == 0)
    reasons = pc.if_else(not_selected, pa.scalar("not_selected"), pa.scalar(None, pa.string()))
    return reject(batch, stage="balance", reasons=reasons)
