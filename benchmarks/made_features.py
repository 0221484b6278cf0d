"""Feature files of pictures that nobody drew, for benchmarks of what reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.embedding.feature_files import FeatureFacts, feature_column, feature_schema, write_facts, write_part

__all__ = ["write_features"]


def write_features(
    place: Path, blocks: Iterable[tuple[Sequence[bytes], npt.NDArray[np.floating[Any]]]], width: int
) -> None:
    """Write a part for each block: uids of 16 bytes, and unit vectors [n, width] of as many pictures."""
    parts = []
    for number, (uids, vectors) in enumerate(blocks):
        there = np.ones(len(vectors), np.bool_)
        columns = [
            pa.array(uids, pa.binary(16)),
            pa.array([uid.hex() for uid in uids]),
            feature_column(vectors, there),
            feature_column(vectors[:0], ~there),
        ]
        table = pa.Table.from_arrays(columns, schema=feature_schema(width))
        parts.append(write_part(place, f"{number:05d}", table, key="0" * 32))
    about = FeatureFacts(
        model="made",
        model_fingerprint="0" * 32,
        model_name="made",
        width=width,
        logit_scale=100.0,
        logit_bias=None,
        image_size=224,
        precision="fp32",
        what="image",
        source="made",
        kind="list",
        rows=sum(part.rows for part in parts),
        parts=tuple(parts),
    )
    write_facts(place, about)
