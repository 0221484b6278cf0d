"""Matches of texts with a query list whose published aggregates are fitted: what `fidelity.py` selects from.

    ranks of queries: two Zipf laws     1..16,000 hold 94.4 % of all matches, the next 370,000 the rest, the last none
                                        (the first with an offset, or a third of the texts would share a query)
    matches of a text: 1 + geometric    3.54 different ones on average
    which ones stand together           a share of them is about as rare as the text's first

The aggregates are those of MetaCLIP (arXiv 2309.16671, section 3). Laws and shares that give them are found
by numbers, before anything is drawn; every text is a function of its number, so rows are the same on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from benchmarks.select_scale import mix

__all__ = ["PUBLISHED", "Matches", "Published", "fit", "fitted"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What MetaCLIP tells of its 400 M pairs."""

    queries: int = 500_000
    texts: float = 1.6e9
    """English ones with a match."""
    matches: float = 5.67e9
    t: int = 20_000
    heads: int = 16_000
    """Queries with more than t matches: 3.2 % of the list."""
    head_share: float = 0.944
    """Of all matches."""
    without_match: int = 114_000
    of_first: float = 120e6 / 5.67e9
    """Of all matches: those of the first query. Chosen, not published: a word like `of` in one text of thirteen."""
    kept: float = 0.25
    """Of the texts: 400 M."""
    selections: float = 1.6
    """Of a kept pair."""


PUBLISHED = Published()

_MOST_MATCHES = 48
_NEAR = 0.1
"""How far, in shares of all matches by rank, a query that stands with another is from it."""
_GOES_ON, _TOGETHER = 0.7293, 0.5465
"""Found by `python -m benchmarks.published_matches`."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """The law, and how texts draw from it."""

    up_to: Floats
    """Share of all matches in queries up to each rank."""
    goes_on: float
    """That a text which has n matches drew another."""
    together: float
    """Of a text's further matches: those about as rare as its first."""

    def of(self, texts: Words) -> tuple[Integers, Integers]:
        """(text, query) of all matches, each once, by text; texts as places in `texts`, queries as ranks from 0."""
        length_B = np.minimum(1 + np.floor(np.log1p(-_uniform(texts, 1)) / np.log(self.goes_on)), _MOST_MATCHES)
        text_E = np.repeat(np.arange(len(texts)), length_B.astype(np.int64))
        first_E = np.searchsorted(text_E, text_E)
        place_E = np.arange(len(text_E)) - first_E
        keys_E = texts[text_E] * np.uint64(_MOST_MATCHES) + place_E.astype(np.uint64)
        drawn_E = _uniform(keys_E, 2)
        near_E = (drawn_E[first_E] + _NEAR * (drawn_E - 0.5)) % 1.0
        is_near_E = (place_E > 0) & (_uniform(keys_E, 3) < self.together)
        share_E = np.where(is_near_E, near_E, drawn_E)
        query_E = np.minimum(np.searchsorted(self.up_to, share_E, side="right"), len(self.up_to) - 1)
        pairs_E = np.sort(text_E * len(self.up_to) + query_E)
        pairs_E = pairs_E[np.concatenate(([True], pairs_E[1:] != pairs_E[:-1]))]
        return pairs_E // len(self.up_to), pairs_E % len(self.up_to)


@cache
def fitted() -> Matches:
    """The law of the published aggregates."""
    return Matches(up_to=np.cumsum(_shares(_GOES_ON)), goes_on=_GOES_ON, together=_TOGETHER)


def _shares(goes_on: float) -> Floats:
    """float64[Q]: of all draws of a text, where it goes on so often; draws of what a text has already are lost."""
    lasting = PUBLISHED.matches / PUBLISHED.texts * (1 - goes_on)
    # Where the two laws meet, a query has t matches.
    at_t, heads = lasting * PUBLISHED.t / PUBLISHED.matches, PUBLISHED.heads
    of_tail = lasting * (1 - PUBLISHED.head_share)
    head_ranks = np.arange(1, heads + 1)
    tail_ranks = np.arange(heads + 1, PUBLISHED.queries - PUBLISHED.without_match + 1)

    def to_t(offset: float) -> Floats:
        """From the first query's share."""
        power = np.log(PUBLISHED.of_first / at_t) / np.log((heads + offset) / (1 + offset))
        return at_t * ((head_ranks + offset) / (heads + offset)) ** -power

    def from_t(power: float) -> Floats:
        return at_t * (tail_ranks / heads) ** -power

    offset = _root(lambda b: float(to_t(b).sum()) - (1 - of_tail), 0.0, 1000.0)
    power = _root(lambda a: of_tail - float(from_t(a).sum()), 1.0, 4.0)
    shares_Q = np.zeros(PUBLISHED.queries)
    shares_Q[: heads + len(tail_ranks)] = np.concatenate([to_t(offset), from_t(power)])
    return shares_Q / shares_Q.sum()


def fit(texts: int) -> tuple[float, float]:
    """`_GOES_ON` and `_TOGETHER`, by so many texts: 3.54 different matches, a quarter kept by independent draws."""
    numbers = np.arange(texts, dtype=np.uint64)
    wanted = PUBLISHED.matches / PUBLISHED.texts

    def law(goes_on: float, together: float) -> Matches:
        return Matches(up_to=np.cumsum(_shares(goes_on)), goes_on=goes_on, together=together)

    def kept(goes_on: float, together: float) -> float:
        text_E, query_E = law(goes_on, together).of(numbers)
        expected_Q = _shares(goes_on) * PUBLISHED.texts / (1 - goes_on)
        passed_E = np.log1p(-np.minimum(PUBLISHED.t / np.maximum(expected_Q, 1), 1 - 1e-12))[query_E]
        return float(1 - np.exp(np.bincount(text_E, passed_E, texts)).mean())

    def drawn(goes_on: float, together: float) -> float:
        return len(law(goes_on, together).of(numbers)[0]) / texts

    together = _TOGETHER
    for _ in range(2):  # each moves the other a little
        goes_on = _root(lambda q, c=together: drawn(q, c) - wanted, 0.72, 0.76)
        together = _root(lambda c, q=goes_on: PUBLISHED.kept - kept(q, c), 0.4, 0.9)
    return goes_on, together


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises crosses 0, by bisection."""
    assert rising(low) <= 0 <= rising(high), (rising(low), rising(high))
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _uniform(numbers: Words, salt: int) -> Floats:
    """[0, 1)"""
    return (mix(numbers ^ np.uint64(salt << 56)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


if __name__ == "__main__":
    print(fit(1_000_000))
