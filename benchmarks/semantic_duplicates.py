"""Semantic duplicates of made features: CPU time, memory, and what k-means misses of all pairs.

    python -m benchmarks.semantic_duplicates --rows 100000 --width 512 --clusters 316 --scratch /tmp/made

Rows stand in families of 1 to 8 (a picture and its copies, at cosines of 0.93 to 1) of random directions, which is
hard on k-means: nothing but the families lies together. With `--all-pairs`, all are compared as well by the same rule.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.made_features import write_features
from configs.load import from_mapping
from training.scores.config import ScoreConfig
from training.scores.score import score

_ROWS_PER_PART = 10_000


def make_features(place: Path, rows: int, width: int) -> None:
    """Features of pictures alone, the same for the same size."""
    made = np.random.default_rng(0)
    family = np.sort(made.integers(0, rows // 3 + 1, rows))

    def blocks() -> Iterator[tuple[list[bytes], np.ndarray]]:
        for first in range(0, rows, _ROWS_PER_PART):
            members = family[first : first + _ROWS_PER_PART]
            centres = np.stack([_direction(int(one), width) for one in members])
            noise = made.normal(size=centres.shape) / np.sqrt(width)
            images = centres + noise * made.uniform(0, 0.27, (len(members), 1))
            yield [made.bytes(16) for _ in members], images / np.linalg.norm(images, axis=1, keepdims=True)

    write_features(place, blocks(), width)


def _direction(number: int, width: int) -> np.ndarray:
    row = np.random.default_rng(number).normal(size=width)
    return row / np.linalg.norm(row)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _measured(features: Path, clusters: int, to: Path) -> set[bytes]:
    """The uids that go."""
    options = {"features": [str(features)], "scores": ["duplicates"], "to": str(to), "device": "cpu"}
    before, began = _cpu_seconds(), time.monotonic()
    score(from_mapping(ScoreConfig, options | {"duplicates": {"clusters": clusters}}))
    cpu, wall = _cpu_seconds() - before, time.monotonic() - began
    table = pq.read_table(to)
    gone = {
        uid for uid, kept in zip(*(table[name].to_pylist() for name in ("uid", "duplicate_of")), strict=True) if kept
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{clusters:>7} clusters: {cpu:8.1f} CPU s, {wall:8.1f} s, peak {peak:,.0f} MB, {len(gone):,} go", flush=True)
    return gone


def main() -> None:
    """Make, measure, compare."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rows", type=int, default=100_000)
    words.add_argument("--width", type=int, default=512)
    words.add_argument("--clusters", type=int, nargs="+", default=[316])
    words.add_argument("--all-pairs", action="store_true")
    words.add_argument("--scratch", type=Path, required=True)
    given = words.parse_args()
    features = given.scratch / "features"
    try:
        make_features(features, given.rows, given.width)
        print(f"{given.rows:,} rows of width {given.width}", flush=True)
        found = {k: _measured(features, k, given.scratch / f"{k}.parquet") for k in given.clusters}
        if given.all_pairs:
            everything = _measured(features, 1, given.scratch / "1.parquet")
            for clusters, gone in found.items():
                print(f"{clusters:>7} clusters: {len(gone) / max(1, len(everything)):.1%} as many as go by all pairs")
    finally:
        shutil.rmtree(given.scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
