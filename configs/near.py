"""The name that somebody meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "near"]


def near(word: str, names: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The one of `names` that is spelt most like `word`; None where none is (`difflib.get_close_matches`)."""
    found = difflib.get_close_matches(word, list(names), 1, cutoff)
    return found[0] if found else None


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """The end of a line about an unknown `word`: which of `names` was meant, or all of them."""
    known = list(names)
    meant = near(word, known)
    return f"did you mean {meant!r}?" if meant else f"there are {', '.join(known)}"
