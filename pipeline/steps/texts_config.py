"""The options of step texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from configs.bounds import Bounds
from configs.load import check_bounds

__all__ = ["TextsConfig"]


@dataclass(frozen=True, kw_only=True)
class TextsConfig:
    """How the text stages and the exchange after them cut their work."""

    batch_rows: Annotated[int, Bounds(least=1)] = 65_536
    """Links in memory at a time."""
    keep_candidates: bool = False
    """Extract links in a step of its own, and keep all that it found (view `candidates`), so that to tune the stages
    after it reads no source again. They are the largest files of all: without it they are not written."""
    keep_unmatched: bool = False
    """Keep pairs whose caption contains no query of the list, too, with no `query_ids`: a raw set, to hold a matched
    one against. Goes with balance.mode none, since no query could select them."""
    table_bytes_per_task: Annotated[int, Bounds(least=1)] = 2_097_152
    """A larger Parquet table is read by several tasks, each so many bytes of its row groups."""
    archive_bytes_per_task: Annotated[int, Bounds(least=1)] = 1_073_741_824
    """A larger gzip archive is read by several tasks, each so many bytes of its records."""
    rows_per_flush: Annotated[int, Bounds(least=1)] = 1_000_000
    """Matched rows that the exchange holds before it sorts them into hash partitions and writes."""
    partitions: Annotated[int, Bounds(least=1)] = 8
    """Hash partitions of the exchange before dedup; each must fit in a worker's memory or spill."""

    def __post_init__(self) -> None:
        check_bounds(self)
