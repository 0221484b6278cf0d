"""Dedup, count and balance of generated match rows through the real steps on Ray.

    python benchmarks/select_scale.py --rows 1e7 --scratch DIR [--compare] [--engine ray|inline]

Rows are like matched pairs: 500,000 queries in a Zipf-like order, about 3.5 matches a text, a sixth of the rows
seen before, a fifth of the pictures with more than one text; strings are short. t is scaled like CLIP's 20,000
for 1.6e9 pairs. Printed for each step: rows a second, the largest resident memory of any worker, of the
driver, and bytes that spilled to disk. `--compare` selects from the same rows with the published method
(MetaCLIP: independent draws) in NumPy and with one DuckDB query.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.engine import Done, Engine, EngineConfig, Task, open_engine
from pipeline.identity import text_hash
from pipeline.ledger import LedgerConfig
from pipeline.schema import MATCHED
from pipeline.steps.step import save_vector
from pipeline.steps.texts import _flush
from pipeline.storage import parquet_writer

QUERIES = 500_000
ROWS_PER_FILE = 1_000_000
EXPONENT = 1.3
"""Of the Zipf law: with it 3.2 % of the queries hold about 94 % of the matches, as published."""


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64, so that every column is a function of the row's number."""
    with np.errstate(over="ignore"):
        x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def ids(numbers: np.ndarray, salt: int) -> pa.Array:
    """binary(16)[N]"""
    halves = np.stack(
        [mix(numbers * np.uint64(2) + np.uint64(salt)), mix(numbers * np.uint64(2) + np.uint64(salt + 1))]
    )
    data = np.ascontiguousarray(halves.T)
    return pa.Array.from_buffers(pa.binary(16), len(numbers), [None, pa.py_buffer(data)])


def zipf_table() -> np.ndarray:
    """float64[Q]: cumulative probability of the queries."""
    weights = np.arange(1, QUERIES + 1, dtype=np.float64) ** -EXPONENT
    return np.cumsum(weights / weights.sum())


def match_rows(first: int, count: int, total: int, table: np.ndarray) -> pa.RecordBatch:
    """Rows first..first+count-1 of `total`, with the columns of MATCHED."""
    row = np.arange(first, first + count, dtype=np.uint64)
    distinct = np.uint64(max(1, total * 5 // 6))
    text = np.where(row < distinct, row, mix(row) % distinct)
    url = text - (text % np.uint64(5) == np.uint64(4))  # every fifth shares the picture of the one before
    lengths = 1 + (mix(text ^ np.uint64(0x5EED)) % np.uint64(6)).astype(np.int64)  # 1..6, mean 3.5
    owner = np.repeat(text, lengths)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    draw = mix(owner * np.uint64(8) + place.astype(np.uint64) + np.uint64(0xABC)) / 2.0**64
    query = np.minimum(np.searchsorted(table, draw), QUERIES - 1).astype(np.int64)
    pairs = np.unique(np.repeat(np.arange(count), lengths) * QUERIES + query)  # ascending, each once
    offsets = np.concatenate(([0], np.cumsum(np.bincount(pairs // QUERIES, minlength=count)))).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array((pairs % QUERIES).astype(np.int32)))
    words = pc.binary_join_element_wise(pa.scalar("c"), pa.array(text).cast(pa.string()), "")
    columns = {
        "uid": ids(text, 0x1111),
        "url_id": ids(url, 0x7777),
        "url": pc.binary_join_element_wise(pa.scalar("http://h/"), pa.array(url).cast(pa.string()), ""),
        "alt_text": words,
        "text_source": pa.array(["alt"]).take(pa.array(np.zeros(count, np.int32))),
        "page_url": pa.nulls(count, pa.string()),
        "license": pa.nulls(count, pa.string()),
        "source": pa.array(["s"]).take(pa.array(np.zeros(count, np.int32))),
        "record": pa.array(row.astype(np.int64)),
        "link": pa.array(np.zeros(count, np.int32)),
        "caption": words,
        "lang": pa.array(["en"]).take(pa.array(np.zeros(count, np.int32))),
        "p_en": pa.array((mix(text) % np.uint64(100)).astype(np.float32) / 100),
        "query_ids": lists,
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in MATCHED.names], schema=MATCHED)


def generate(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    """One file of match rows, laid out for the exchange like the texts step's."""
    (path,) = outputs.values()
    batch = match_rows(arguments["first"], arguments["count"], arguments["total"], zipf_table())
    with parquet_writer(path, MATCHED) as writer:
        _flush(writer, [batch], arguments["partitions"])
    return {"rows": batch.num_rows}
