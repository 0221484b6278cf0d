"""Features that tests make: parts of rows, as `embed` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from training.embedding.feature_files import FeatureFacts, feature_column, feature_schema, write_facts, write_part

__all__ = ["directions", "make_features", "uid"]


def uid(number: int) -> bytes:
    """16 bytes that are in no order of the numbers."""
    number = int(number)  # perhaps NumPy's, which would overflow
    return (number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big") + number.to_bytes(8, "big")


def directions(count: int, width: int, seed: int = 0) -> np.ndarray:
    """float32[N, D] of length 1."""
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_features(
    place: Path,
    image: np.ndarray | None,
    text: np.ndarray | None,
    *,
    uids: Sequence[bytes] | None = None,
    rows_per_part: int = 40,
    **about: Any,
) -> Path:
    """Features of row 0, 1 ... in parts; a row that is all NaN, or a matrix that is None, has none of its kind."""
    shown = image if image is not None else text
    assert shown is not None
    count, width = shown.shape
    uids = [uid(number) for number in range(count)] if uids is None else uids
    parts = []
    for number, first in enumerate(range(0, count, rows_per_part)):
        rows = slice(first, first + rows_per_part)
        columns: list[pa.Array] = [pa.array(uids[rows], pa.binary(16))]
        columns.append(pa.array([f"{row}" for row in range(count)[rows]]))
        for matrix in (image, text):
            part = np.full((len(uids[rows]), width), np.nan) if matrix is None else matrix[rows]
            there = ~np.isnan(part[:, 0])
            columns.append(feature_column(part[there], there))
        table = pa.Table.from_arrays(columns, schema=feature_schema(width))
        parts.append(write_part(place, f"{number:05d}", table, key="k" * 32))
    facts: dict[str, Any] = {
        "model": "runs/a",
        "model_fingerprint": "f" * 32,
        "model_name": "tiny",
        "width": width,
        "logit_scale": 20.0,
        "logit_bias": None,
        "image_size": 32,
        "precision": "fp32",
        "what": "both",
        "source": "data",
        "kind": "set",
        "rows": count,
        "parts": tuple(parts),
    }
    write_facts(place, FeatureFacts(**facts | about))
    return place
