"""What each of several t would keep of a data set's pairs, without a run.

    counts (of each query) --t / count--> thresholds --.
    work/dedup (all pairs, or some partitions of them) --balance--> one row a t

Of a set of up to `EXACT_PAIRS` the thresholds are found as a run finds them, and the answer is the run's. Of a larger
one the t-th smallest of `count` uniform hashes is taken to lie at t / count, where it is on average, and the pairs are
those of whole hash partitions: a fair sample, since a partition is a range of hashes of URLs. docs/watching.md has the
error. What hangs on the counts alone (heads, matches, selections) is exact in either case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from pipeline.questions.balanced import Balanced
from pipeline.stages.balance import mode_of
from pipeline.stages.balance.edges import gather_from
from pipeline.stages.balance.hashes import LARGEST, SPAN, Longs
from pipeline.stages.balance.modes.mode import Mode
from pipeline.stages.balance.selection import balance
from pipeline.stages.balance.thresholds import Thresholds, solve
from pipeline.storage.checked import read_batches
from pipeline.storage.location import Location
from pipeline.storage.place import Place

__all__ = ["EXACT_PAIRS", "LIMITS", "compare_limits", "limits_around"]

LIMITS = pa.schema(
    [
        pa.field("t", pa.int64(), nullable=False),
        pa.field("pairs", pa.int64(), nullable=False),
        pa.field("kept_percent", pa.float64(), nullable=False),  # of all distinct pairs
        pa.field("per_pair", pa.float64(), nullable=False),  # selections of a kept pair
        pa.field("head_queries", pa.int64(), nullable=False),  # with more than t matches
        pa.field("head_percent", pa.float64(), nullable=False),  # of all matches
        pa.field("full_queries", pa.int64(), nullable=False),  # that get t pairs
        pa.field("note", pa.string(), nullable=False),  # "own": the set's t; "estimate": of pairs, and what is per pair
    ]
)
"""What each t would keep."""
EXACT_PAIRS = 2_000_000
"""Up to so many pairs the answer is exact: a gather and a balance for each t."""
_SAMPLE_PAIRS = 1_000_000
_BATCH_ROWS = 65_536
_ROUND = (100, 500, 1_000, 5_000, 20_000, 170_000)
"""Among them those of CLIP (20,000 for 400e6 pairs) and of MetaCLIP's 2.5e9 (170,000)."""
_EDGE_COLUMNS = ("uid", "query_ids")
_COLUMNS = (*_EDGE_COLUMNS, "source", "record", "link")


def limits_around(own: int, largest: int) -> list[int]:
    """The t to compare: round ones and some around the set's `own`, up to the first that cuts nothing of the `largest`
    query."""
    wanted = sorted({*_ROUND, *(max(1, own * 2**power // 4) for power in range(5)), own})
    cutting = [t for t in wanted if t < largest]
    return sorted({*cutting, *wanted[len(cutting) : len(cutting) + 1], own})


def compare_limits(output: Place, limits: Sequence[int] | None = None, *, exact_pairs: int = EXACT_PAIRS) -> pa.Table:
    """One row a t (LIMITS), in the set's own mode; of a set without one, as CLIP chose. Raises OutputError before it is
    counted."""
    found = Balanced.of(output)
    mode = mode_of("quota" if mode_of(found.mode).whole_set else found.mode)
    counts = found.counts
    chosen = sorted(set(limits)) if limits else limits_around(found.t, int(counts.max(initial=0)))
    is_exact = found.pairs <= exact_pairs
    if is_exact:
        kept = _kept(found, found.unique, mode, {t: _solved(found, mode, t) for t in chosen})
    else:
        sample = _sample(found)
        rows = sum(batch.num_rows for batch in _batches(sample, ("uid",)))
        among = _kept(found, sample, mode, {t: _expected(counts, t) for t in chosen})
        kept = {t: round(found.pairs * number / max(rows, 1)) for t, number in among.items()}
    table = [_row(t, kept[t], found.pairs, counts, is_own=t == found.t, is_exact=is_exact) for t in chosen]
    return pa.Table.from_pylist(table, schema=LIMITS)


def _solved(found: Balanced, mode: Mode, t: int) -> Thresholds:
    gather = gather_from(
        lambda: _batches(found.unique, _EDGE_COLUMNS), mode, seed=found.seed, query_hashes=found.query_hashes
    )
    return solve(gather, found.counts, t, mode)[0]


def _expected(counts: Longs, t: int) -> Thresholds:
    """Where the thresholds lie on average."""
    share = np.minimum(t / np.maximum(counts, 1), 1.0)
    hashes = np.full(len(counts), LARGEST, np.uint64)
    head = counts > t
    hashes[head] = (share[head] * SPAN).astype(np.uint64)
    return Thresholds(hashes=hashes, uids=np.full(len(counts), b"\xff" * 16, dtype="V16"))


def _sample(found: Balanced) -> list[Location]:
    """Whole partitions, evenly spread, of about `_SAMPLE_PAIRS` pairs."""
    files = list(found.unique)
    wanted = max(1, min(len(files), round(len(files) * _SAMPLE_PAIRS / max(found.pairs, 1))))
    return [files[len(files) * number // wanted] for number in range(wanted)]


def _kept(
    found: Balanced, files: Sequence[Location], mode: Mode, thresholds: Mapping[int, Thresholds]
) -> dict[int, int]:
    """How many pairs of `files` each of the thresholds keeps, in one pass."""
    kept = dict.fromkeys(thresholds, 0)
    for batch in _batches(files, _COLUMNS):
        for t, limits in thresholds.items():
            outcome = balance(batch, mode, seed=found.seed, query_hashes=found.query_hashes, thresholds=limits)
            kept[t] += outcome.kept.num_rows
    return kept


def _batches(files: Sequence[Location], columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    for file in files:
        yield from read_batches(file, _BATCH_ROWS, columns)


def _row(t: int, kept: int, pairs: int, counts: Longs, *, is_own: bool, is_exact: bool) -> dict[str, object]:
    head = counts > t
    return {
        "t": t,
        "pairs": kept,
        "kept_percent": round(100 * kept / max(pairs, 1), 2),
        "per_pair": round(int(np.minimum(counts, t).sum()) / max(kept, 1), 2),
        "head_queries": int(head.sum()),
        "head_percent": round(100 * int(counts[head].sum()) / max(int(counts.sum()), 1), 1),
        "full_queries": int((counts >= t).sum()),
        "note": ", ".join(["own"] * is_own + ["estimate"] * (not is_exact)),
    }
