"""BalanceConfig: how many pairs a query may select, and how it chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from configs.options import OneOf
from pipeline.stages.balance.modes import MODES, mode_of

__all__ = ["BalanceConfig"]


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """How many pairs a query may select, and how it chooses."""

    mode: Annotated[str, OneOf({mode.name: mode.says for mode in MODES})] = "quota"
    """How a query chooses among the pairs that contain it."""
    max_pairs_per_query: Annotated[int, Bounds(least=1)] = 20_000
    """t: the most pairs that one query selects. 20,000 in CLIP, for 400 M pairs."""
    tail_share: Annotated[float, Bounds(above=0, below=1)] | None = None
    """Derive t from the counts instead: the smallest t such that the queries with at most t matches hold this
    share of all matches (0..1). Published sets: t = 20,000 leaves about 0.06 of the matches in the tail."""
    baseline_pairs: Annotated[int, Bounds(least=1)] | None = None
    """With mode none: a uniform sample of so many pairs, as a raw baseline of the same size; null for all."""
    expected_yield: Annotated[float, Bounds(above=0, most=1)] = 1.0
    """The share of planned pairs that is expected to arrive (0..1]; the plan lets each query select
    t / expected_yield pairs, and the final balance cuts what was fetched back to t. 1 for no reserve."""
    reserve_slack: Annotated[float, Bounds(least=1, most=100)] = 1.0
    """Multiplies the reserve, for queries with worse luck than `expected_yield`; at least 1."""

    def __post_init__(self) -> None:
        mode = mode_of(self.mode)
        check_bounds(self)
        if self.baseline_pairs is not None and not mode.whole_set:
            names = " or ".join(mode.name for mode in MODES if mode.whole_set)
            raise ConfigError(f"baseline_pairs goes with mode {names} only")
