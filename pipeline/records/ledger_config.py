"""The options of the ledger."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LedgerConfig"]


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    """How much detail the ledger keeps. Counts are always exact."""

    max_rows_per_task: int | None = None
    """Rejected rows written in detail per task, stage and reason; null writes all of them."""
