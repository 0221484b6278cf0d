"""The published figures of a balance like CLIP's, each with its source, to stand beside ours.

CLIP's own paper (Radford et al. 2021, arXiv 2103.00020, section 2.2) tells the rule and three numbers: 500,000 queries,
at most 20,000 pairs each, 400 million pairs. The rest is known from MetaCLIP (Xu et al. 2023, arXiv 2309.16671), which
rebuilt it over 1.6e9 English pairs with independent draws at t = 20,000: another corpus and another mode give other
figures, so these are to compare with, and no aim. Figures that follow from others say how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PUBLISHED", "Published"]

_METACLIP = "MetaCLIP, arXiv 2309.16671"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One figure."""

    figure: str
    """As the named query `balance_summary` calls it."""
    value: float
    source: str


PUBLISHED: Sequence[Published] = (
    Published(
        figure="matches a text",
        value=3.54,
        source=f"{_METACLIP}: 5.67e9 matches in 1.6e9 texts",
    ),
    Published(
        figure="matches in head queries, %",
        value=94.4,
        source=f"{_METACLIP}: of all matches; the tail has 5.6 %",
    ),
    Published(
        figure="head queries, %",
        value=3.2,
        source=f"{_METACLIP}: about 16,000 of 500,000 have more than 20,000 matches",
    ),
    Published(
        figure="pairs kept, %",
        value=25.0,
        source=f"{_METACLIP}: 400e6 of 1.6e9",
    ),
    Published(
        figure="selections a kept pair",
        value=1.6,
        source=f"{_METACLIP}: from its counts, sum of min(count, t) over 400e6",
    ),
    Published(
        figure="queries without a match, %",
        value=22.8,
        source=f"{_METACLIP}: about 114,000 of 500,000",
    ),
)
"""In the order in which they are shown."""
