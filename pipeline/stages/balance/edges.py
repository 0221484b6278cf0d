"""Edges, one for each (pair, query) with the query in the pair's caption, and gathering those that may decide.

batches (uid, query ids) --gather, windows--> EDGES, edges below --edges_of--> Edges
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.compiled.arrays import read_only
from pipeline.records.identity import first_64_bits, keyed_state
from pipeline.stages.balance.hashes import Hashes, Ids, Longs
from pipeline.stages.balance.modes.mode import Mode
from pipeline.stages.balance.windows import Windows

__all__ = ["EDGES", "Edges", "Gather", "edges_of", "gather", "gather_from", "ids_of"]

EDGES = pa.schema(
    [
        pa.field("query_id", pa.int32(), nullable=False),
        pa.field("hash", pa.uint64(), nullable=False),
        pa.field("uid", pa.binary(16), nullable=False),
    ]
)
"""Candidate edges of head queries, on their way to a threshold."""

Gather = Callable[[Windows, Longs], Iterable[pa.RecordBatch]]
"""(windows, below) -> the edges (EDGES) in the windows; `below` int64[Q] is increased by those under them."""


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Gathered edges: E of them, and what lay below the windows."""

    queries: Ids
    """int32[E]"""
    hashes: Hashes
    """uint64[E]"""
    uids: npt.NDArray[np.void]
    """V16[E]"""
    below: Longs
    """int64[Q]: edges under each query's window."""


def ids_of(column: pa.Array) -> npt.NDArray[np.uint8]:
    """uint8[N, 16] view of a binary(16) column without nulls."""
    data = np.frombuffer(column.buffers()[1], np.uint8)
    return data[16 * column.offset : 16 * (column.offset + len(column))].reshape(-1, 16)


def gather(
    batch: pa.RecordBatch,
    mode: Mode,
    *,
    seed: int,
    query_hashes: Hashes,
    windows: Windows,
    below: Longs,
    column: str = "query_ids",
) -> pa.RecordBatch:
    """The batch's edges (EDGES) in their query's window; adds those under it to `below` (int64[Q]).

    The batch needs `uid` and `column`, the list of query ids whose edges count.
    """
    from pipeline.stages.balance import kernel

    offsets, queries = mode.edges(batch.column(column))
    ids = first_64_bits(ids_of(batch.column("uid")))
    near = kernel.Near(
        rows=np.empty(len(queries), np.int64),
        queries=np.empty(len(queries), np.int32),
        hashes=np.empty(len(queries), np.uint64),
    )
    count = kernel.find_near(
        kernel.Edges(read_only(offsets), read_only(queries), read_only(ids), read_only(query_hashes)),
        kernel.Hash(keyed_state(seed), mode.one_hash_a_pair),
        kernel.Windows(read_only(windows.lows), read_only(windows.highs)),
        below,
        near,
    )
    columns = [
        pa.array(near.queries[:count], pa.int32()),
        pa.array(near.hashes[:count], pa.uint64()),
        batch.column("uid").take(pa.array(near.rows[:count])),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=EDGES)


def gather_from(
    batches: Callable[[], Iterable[pa.RecordBatch]],
    mode: Mode,
    *,
    seed: int,
    query_hashes: Hashes,
    column: str = "query_ids",
) -> Gather:
    """`gather` over all of `batches()`, which is asked anew for each set of windows; for none, it is not asked."""

    def gathered(windows: Windows, below: Longs) -> Iterator[pa.RecordBatch]:
        if not windows.needed.any():
            return
        for batch in batches():
            yield gather(batch, mode, seed=seed, query_hashes=query_hashes, windows=windows, below=below, column=column)

    return gathered


def edges_of(batches: Iterable[pa.RecordBatch], below: Longs) -> Edges:
    """Gathered batches (EDGES), put together; about 28 bytes an edge."""
    held = [batch for batch in batches if batch.num_rows]
    uids = [np.ascontiguousarray(ids_of(batch.column("uid"))).view("V16").ravel() for batch in held]
    return Edges(
        queries=np.concatenate([np.empty(0, np.int32), *(b.column("query_id").to_numpy() for b in held)]),
        hashes=np.concatenate([np.empty(0, np.uint64), *(b.column("hash").to_numpy() for b in held)]),
        uids=np.concatenate([np.empty(0, "V16"), *uids]),
        below=below,
    )
