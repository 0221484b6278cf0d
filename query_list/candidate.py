"""What every source offers: queries in order of preference, with the figures that they are ranked by."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Candidate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One possible query."""

    query: str
    count: int | None = None
    views: int | None = None
    pmi: float | None = None
