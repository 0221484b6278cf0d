"""BalanceConfig: how many pairs a query may select, and how it chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from configs.load import ConfigError
from configs.options import OneOf
from pipeline.stages.balance.modes import MODES, mode_of

__all__ = ["BalanceConfig"]


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """How many pairs a query may select, and how it chooses."""

    mode: Annotated[str, OneOf({mode.name: mode.says for mode in MODES})] = "quota"
    """How a query chooses among the pairs that contain it."""
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
        mode = mode_of(self.mode)
        if self.max_pairs_per_query < 1:
            raise ConfigError(f"max_pairs_per_query must be at least 1, not {self.max_pairs_per_query}")
        if self.tail_share is not None and not 0 < self.tail_share < 1:
            raise ConfigError(f"tail_share must be between 0 and 1, not {self.tail_share}")
        if self.baseline_pairs is not None and (not mode.whole_set or self.baseline_pairs < 1):
            names = " or ".join(mode.name for mode in MODES if mode.whole_set)
            raise ConfigError(f"baseline_pairs must be at least 1, and goes with mode {names} only")
        if not 0 < self.expected_yield <= 1:
            raise ConfigError(f"expected_yield must be above 0 and at most 1, not {self.expected_yield}")
        if not 1 <= self.reserve_slack <= 100:
            raise ConfigError(f"reserve_slack must be from 1 to 100, not {self.reserve_slack}")
