"""t, the most that one query may select: given, or derived from the counts; and its reserve."""

from __future__ import annotations

import math

import numpy as np

from pipeline.stages.balance.config import BalanceConfig
from pipeline.stages.balance.hashes import Longs
from pipeline.stages.balance.modes import mode_of

__all__ = ["planned_limit", "selection_limit"]


def selection_limit(matches: Longs, config: BalanceConfig, *, pairs: int) -> int:
    """t: what one query may select; in a mode for the whole set, what it may hold of its `pairs`.

    With `tail_share` it is derived from the matches of the listed queries (int64). MetaCLIP sets t where the
    cumulative curve of the sorted counts turns to exponential growth, and its successor (MetaCLIP 2) carries it to
    other corpora by keeping the tail's share of the matches, about 6 %; that share is what is given here. The answer
    is one of the counts, at least 1.
    """
    if mode_of(config.mode).whole_set:
        return pairs if config.baseline_pairs is None else config.baseline_pairs
    if config.tail_share is None:
        return config.max_pairs_per_query
    rising = np.sort(matches[matches > 0])
    if not len(rising):
        return 1
    held = np.cumsum(rising)
    # Equal counts enter together, so the answer is the first whose last occurrence reaches the share.
    return int(rising[np.searchsorted(held, config.tail_share * held[-1], side="left")])


def planned_limit(limit: int, config: BalanceConfig) -> int:
    """t with its reserve: what a query may select in the plan, before anything is lost on the way."""
    return math.ceil(round(limit / config.expected_yield * config.reserve_slack, 6))
