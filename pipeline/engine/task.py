"""A task, its done-record, and the commit protocol around the function that does the work.

work(arguments, {name: temporary path}) -> info
    -> fsync + rename every output -> write done/PARTITION.json   (the commit point)
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.storage import commit, read_json, sha256_of, temporary_name, unwritable, write_json

__all__ = ["Done", "Task", "Work", "finished", "forget", "run_task"]

Work = Callable[[Mapping[str, Any], Mapping[str, Path]], dict[str, Any]]
"""A top-level function of (arguments, output paths to write) -> small JSON-able facts for the record."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One partition's work. `key` fingerprints everything that the outputs depend on."""

    partition: str
    """File-name-safe, and independent of who does the work."""
    work: Work
    arguments: Mapping[str, Any]
    """JSON-able; this is all that travels to the worker."""
    outputs: tuple[str, ...]
    """File names under the step's directory."""
    key: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """What the done-record of a finished task says."""

    partition: str
    key: str
    outputs: Mapping[str, str]
    """File name -> sha256."""
    info: Mapping[str, Any]

    def path(self, directory: Path, kind: str) -> Path:
        """The one output whose name ends with `.KIND.parquet` or `.KIND`."""
        for name in self.outputs:
            if name.endswith((f".{kind}.parquet", f".{kind}")):
                return directory / name
        raise KeyError(kind)


def _record_path(directory: Path, partition: str) -> Path:
    return directory / "done" / f"{partition}.json"


def finished(directory: Path, task: Task) -> Done | None:
    """The task's done-record if it is of this very key and its outputs are still there, else None."""
    record = read_json(_record_path(directory, task.partition))
    if not isinstance(record, dict) or record.get("key") != task.key:
        return None
    try:
        outputs = {name: str(entry["sha256"]) for name, entry in record["outputs"].items()}
        whole = all((directory / n).stat().st_size == e["bytes"] for n, e in record["outputs"].items())
        info = dict(record["info"])
    except (OSError, KeyError, TypeError, AttributeError, ValueError):
        return None
    if not whole or set(outputs) != set(task.outputs):
        return None
    return Done(partition=task.partition, key=task.key, outputs=outputs, info=info)


def forget(directory: Path, partition: str) -> None:
    """Let the task of this name be done again by the next run."""
    _record_path(directory, partition).unlink(missing_ok=True)


def run_task(directory: str, task: Task, *, check: Callable[[], None] | None = None) -> Done:
    """Do the work under temporary names, then commit. Runs in any process.

    `check` runs between work and commit, and raises where the result must not count. Raises OutputError when the
    disk is full; whatever `work` or `check` raises otherwise. Nothing keeps a final
    name unless it is whole, and nothing counts unless the record is there.
    """
    root = Path(directory)
    outputs: dict[str, Path] = {}
    try:
        (root / "done").mkdir(parents=True, exist_ok=True)
        outputs = {name: temporary_name(root / name) for name in task.outputs}
        for path in outputs.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        info = task.work(task.arguments, outputs)
        if check is not None:
            check()
        entries = {name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for name, path in outputs.items()}
        # An older record must not vouch for the new bytes, nor the new record for old ones.
        _record_path(root, task.partition).unlink(missing_ok=True)
        for name, path in outputs.items():
            commit(path, root / name)
        record = {"partition": task.partition, "key": task.key, "outputs": entries, "info": info}
        write_json(_record_path(root, task.partition), record)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise unwritable(root, error) from error
        raise
    finally:
        for path in outputs.values():
            if os.path.lexists(path):
                path.unlink()
    hashes = {name: str(entry["sha256"]) for name, entry in entries.items()}
    return Done(partition=task.partition, key=task.key, outputs=hashes, info=info)
