"""The options of matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["MatchConfig"]


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """When a caption contains a query; docs/matching.md shows both rules by examples."""

    rule: Literal["words", "metaclip"] = "words"
    """words: the query's words stand in the caption one after the other, whatever white space or punctuation
    lies between. metaclip: the published rule to the letter (substring between single spaces)."""
    case: Literal["smart", "fold", "exact"] = "smart"
    """For the rule `words`. smart: a query without capitals matches any case, a query with capitals only as
    written. fold: case never counts. exact: it always does. The rule `metaclip` is always exact."""
    compatibility_forms: bool = True
    """For the rule `words`: letters and numbers that are forms of others match them (Unicode NFKC): wide ones,
    ligatures, raised and lowered ones, mathematical alphabets. Captions stay as they are."""
