"""Pairs of words that keep company: "bi-grams with high pointwise mutual information" (CLIP, section 2.2).

A bare threshold on PMI cannot select them. PMI is log2(c(xy) N / (c(x) c(y))): its largest value, for two
words that only ever occur together c times, is log2(N / c). On four billion words that is 32 for c = 1 and 25
for c = 100, so the published "PMI >= 30" passes only pairs too rare to be wanted, and on 3 * 10^7 words it
passes nothing at all. A minimum count and a budget by rank work on a corpus of any size.
"""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.compute as pc

from query_list.candidate import Candidate
from query_list.config import BigramsConfig

__all__ = ["bigrams"]


def bigrams(
    pairs: pa.Table, words: pa.Table, num_words: int, chosen: set[str], config: BigramsConfig
) -> list[Candidate]:
    """Candidates from `pairs` and `words` (counting.COUNTS), by PMI, then count, then text.

    `num_words` is the size of the corpus; both words of a pair must be in `chosen`. PMI is rounded to six
    places before it ranks, so that the last bit of a logarithm cannot order two pairs.
    """
    pairs = pairs.filter(pc.greater_equal(pairs.column("count"), config.min_count))
    count_of = dict(zip(words.column("key").to_pylist(), words.column("count").to_pylist(), strict=True))
    found: list[tuple[float, int, str]] = []
    for key, count in zip(pairs.column("key").to_pylist(), pairs.column("count").to_pylist(), strict=True):
        first, _, second = key.partition(" ")
        if first in chosen and second in chosen:
            pmi = round(math.log2(count * num_words / (count_of[first] * count_of[second])), 6)
            if pmi >= config.min_pmi:
                found.append((-pmi, -count, key))
    found.sort()
    return [Candidate(query=key, count=-count, pmi=-pmi) for pmi, count, key in found]
