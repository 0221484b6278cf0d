"""How often the web tells of each evaluated class: `classes.parquet`, for accuracy by frequency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["CLASSES", "Tier", "tier_of", "write_classes"]

Tier = Literal["head", "middle", "tail"]

_HEAD_LINKS, _TAIL_LINKS = 100, 20
"""More than 100 are many shots and fewer than 20 few: the bounds of ImageNet-LT (Liu et al., "Large-Scale Long-Tailed
Recognition in an Open World", CVPR 2019)."""

CLASSES = pa.schema(
    [
        pa.field("class", pa.int32(), nullable=False),  # the label, as in the evaluation set's .cls
        pa.field("name", pa.string(), nullable=False),
        pa.field("links", pa.int64(), nullable=False),  # with a true caption, whose picture arrives
        pa.field("tier", pa.string(), nullable=False),  # head, middle or tail
    ]
)


def tier_of(links: int) -> Tier:
    """The tier of a class of which so many links tell."""
    if links > _HEAD_LINKS:
        return "head"
    return "middle" if links >= _TAIL_LINKS else "tail"


def write_classes(truth: pa.Table, classes: Sequence[str], path: Path) -> None:
    """Write a row a class, in label order, counted in the ground truth (`tables.py`)."""
    rows = zip(*(truth[name].to_pylist() for name in ("class", "text_kind", "verdict")), strict=True)
    links = Counter(name for name, kind, verdict in rows if kind == "caption" and verdict == "kept")
    table = [
        {"class": label, "name": name, "links": links[name], "tier": tier_of(links[name])}
        for label, name in enumerate(classes)
    ]
    pq.write_table(pa.Table.from_pylist(table, schema=CLASSES), path)
