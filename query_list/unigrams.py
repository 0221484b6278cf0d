"""Words that occur often: "every word occurring at least 100 times" (CLIP, section 2.2)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from query_list.candidate import Candidate
from query_list.config import UnigramsConfig

__all__ = ["unigrams"]


def unigrams(words: pa.Table, config: UnigramsConfig) -> list[Candidate]:
    """Candidates from `words` (counting.COUNTS), by count, then by text."""
    counts = words.column("count").to_numpy()
    table = words.filter(pa.array(counts >= config.min_count))
    keys = table.column("key").to_pylist()
    order = np.lexsort((_text_order(keys), -table.column("count").to_numpy()))
    values = table.column("count").to_pylist()
    return [Candidate(query=keys[i], count=values[i]) for i in order.tolist()]


def _text_order(keys: list[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """int64[N]: each key's place among all of them, sorted by code point."""
    places = np.empty(len(keys), np.int64)
    places[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return places
