"""What both balances of a run share: thresholds in files, and the rule that they are made for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.engine import Data, output
from pipeline.records.outcome import Outcome
from pipeline.stages.balance import mode_of
from pipeline.stages.balance.selection import balance
from pipeline.stages.balance.thresholds import Thresholds
from pipeline.steps.queries import Queries
from pipeline.steps.step import Run
from pipeline.storage.ahead import read_each
from pipeline.storage.checked import load_vector
from pipeline.storage.location import Location
from pipeline.storage.parquet import save_vector

__all__ = ["Rule", "Selection", "ThresholdFiles", "add_up", "count_ids", "load"]

Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ThresholdFiles:
    """The largest selected (hash, uid) of every query."""

    hashes: Location = output("hashes.npy")
    """uint64[Q]"""
    uids: Location = output("uids.npy")
    """uint8[Q, 16]"""

    def save(self, thresholds: Thresholds) -> None:
        """Write both."""
        save_vector(self.hashes.local, thresholds.hashes)
        save_vector(self.uids.local, thresholds.uids.view(np.uint8).reshape(-1, 16))

    def load(self) -> Thresholds:
        """What was saved. Raises DamagedFileError."""
        uids = np.ascontiguousarray(load_vector(self.uids)).view("V16").ravel()
        return Thresholds(hashes=load(self.hashes), uids=uids)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Who is selected, as far as it can be said before the thresholds are known."""

    mode: str
    seed: int
    query_hashes: Location

    @classmethod
    def of(cls, run: Run, queries: Data[Queries], mode: str) -> Rule:
        """That of a run."""
        return cls(mode=mode, seed=run.seed, query_hashes=queries.only.files.query_hashes)


class Selection:
    """`balance` under a rule and its thresholds, batch by batch; `names` are its own: column, stage, reason."""

    def __init__(self, rule: Rule, thresholds: ThresholdFiles, **names: str) -> None:
        self._names = names
        self._mode, self._seed = mode_of(rule.mode), rule.seed
        self._query_hashes = load(rule.query_hashes)
        self._thresholds = thresholds.load()

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        return balance(
            batch,
            self._mode,
            seed=self._seed,
            query_hashes=self._query_hashes,
            thresholds=self._thresholds,
            **self._names,
        )


def load(vector: Location) -> npt.NDArray[Any]:
    """A vector in memory."""
    return np.array(load_vector(vector))


def add_up(files: Sequence[Location]) -> Longs:
    """Sum of int64 vectors of equal length, one file in memory at a time."""
    vectors = read_each(files, load_vector)
    total: Longs = np.array(next(vectors), dtype=np.int64)
    for vector in vectors:
        total += vector
    return total


def count_ids(lists: Iterable[pa.ListArray], queries: int) -> Longs:
    """int64[Q]: how often each query id stands in lists of them."""
    counts = np.zeros(queries, np.int64)
    for chunk in lists:
        counts += np.bincount(chunk.flatten().to_numpy(zero_copy_only=False), minlength=queries)
    return counts
