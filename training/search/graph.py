"""The approximate search: a graph of near neighbours (HNSW, Malkov and Yashunin, arXiv 1603.09320), by usearch.

The graph holds each vector as bytes, scaled so that its largest number is 127: a quarter of float32's room, and
compared in whole numbers. What it finds is scored by the features themselves (`nearest.py`), so that bytes decide who
is looked at and never who comes first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.errors import FeaturesError, TrainingError

__all__ = ["Graph", "build_graph", "check_usearch"]


def check_usearch() -> None:
    """Raise TrainingError where usearch is not installed."""
    if importlib.util.find_spec("usearch") is None:
        raise TrainingError("search needs usearch, which is not installed here; pip install 'openwit[search]'")


def _as_bytes(vectors_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    largest = np.abs(vectors_ND).max(axis=-1, keepdims=True)
    scaled: npt.NDArray[np.int8] = np.rint(vectors_ND * (127 / np.maximum(largest, 1e-12))).astype(np.int8)
    return scaled


def build_graph(
    blocks: Iterable[npt.NDArray[np.float32]],
    path: Path,
    *,
    width: int,
    neighbours: int,
    effort: int,
    threads: int | None,
) -> None:
    """Write the graph over all rows of `blocks`, float32[n, D] each, to `path`; the first row is 0.

    The whole graph is in memory meanwhile. With one thread the same rows give the same bytes.
    """
    from usearch.index import Index

    index: Any = Index(ndim=width, metric="cos", dtype="i8", connectivity=neighbours, expansion_add=effort)
    begin = 0
    for block in blocks:
        keys = np.arange(begin, begin + len(block), dtype=np.uint64)
        index.add(keys, _as_bytes(block), threads=threads or 0)
        begin += len(block)
    index.save(str(path))


class Graph:
    """A graph that is mapped, not loaded."""

    def __init__(self, path: Path, *, width: int) -> None:
        """Raises FeaturesError for what is no graph of vectors of `width`."""
        from usearch.index import Index

        index: Any = Index(ndim=width, metric="cos", dtype="i8", enable_key_lookups=False)
        try:
            index.view(str(path))
        except (RuntimeError, ValueError) as error:
            raise FeaturesError(f"{path}: damaged ({error}); make it again: python -m training index") from error
        self._index = index

    def near(self, query_D: npt.NDArray[np.float32], count: int, *, effort: int) -> npt.NDArray[np.int64]:
        """About the `count` rows that are nearest to a query, in no order."""
        self._index.expansion_search = max(effort, count)
        found = self._index.search(_as_bytes(query_D), count, threads=1)
        rows: npt.NDArray[np.int64] = np.asarray(found.keys).astype(np.int64)
        return rows
