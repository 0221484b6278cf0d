"""The options of `balance`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.load import ConfigError

__all__ = ["BalanceConfig"]


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
