"""The options of step texts."""

from __future__ import annotations

from dataclasses import dataclass

from configs.load import ConfigError

__all__ = ["TextsConfig"]


@dataclass(frozen=True, kw_only=True)
class TextsConfig:
    """How the text stages and the exchange after them cut their work."""

    batch_rows: int = 65_536
    """Candidates in memory at a time."""
    rows_per_flush: int = 1_000_000
    """Matched rows that the exchange holds before it sorts them into hash partitions and writes."""
    partitions: int = 8
    """Hash partitions of the exchange before dedup; each must fit in a worker's memory or spill."""

    def __post_init__(self) -> None:
        if min(self.batch_rows, self.rows_per_flush, self.partitions) < 1:
            raise ConfigError("batch_rows, rows_per_flush and partitions must be at least 1")
