"""balance: each query selects at most t of the pairs that contain it; a pair is kept if some query selects it.

    counts --find_windows--> gather (a sliver of each head query's edges) --find_thresholds--> balance

An edge is one (pair, query) with the query in the pair's caption. Every edge has a 64-bit keyed hash; a query
selects the edges at or under its threshold. Modes differ in the hash and the threshold only:

    quota        hash of (seed, uid, query text); threshold is the query's t-th smallest (hash, uid), so that
                 it selects exactly min(t, count). CLIP's rule (section 2.2: "up to 20,000 pairs per query").
    coordinated  the same threshold over one hash of (seed, uid) for all queries: no favour for long texts.
    metaclip     independent draws: selected with probability t / max(count, t) (MetaCLIP, section 3.2).
    none         no balancing: all pairs, or a uniform sample of `baseline_pairs`. One nameless query stands
                 for the whole set, with a hash of (seed, uid).

The algorithm is exact, whatever the partitions and their order:

1. A query with count <= t selects all its edges: its threshold is the largest (hash, uid) there is.
2. For a head query the t-th smallest of `count` uniform hashes lies near t / count. Only edges in a window
   around it are gathered; of those below the window a partition sends the number. If fewer than t edges lie
   below the window and at least t at or below its upper end, the t-th smallest edge of all is the
   (t - below)-th smallest of the window: nothing else could stand before it. Sums and the union of slivers do
   not depend on who computed which part, and (hash, uid) is a total order, so ties cannot exceed t.
3. The window's ends are t -+ 6 sqrt(t) (+ 36 above) expected edges. The number below an end with m expected
   edges is binomial with variance under m, and the ends are chosen so that t is at least six times sqrt(m)
   away: each fails about once in 10^9 queries. `find_thresholds` names the queries for which it failed; the
   caller gathers those again with no bound. So the result is exact in every case, and luck costs time only.

Monotone in t: thresholds grow with t, so what a smaller t selects a larger one selects too. Mergeable: the
t smallest of a union are among the t smallest of its parts, which is why a set can grow by another crawl.

The final balance is the same on other edges: those that the plan selected and whose picture survived
(`column="selected_by"`). Their hashes are uniform below the plan's threshold, so a query's sample of the
survivors is as fair as the plan's; no pair that was fetched for another query may fill its gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import ConfigError
from pipeline.identity import first_64_bits, keyed_state
from pipeline.outcome import Outcome, reject
from pipeline.stages import balance_kernel

__all__ = [
    "EDGES",
    "BalanceConfig",
    "Edges",
    "Thresholds",
    "Windows",
    "balance",
    "edges_of",
    "find_thresholds",
    "find_windows",
    "gather",
    "ids_of",
    "planned_limit",
    "selection_limit",
    "solve",
    "unbounded",
]

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_LAST_UID = b"\xff" * 16
_SIGMAS = 6.0
_UNIT = 2.0**64

EDGES = pa.schema(
    [
        pa.field("query_id", pa.int32(), nullable=False),
        pa.field("hash", pa.uint64(), nullable=False),
        pa.field("uid", pa.binary(16), nullable=False),
    ]
)
"""Candidate edges of head queries, on their way to a threshold."""

Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """How many pairs a query may select, and how it chooses."""

    mode: Literal["quota", "coordinated", "metaclip", "none"] = "quota"
    """quota: exactly its t smallest keyed hashes. coordinated: likewise, one hash a pair. metaclip: independent
    draws, t expected. none: no balancing."""
    max_pairs_per_query: int = 20_000
    """t: the most pairs that one query selects. 20,000 in CLIP, for 400 M pairs."""
    tail_share: float | None = None
    """Derive t from the counts instead: the smallest t such that the queries with at most t matches hold this
    share of all matches (0..1). Published sets: t = 20,000 leaves about 0.06 of the matches in the tail."""
    baseline_pairs: int | None = None
    """With mode none: a uniform sample of so many pairs, as a raw baseline of the same size; null for all."""
    expected_yield: float = 1.0
    """The share of planned pairs that is expected to arrive (0..1]; the plan lets each query select
    t / expected_yield pairs, and the final balance cuts what was fetched back to t. 1 for no reserve."""
    reserve_slack: float = 1.0
    """Multiplies the reserve, for queries with worse luck than `expected_yield`; at least 1."""

    def __post_init__(self) -> None:
        if self.max_pairs_per_query < 1:
            raise ConfigError(f"max_pairs_per_query must be at least 1, not {self.max_pairs_per_query}")
        if self.tail_share is not None and not 0 < self.tail_share < 1:
            raise ConfigError(f"tail_share must be between 0 and 1, not {self.tail_share}")
        if self.baseline_pairs is not None and (self.mode != "none" or self.baseline_pairs < 1):
            raise ConfigError("baseline_pairs must be at least 1, and goes with mode none only")
        if not 0 < self.expected_yield <= 1:
            raise ConfigError(f"expected_yield must be above 0 and at most 1, not {self.expected_yield}")
        if not 1 <= self.reserve_slack <= 100:
            raise ConfigError(f"reserve_slack must be from 1 to 100, not {self.reserve_slack}")

    @property
    def one_hash_a_pair(self) -> bool:
        """Whether every query orders its pairs by the hash of (seed, uid), not by one of its own."""
        return self.mode in ("coordinated", "none")


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Per query, where to look for its threshold: lows <= hash <= highs; highs < lows where none is needed."""

    lows: Hashes
    """uint64[Q]"""
    highs: Hashes
    """uint64[Q]"""


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Gathered edges: E of them, and what lay below the windows."""

    queries: npt.NDArray[np.int32]
    """int32[E]"""
    hashes: Hashes
    """uint64[E]"""
    uids: npt.NDArray[np.void]
    """V16[E]"""
    below: Longs
    """int64[Q]: edges under each query's window."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Per query: the largest selected (hash, uid); edges up to and including it are selected."""

    hashes: Hashes
    """uint64[Q]"""
    uids: npt.NDArray[np.void]
    """V16[Q]: breaks ties between equal hashes."""


def ids_of(column: pa.Array) -> npt.NDArray[np.uint8]:
    """uint8[N, 16] view of a binary(16) column without nulls."""
    data = np.frombuffer(column.buffers()[1], np.uint8)
    return data[16 * column.offset : 16 * (column.offset + len(column))].reshape(-1, 16)


def selection_limit(counts: Longs, config: BalanceConfig, *, pairs: int) -> int:
    """t: what one query may select; in mode none, what the set may hold of its `pairs`.

    With `tail_share` it is derived from counts (int64[Q]). MetaCLIP sets t where the cumulative curve of the
    sorted counts turns to exponential growth, and its successor (MetaCLIP 2) carries it to other corpora by
    keeping the tail's share of the matches, about 6 %; that share is what is given here. The answer is one of
    the counts, at least 1.
    """
    if config.mode == "none":
        return pairs if config.baseline_pairs is None else config.baseline_pairs
    if config.tail_share is None:
        return config.max_pairs_per_query
    rising = np.sort(counts[counts > 0])
    if not len(rising):
        return 1
    held = np.cumsum(rising)
    # Equal counts enter together, so the answer is the first whose last occurrence reaches the share.
    return int(rising[np.searchsorted(held, config.tail_share * held[-1], side="left")])


def planned_limit(limit: int, config: BalanceConfig) -> int:
    """t with its reserve: what a query may select in the plan, before anything is lost on the way."""
    return math.ceil(round(limit / config.expected_yield * config.reserve_slack, 6))


def find_windows(counts: Longs, limit: int, below: Hashes | None = None) -> Windows:
    """Where the `limit`-th smallest of each query's `counts` (int64[Q]) hashes will be.

    Hashes are uniform on 0..`below` (uint64[Q], default: all of the 64 bits). Queries with at most `limit`
    edges need no threshold.
    """
    lows, highs = np.ones(len(counts), np.uint64), np.zeros(len(counts), np.uint64)
    head = np.flatnonzero(counts > limit)
    reach = np.full(len(head), _UNIT) if below is None else below[head].astype(np.float64)
    deviation = _SIGMAS * math.sqrt(limit)
    first = np.maximum(limit - deviation, 0) / counts[head] * reach
    last = (limit + deviation + _SIGMAS**2) / counts[head] * reach
    lows[head] = first.astype(np.uint64)
    inside = last < _UNIT - 2048  # the largest float below 2^64
    highs[head] = np.where(inside, last, 0).astype(np.uint64)
    highs[head[~inside]] = _ALL
    return Windows(lows=lows, highs=highs)


def _edges(batch: pa.RecordBatch, column: str, mode: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(offsets int32[N + 1], query ids int32[E]) of a batch's edges; one edge a row in mode none."""
    if mode == "none":
        return np.arange(batch.num_rows + 1, dtype=np.int32), np.zeros(batch.num_rows, np.int32)
    lists = batch.column(column)
    offsets = lists.offsets.to_numpy(zero_copy_only=False)
    return offsets - offsets[0], lists.flatten().to_numpy(zero_copy_only=False)


def gather(
    batch: pa.RecordBatch,
    config: BalanceConfig,
    *,
    seed: int,
    query_hashes: Hashes,
    windows: Windows,
    below: Longs,
    column: str = "query_ids",
) -> pa.RecordBatch:
    """The batch's edges (EDGES) in their query's window; adds those under it to `below` (int64[Q]).

    The batch needs `uid` and `column`, the list of query ids whose edges count.
    """
    offsets, queries = _edges(batch, column, config.mode)
    ids = first_64_bits(ids_of(batch.column("uid")))
    near = balance_kernel.Near(
        rows=np.empty(len(queries), np.int64),
        queries=np.empty(len(queries), np.int32),
        hashes=np.empty(len(queries), np.uint64),
    )
    count = balance_kernel.find_near(
        balance_kernel.Edges(offsets, queries, ids, query_hashes),
        balance_kernel.Hash(keyed_state(seed), config.one_hash_a_pair),
        balance_kernel.Windows(windows.lows, windows.highs),
        below,
        near,
    )
    columns = [
        pa.array(near.queries[:count], pa.int32()),
        pa.array(near.hashes[:count], pa.uint64()),
        batch.column("uid").take(pa.array(near.rows[:count])),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=EDGES)


def edges_of(batches: Iterable[pa.RecordBatch], below: Longs) -> Edges:
    """Gathered batches (EDGES), put together; about 28 bytes an edge."""
    held = [batch for batch in batches if batch.num_rows]
    uids = [np.ascontiguousarray(ids_of(batch.column("uid"))).view("V16").ravel() for batch in held]
    return Edges(
        queries=np.concatenate([np.empty(0, np.int32), *(b.column("query_id").to_numpy() for b in held)]),
        hashes=np.concatenate([np.empty(0, np.uint64), *(b.column("hash").to_numpy() for b in held)]),
        uids=np.concatenate([np.empty(0, "V16"), *uids]),
        below=below,
    )


def find_thresholds(
    edges: Edges, counts: Longs, limit: int, config: BalanceConfig, reach: Hashes | None = None
) -> tuple[Thresholds, Longs]:
    """Thresholds that let every query select `limit` edges, and the query ids whose window failed (int64[K]).

    `edges` come in any order, `counts` (int64[Q]) are all the edges that there are. The thresholds of the
    named queries are not valid: gather these again without a bound. Hashes are uniform on 0..`reach`
    (uint64[Q]; default: the 64 bits), which only independent draws need to know.
    """
    thresholds = Thresholds(
        hashes=np.full(len(counts), _ALL, np.uint64), uids=np.full(len(counts), _LAST_UID, dtype="V16")
    )
    head = np.flatnonzero(counts > limit)
    if config.mode == "metaclip":
        # Selected when hash < p reach, p = limit / count: as an inclusive bound, one less.
        span = np.full(len(head), _UNIT) if reach is None else reach[head].astype(np.float64)
        thresholds.hashes[head] = np.maximum((limit / counts[head] * span), 1).astype(np.uint64) - np.uint64(1)
        return thresholds, np.empty(0, np.int64)
    if not len(head):
        return thresholds, np.empty(0, np.int64)
    order = np.lexsort((edges.hashes, edges.queries))
    queries = edges.queries[order]
    first = np.searchsorted(queries, head, side="left")
    last = np.searchsorted(queries, head, side="right")
    place = first + limit - edges.below[head] - 1
    good = (place >= first) & (place < last)
    hashes = edges.hashes[order]
    found = head[good]
    thresholds.hashes[found] = hashes[place[good]]
    for query, begin, cut, end in zip(found, first[good], place[good], last[good], strict=True):
        uid = _uid_at(edges.uids, hashes, order, int(begin), int(cut), int(end))
        thresholds.uids[query] = np.void(uid)
    return thresholds, head[~good]


def unbounded(size: int, queries: Longs) -> Windows:
    """Windows over `size` queries that hold every edge of `queries` (int64[K]) and none of the others."""
    windows = Windows(lows=np.ones(size, np.uint64), highs=np.zeros(size, np.uint64))
    windows.lows[queries], windows.highs[queries] = 0, _ALL
    return windows


def solve(
    gathered: Callable[[Windows, Longs], Iterable[pa.RecordBatch]],
    counts: Longs,
    limit: int,
    config: BalanceConfig,
    reach: Hashes | None = None,
) -> tuple[Thresholds, int]:
    """Thresholds of edges that can be gathered at will, and how many queries had to be gathered again.

    `gathered(windows, below)` runs `gather` over all batches. `counts`, `limit` and `reach` are as in
    `find_thresholds`.
    """

    def find(windows: Windows, among: Longs) -> tuple[Thresholds, Longs]:
        below = np.zeros(len(counts), np.int64)
        return find_thresholds(edges_of(gathered(windows, below), below), among, limit, config, reach)

    thresholds, failed = find(find_windows(counts, limit, reach), counts)
    if len(failed):
        among = np.zeros_like(counts)
        among[failed] = counts[failed]
        whole, _ = find(unbounded(len(counts), failed), among)
        thresholds.hashes[failed], thresholds.uids[failed] = whole.hashes[failed], whole.uids[failed]
    return thresholds, len(failed)


def _uid_at(uids: npt.NDArray[np.void], hashes: Hashes, order: Longs, begin: int, cut: int, end: int) -> bytes:
    """The uid at place `cut` of the edges begin..end of one query, in (hash, uid) order; they are in hash order."""
    first = last = cut
    while first > begin and hashes[first - 1] == hashes[cut]:
        first -= 1
    while last + 1 < end and hashes[last + 1] == hashes[cut]:
        last += 1
    if first == last:
        return bytes(uids[order[cut]].tobytes())
    return sorted(bytes(uids[order[i]].tobytes()) for i in range(first, last + 1))[cut - first]


def balance(
    batch: pa.RecordBatch,
    config: BalanceConfig,
    *,
    seed: int,
    query_hashes: Hashes,
    thresholds: Thresholds,
    column: str = "query_ids",
    stage: str = "balance",
    reason: str = "not_selected",
) -> Outcome:
    """Keep the pairs that some query selects; sets `selected_by` (list<int32>, ascending, of `column`'s ids)."""
    offsets, queries = _edges(batch, column, config.mode)
    ids = first_64_bits(ids_of(batch.column("uid")))
    verdicts = np.empty(len(queries), np.uint8)
    ties = balance_kernel.compare(
        balance_kernel.Edges(offsets, queries, ids, query_hashes),
        balance_kernel.Hash(keyed_state(seed), config.one_hash_a_pair),
        thresholds.hashes,
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
    if config.mode == "none":
        selected_by = batch.column(column)
    else:
        selected_by = pa.ListArray.from_arrays(pa.array(ends), pa.array(queries[chosen], pa.int32()))
    field = pa.field("selected_by", pa.list_(pa.int32()), nullable=False)
    place = batch.schema.get_field_index("selected_by")
    batch = batch.set_column(place, field, selected_by) if place >= 0 else batch.append_column(field, selected_by)
    reasons = pc.if_else(pa.array(keep), pa.scalar(None, pa.string()), pa.scalar(reason))
    return reject(batch, stage=stage, reasons=reasons)
