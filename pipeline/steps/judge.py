"""What the steps between fetching and the final balance share: FETCHED in, FETCHED of the pairs that stay out.

    fetched --filters--> --decontaminate--> --image_dedup--> final balance

Each of them may be off; it then has no tasks, and the next one reads what the one before it wrote.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from configs.load import from_mapping
from pipeline.checked import Vouched, read_batches
from pipeline.engine import Done
from pipeline.errors import InputError
from pipeline.ledger import Ledger, LedgerConfig
from pipeline.outcome import Outcome
from pipeline.schema import FETCHED
from pipeline.storage import write_parquet

__all__ = ["Survivors", "judge", "named_files", "stamp_of", "survivors_of"]

Survivors = tuple[Sequence[Done], Path]
"""The records of a step that wrote FETCHED, one per staging shard, and its directory."""

_BATCH_ROWS = 65_536


def survivors_of(file: Vouched, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of the FETCHED rows whose picture is there; all columns, or `columns`."""
    wanted = None if columns is None else [*columns, *([] if "status" in columns else ["status"])]
    for batch in read_batches(file, _BATCH_ROWS, wanted):
        kept = batch.filter(pc.equal(batch.column("status"), "success"))
        yield kept.cast(FETCHED) if columns is None else kept.select(columns)


def judge(
    stage: str, arguments: Mapping[str, Any], outputs: Mapping[str, Path], decide: Callable[[pa.RecordBatch], Outcome]
) -> dict[str, Any]:
    """The work of a task: `arguments` name the FETCHED file (`fetched`) and the ledger's config (`ledger`)."""
    fetched_path, rejections_path = outputs.values()
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    batches = (ledger.add(stage, "pair", decide(batch)) for batch in survivors_of(arguments["fetched"]))
    rows = write_parquet(fetched_path, batches, FETCHED)
    return {"rows": rows, "success": rows, "lines": ledger.close()}


def named_files(patterns: Sequence[str], option: str) -> list[str]:
    """The paths that `patterns` (paths or globs) name, sorted, each once. InputError for one that names nothing."""
    found: set[str] = set()
    for pattern in patterns:
        is_glob = glob.has_magic(pattern) and not os.path.exists(pattern)  # a file may be named like one
        names = glob.glob(pattern, recursive=True) if is_glob else [pattern]
        names = [name for name in names if os.path.exists(name)]
        if not names:
            raise InputError(f"{pattern}: no such file; correct `{option}` in the config")
        found.update(names)
    return sorted(found)


def stamp_of(path: str) -> list[Any]:
    """Name, size and time of change: what a task's key holds of a file that is not ours."""
    status = os.stat(path)
    return [path, status.st_size, status.st_mtime_ns]
