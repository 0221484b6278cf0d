"""What a mode is: the rule by which a query chooses among the pairs that contain it.

Whatever a mode leaves as it is here is done as CLIP does it (`quota.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:  # names of types alone: `--help` reads this file, and needs no NumPy
    import pyarrow as pa

    from pipeline.stages.balance.hashes import Ids, Longs, Shares

__all__ = ["Mode"]


class Mode:
    """One rule. Modes hold no state, and any number of workers may share one."""

    name: ClassVar[str]
    """As the config has it. Keys of tasks hold it and nothing else of the mode, so a rule that would select
    otherwise takes another name (or the `version` of the tasks rises)."""
    says: ClassVar[str]
    """For `--help`: what the rule is, in a line."""
    one_hash_a_pair: ClassVar[bool] = False
    """Whether every query orders its pairs by the hash of (seed, uid). Otherwise each has an order of its own, by
    the hash of (seed, uid, text of the query)."""
    whole_set: ClassVar[bool] = False
    """Whether one nameless query, number 0, selects for all that are listed. Then no query has a t of its own, and
    `baseline_pairs` takes the place of t."""

    def share(self, counts: Longs, limit: int) -> Shares | None:
        """The share of its edges that each query selects, every edge by an independent draw; float64[K], below 1.

        `counts` int64[K] are those of the queries with more than `limit` edges. None: no draws, each query selects
        exactly its `limit` smallest edges by (hash, uid).
        """
        return None

    def counts(self, matches: Longs, pairs: int) -> Longs:
        """int64[Q], the edges of each query that selects; `matches` int64 are those of the listed ones in `pairs`.

        They differ in modes for the whole set only.
        """
        return matches

    def edges(self, lists: pa.ListArray) -> tuple[Ids, Ids]:
        """(offsets int32[N + 1], query ids int32[E]) of a batch; `lists` are the query ids of its N pairs."""
        offsets = lists.offsets.to_numpy(zero_copy_only=False)
        return offsets - offsets[0], lists.flatten().to_numpy(zero_copy_only=False)

    def selected_by(self, lists: pa.ListArray, selecting: pa.ListArray) -> pa.ListArray:
        """What a pair's `selected_by` says; `selecting` are, of its `edges`, the queries that select it."""
        return selecting
