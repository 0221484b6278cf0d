"""The options of the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from configs.bounds import Bounds
from configs.load import check_bounds

__all__ = ["LedgerConfig"]


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    """How much detail the ledger keeps. Counts are always exact."""

    max_rows_per_task: Annotated[int, Bounds(least=0)] | None = None
    """Rejected rows written in detail per task, stage and reason; null writes all of them."""

    def __post_init__(self) -> None:
        check_bounds(self)
