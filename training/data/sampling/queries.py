"""The queries that an index holds, as the compiled loops take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from training.data.index import SampleIndex
from training.errors import DataError

if TYPE_CHECKING:  # a compiler, which data workers need not load
    from training.data.sampling.kernel import Queries

__all__ = ["queries_of", "query_counts"]


def queries_of(index: SampleIndex) -> Queries:
    """The queries of all samples, memory-mapped still. Raises DataError where the index was made without."""
    from training.data.sampling.kernel import Queries

    if index.query_end is None or index.queries is None:
        raise DataError("the index holds no queries; run again, so that it is made anew")
    return Queries(np.asarray(index.query_end), np.asarray(index.queries))


def query_counts(index: SampleIndex) -> npt.NDArray[np.int64]:
    """int64[Q]: the samples that contain each query. Raises DataError as `queries_of`."""
    from training.data.sampling import kernel

    counts = np.zeros(index.num_queries, np.int64)
    kernel.add_counts(queries_of(index).queries, counts)
    return counts
