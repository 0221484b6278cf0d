"""The threshold of every query: the t-th smallest of its edges, from those that were gathered around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.stages.balance.edges import Edges, Gather, edges_of
from pipeline.stages.balance.hashes import LARGEST, Hashes, Longs, span_of
from pipeline.stages.balance.modes.mode import Mode
from pipeline.stages.balance.windows import Windows, find_windows, unbounded

__all__ = ["Thresholds", "find_thresholds", "solve"]

_LAST_UID = b"\xff" * 16


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Per query: the largest selected (hash, uid); edges up to and including it are selected."""

    hashes: Hashes
    """uint64[Q]"""
    uids: npt.NDArray[np.void]
    """V16[Q]: breaks ties between equal hashes."""


def solve(
    gather: Gather,
    counts: Longs,
    limit: int,
    mode: Mode,
    *,
    reach: Hashes | None = None,
    gathered: Edges | None = None,
) -> tuple[Thresholds, int]:
    """Thresholds that let every query select `limit` edges, and how many queries had to be gathered again.

    `gather` is asked for the edges in the windows of `find_windows`, unless they were `gathered` before, and once
    more for all edges of the queries whose window failed. `counts` (the mode's), `limit` and `reach` are as in
    `find_thresholds`.
    """

    def edges_in(windows: Windows) -> Edges:
        below = np.zeros(len(counts), np.int64)
        return edges_of(gather(windows, below), below)

    if gathered is None:
        gathered = edges_in(find_windows(counts, limit, reach))
    thresholds, failed = find_thresholds(gathered, counts, limit, mode, reach)
    if len(failed):
        among = np.zeros_like(counts)
        among[failed] = counts[failed]
        whole, _ = find_thresholds(edges_in(unbounded(len(counts), failed)), among, limit, mode, reach)
        thresholds.hashes[failed], thresholds.uids[failed] = whole.hashes[failed], whole.uids[failed]
    return thresholds, len(failed)


def find_thresholds(
    edges: Edges, counts: Longs, limit: int, mode: Mode, reach: Hashes | None = None
) -> tuple[Thresholds, Longs]:
    """Thresholds that let every query select `limit` edges, and the query ids whose window failed (int64[K]).

    `edges` come in any order, `counts` (int64[Q]) are all the edges that there are. The thresholds of the
    named queries are not valid: gather these again without a bound. Hashes are uniform on 0..`reach`
    (uint64[Q]; default: the 64 bits), which only independent draws need to know.
    """
    thresholds = Thresholds(
        hashes=np.full(len(counts), LARGEST, np.uint64), uids=np.full(len(counts), _LAST_UID, dtype="V16")
    )
    head = np.flatnonzero(counts > limit)
    if not len(head):
        return thresholds, np.empty(0, np.int64)
    share = mode.share(counts[head], limit)
    if share is not None:
        # Selected when hash < share * span: as an inclusive bound, one less.
        thresholds.hashes[head] = np.maximum(share * span_of(reach, head), 1).astype(np.uint64) - np.uint64(1)
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
