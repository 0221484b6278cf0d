"""Thresholds in files, and the balancing that they are made for: what both balances of a run share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.checked import Vouched, load_vector
from pipeline.engine import Done
from pipeline.outcome import Outcome
from pipeline.stages.balance import mode_of
from pipeline.stages.balance.selection import balance
from pipeline.stages.balance.thresholds import Thresholds
from pipeline.storage import save_vector

__all__ = ["Place", "balance_arguments", "file_of", "open_balance", "save_thresholds"]

Place = tuple[Done, Path]
"""A finished task and the directory of its outputs."""


def file_of(place: Place, kind: str) -> Vouched:
    """The one output of a finished task that ends with `kind`."""
    return place[0].file(place[1], kind)


def save_thresholds(thresholds: Thresholds, outputs: Mapping[str, Path]) -> None:
    """Write thresholds to the two files of a task whose names end with hashes.npy and uids.npy."""
    for name, path in outputs.items():
        if name.endswith(".hashes.npy"):
            save_vector(path, thresholds.hashes)
        elif name.endswith(".uids.npy"):
            save_vector(path, thresholds.uids.view(np.uint8).reshape(-1, 16))


def balance_arguments(thresholds: Place, queries: Place, mode: str, seed: int) -> dict[str, Any]:
    """What a task that balances takes along."""
    return {
        "threshold_hashes": file_of(thresholds, "hashes.npy"),
        "threshold_uids": file_of(thresholds, "uids.npy"),
        "query_hashes": file_of(queries, "query_hashes.npy"),
        "mode": mode,
        "seed": seed,
    }


def open_balance(arguments: Mapping[str, Any], **names: str) -> Callable[[pa.RecordBatch], Outcome]:
    """`balance` with the mode, the query list and the thresholds of `balance_arguments`; `names` are its own."""
    uids = np.ascontiguousarray(load_vector(arguments["threshold_uids"])).view("V16").ravel()
    return functools.partial(
        balance,
        mode=mode_of(arguments["mode"]),
        seed=arguments["seed"],
        query_hashes=np.array(load_vector(arguments["query_hashes"])),
        thresholds=Thresholds(hashes=np.array(load_vector(arguments["threshold_hashes"])), uids=uids),
        **names,
    )
