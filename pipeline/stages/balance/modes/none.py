"""none: no balancing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.stages.balance.modes.mode import Mode

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.stages.balance.hashes import Ids, Longs

__all__ = ["NoBalancing"]


class NoBalancing(Mode):
    """All pairs, or a uniform sample of `baseline_pairs` of them: a raw set, to hold a balanced one against.

    One nameless query stands for the whole set. Every pair contains it once, its t is what the set may hold, and
    the smallest hashes of (seed, uid) are a uniform sample. A kept pair is `selected_by` whatever it contains.
    """

    name = "none"
    says = "no balancing, but all pairs or a uniform sample of baseline_pairs"
    one_hash_a_pair = True
    whole_set = True

    def counts(self, matches: Longs, pairs: int) -> Longs:
        """int64[1]: every pair contains the nameless query."""
        import numpy as np

        return np.array([pairs], np.int64)

    def edges(self, lists: pa.ListArray) -> tuple[Ids, Ids]:
        """One edge a pair, all of query 0."""
        import numpy as np

        return np.arange(len(lists) + 1, dtype=np.int32), np.zeros(len(lists), np.int32)

    def selected_by(self, lists: pa.ListArray, selecting: pa.ListArray) -> pa.ListArray:
        """The queries that the pair contains, or those that it had before."""
        return lists
