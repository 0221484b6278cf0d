"""The nearest vectors of an index: near ones by the graph, then exact scores; few vectors are all compared.

all rows         graph --4 k or more--> scored exactly --> the best k
chosen rows      few: scored one and all                       many: graph, more and more until k of them are found
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.errors import FeaturesError
from training.search.graph import Graph
from training.search.index_files import ROWS, IndexPlace

__all__ = ["EXACT_ROWS", "Nearest", "Vectors"]

EXACT_ROWS = 20_000
"""Up to so many are compared with a query one and all, in some 20 ms for D = 512: no graph is built over fewer."""
_BLOCK = 4096
"""Rows that are float32 at a time."""
_CANDIDATES = 4
"""So many times as many as are wanted are scored exactly, since bytes tell their order a little wrong."""
_DIGITS = 6
"""Of a score; more hang on the order in which a machine adds up, and float16 has three."""
_MOST_NEAR = 8192
"""More are not asked of a graph."""


class Nearest(NamedTuple):
    """The k best, or fewer where there are not so many: the best first, and among equals the smaller uid."""

    rows: npt.NDArray[np.int64]
    """int64[k]: places in the index."""
    scores: npt.NDArray[np.float32]
    """float32[k]: cosine similarities."""


class Vectors:
    """The vectors of an index, mapped."""

    def __init__(self, index: IndexPlace) -> None:
        """Raises FeaturesError where a file is not what was written."""
        about = index.about
        try:
            self._vectors: npt.NDArray[np.float16] = np.load(index.file("vectors"), mmap_mode="r", allow_pickle=False)
            self.rows: pa.Table = pa.ipc.open_file(pa.memory_map(str(index.file("rows")))).read_all()
        except (ValueError, pa.ArrowException) as error:
            raise FeaturesError(f"{index.place}: damaged ({error}); make it again: python -m training index") from error
        if self._vectors.shape != (about.rows, about.width) or len(self.rows) != about.rows or self.rows.schema != ROWS:
            raise FeaturesError(
                f"{index.place}: its files are not of one index; make it again: python -m training index"
            )
        self._graph = Graph(index.file("graph"), width=about.width) if "graph" in about.files else None

    def nearest(
        self,
        query_D: npt.NDArray[np.float32],
        k: int,
        *,
        among: npt.NDArray[np.int64] | None = None,
        effort: int = 128,
        exact: bool = False,
    ) -> Nearest:
        """The nearest to a unit vector, float32[D], `among` these rows or all; `effort` as in SearchConfig."""
        count = len(self._vectors) if among is None else len(among)
        if exact or self._graph is None or count <= max(EXACT_ROWS, k):
            return self._best(query_D, k, among)
        if among is None:
            wanted = min(_CANDIDATES * k, count)
            return self._best(query_D, k, np.sort(self._graph.near(query_D, wanted, effort=effort)))
        is_among = np.zeros(len(self._vectors), np.bool_)
        is_among[among] = True
        near = _CANDIDATES * k * -(-len(self._vectors) // count)
        while near <= _MOST_NEAR:
            found = self._graph.near(query_D, near, effort=effort)
            chosen = found[is_among[found]]
            if len(chosen) >= _CANDIDATES * k:
                return self._best(query_D, k, np.sort(chosen))
            near *= 2
        return self._best(query_D, k, among)

    def _best(self, query_D: npt.NDArray[np.float32], k: int, rows: npt.NDArray[np.int64] | None) -> Nearest:
        """The best k of `rows`, in ascending order, or of all."""
        total = len(self._vectors) if rows is None else len(rows)
        best_rows, best_scores = np.empty(0, np.int64), np.empty(0, np.float32)
        for first in range(0, total, _BLOCK):
            stop = min(first + _BLOCK, total)
            here = np.arange(first, stop) if rows is None else rows[first:stop]
            vectors = self._vectors[first:stop] if rows is None else self._vectors[here]
            scores = np.round(vectors.astype(np.float32) @ query_D, _DIGITS)
            best_rows, best_scores = self._merged(
                np.concatenate([best_rows, here]), np.concatenate([best_scores, scores]), k
            )
        return Nearest(best_rows, best_scores)

    def _merged(
        self, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        if len(rows) > k:
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            keep = scores >= least
            rows, scores = rows[keep], scores[keep]
        order = np.argsort(-scores, kind="stable")
        if (np.diff(scores[order]) == 0).any():
            uids = self.rows["uid"].take(pa.array(rows)).to_pylist()
            order = np.array(sorted(range(len(rows)), key=lambda i: (-scores[i], uids[i], rows[i])), np.int64)
        return rows[order[:k]], scores[order[:k]]
