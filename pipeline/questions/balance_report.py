"""What balancing does to the captions, mode by mode, on the pairs of a data set.

    work/dedup (every distinct pair) --gather, balance for each mode--> one row a mode

Independent draws keep a text with probability 1 - prod(1 - p), so texts with many queries, which are long,
are kept more often than their share; one hash a pair takes that favour away. This shows by how much.
Two passes over three columns, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.questions.balanced import Balanced
from pipeline.stages.balance import MODES
from pipeline.stages.balance.edges import gather_from
from pipeline.stages.balance.selection import balance
from pipeline.stages.balance.thresholds import solve
from pipeline.storage.checked import read_batches
from pipeline.storage.place import Place

__all__ = ["COMPARED", "compare_modes"]

COMPARED = pa.schema(
    [
        pa.field("mode", pa.string(), nullable=False),  # "offered": all distinct pairs
        pa.field("pairs", pa.int64(), nullable=False),
        pa.field("kept_percent", pa.float64(), nullable=False),
        pa.field("mean_words", pa.float64(), nullable=False),  # of a caption, cut at spaces
        pa.field("mean_characters", pa.float64(), nullable=False),
        pa.field("queries_a_pair", pa.float64(), nullable=False),  # that the caption contains
    ]
)
"""The captions that each mode keeps, at the same t."""
_BATCH_ROWS = 65_536
_EDGE_COLUMNS = ("uid", "query_ids")
_COLUMNS = (*_EDGE_COLUMNS, "caption", "source", "record", "link")


def compare_modes(output: Place) -> pa.Table:
    """One row a mode (COMPARED), at the t of the data set in `output`. Raises OutputError before it is balanced."""
    found = Balanced.of(output)

    def batches(columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        for file in found.unique:
            yield from read_batches(file, _BATCH_ROWS, columns)

    modes = [mode for mode in MODES if not mode.whole_set]
    thresholds = {}
    for mode in modes:
        gather = gather_from(lambda: batches(_EDGE_COLUMNS), mode, seed=found.seed, query_hashes=found.query_hashes)
        thresholds[mode.name], _ = solve(gather, found.counts, found.t, mode)
    sums = {name: np.zeros(4, np.int64) for name in ("offered", *thresholds)}
    for batch in batches(_COLUMNS):
        sums["offered"] += _measure(batch)
        for mode in modes:
            outcome = balance(
                batch, mode, seed=found.seed, query_hashes=found.query_hashes, thresholds=thresholds[mode.name]
            )
            sums[mode.name] += _measure(outcome.kept)
    offered = int(sums["offered"][0])
    return pa.Table.from_pylist([_row(name, one, offered) for name, one in sums.items()], schema=COMPARED)


def _measure(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """int64[4]: pairs, words, characters, queries."""
    captions = batch.column("caption")
    spaces, characters = pc.sum(pc.count_substring(captions, " ")), pc.sum(pc.utf8_length(captions))
    queries = len(batch.column("query_ids").flatten())
    words = (spaces.as_py() or 0) + batch.num_rows
    return np.array([batch.num_rows, words, characters.as_py() or 0, queries], np.int64)


def _row(mode: str, sums: npt.NDArray[np.int64], offered: int) -> dict[str, object]:
    pairs, words, characters, queries = (int(value) for value in sums)
    return {
        "mode": mode,
        "pairs": pairs,
        "kept_percent": round(100 * pairs / max(offered, 1), 1),
        "mean_words": round(words / max(pairs, 1), 2),
        "mean_characters": round(characters / max(pairs, 1), 1),
        "queries_a_pair": round(queries / max(pairs, 1), 2),
    }
