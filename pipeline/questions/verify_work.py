"""Check work/: every file of every step against the done-record that vouches for it.

    work/**/done/*.json --each output--> digest

A run finds the same as it reads (`storage/checked.py`), but only in the files that it reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.engine import record_at
from pipeline.errors import DamagedFileError
from pipeline.questions.verify import Damage, Verification
from pipeline.storage.checked import check
from pipeline.storage.output import check_output

__all__ = ["verify_work"]


def verify_work(output: Path, *, advance: Callable[[int], None] | None = None) -> Verification:
    """Hold every file of the steps in work/ against its done-record; calls `advance(1)` after each record.

    `shards` counts the records, `samples` is 0. Raises OutputError where `output` is no data set.
    """
    check_output(output)
    records = sorted((output / "work").glob("**/done/*.json"))
    damages: list[Damage] = []
    num_bytes = 0
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for found, size in pool.map(lambda path: _check_record(output, path), records):
            damages += found
            num_bytes += size
            if advance is not None:
                advance(1)
    return Verification(shards=len(records), samples=0, num_bytes=num_bytes, damages=damages)


def _check_record(output: Path, path: Path) -> tuple[list[Damage], int]:
    """The damages of a task's files, and how many bytes they are."""
    directory = path.parent.parent
    record = record_at(path)
    if record is None:
        return [Damage(file=str(path.relative_to(output)), what="not a done-record; its task counts as not done")], 0
    damages = []
    for file in record.located(directory).values():
        try:
            check(file)
        except DamagedFileError as error:
            damages.append(Damage(file=str(file.local.relative_to(output)), what=error.what))
    return damages, sum(record.num_bytes.values())
