"""The done-record of a task: what was written, under which key, and that it is whole.

perform(task) -> fsync + rename every output -> write done/PARTITION.json   (the commit point)
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.engine.task import AnyTask
from pipeline.storage.atomic import commit, read_sealed, sha256_of, temporary_name, unwritable, write_sealed
from pipeline.storage.checked import digest_of
from pipeline.storage.location import Location

__all__ = [
    "Done",
    "finished",
    "forget",
    "manifest_of",
    "record_at",
    "record_of",
    "records_in",
    "run_task",
    "strangers",
    "write_manifest",
]

_MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Done:
    """What the done-record of a finished task says."""

    partition: str
    key: str
    outputs: Mapping[str, str]
    """File name -> digest (`checked.digest_of`, or SHA-256 of a file that is published)."""
    info: Mapping[str, Any] = field(default_factory=dict)
    num_bytes: Mapping[str, int] = field(default_factory=dict)
    """File name -> its size."""

    def located(self, directory: Path) -> dict[str, Location]:
        """File name -> where it is, and what it must hold."""
        return {name: Location(str(directory / name), digest) for name, digest in self.outputs.items()}


def _path(directory: Path, partition: str) -> Path:
    return directory / "done" / f"{partition}.json"


def record_at(path: Path) -> Done | None:
    """The record in this very file; None where it is absent, damaged, or not of a record's form."""
    plain = read_sealed(path)
    if plain is None:
        return None
    try:
        return _done(plain)
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


def _done(plain: Mapping[str, Any]) -> Done:
    """What a record's plain form says."""
    return Done(
        partition=str(plain["partition"]),
        key=str(plain["key"]),
        outputs={name: str(entry.get("xxh3") or entry["sha256"]) for name, entry in plain["outputs"].items()},
        info=dict(plain["info"]),
        num_bytes={name: int(entry["bytes"]) for name, entry in plain["outputs"].items()},
    )


def record_of(directory: Path, partition: str) -> Done | None:
    """The record of a step's task, whatever its key; None where there is none that can be read."""
    return record_at(_path(directory, partition))


def records_in(directory: Path) -> Iterator[Done]:
    """Every record of a step's directory, of this plan and of earlier ones, by name."""
    for path in sorted((directory / "done").glob("*.json")):
        record = record_at(path)
        if record is not None:
            yield record


def finished(directory: Path, task: AnyTask[Any]) -> Done | None:
    """The task's done-record if it is of this very key and its outputs are still there, else None.

    Sizes are looked at here, content where it is read (`storage/checked.py`).
    """
    record = record_of(directory, task.partition)
    if record is None or record.key != task.key or record.outputs.keys() != set(task.outputs):
        return None
    try:
        whole = all((directory / name).stat().st_size == size for name, size in record.num_bytes.items())
    except OSError:
        return None
    return record if whole else None


def forget(directory: Path, partition: str) -> None:
    """Let the task of this name be done again by the next run."""
    _path(directory, partition).unlink(missing_ok=True)


def run_task(directory: str, task: AnyTask[Any], *, check: Callable[[], None] | None = None) -> Done:
    """Do the work under temporary names, then commit. Runs in any process.

    `check` runs between work and commit, and raises where the result must not count. Raises OutputError when the
    disk is full; whatever the work or `check` raises otherwise. Nothing keeps a final name unless it is whole, and
    nothing counts unless the record is there.
    """
    root = Path(directory)
    written: dict[str, Path] = {}
    try:
        (root / "done").mkdir(parents=True, exist_ok=True)
        written = {name: temporary_name(root / name) for name in task.outputs}
        for path in written.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        info = task.perform({name: Location(str(path)) for name, path in written.items()})
        if check is not None:
            check()
        entries = {name: _entry(path, published=task.published) for name, path in written.items()}
        # An older record must not vouch for the new bytes, nor the new record for old ones.
        forget(root, task.partition)
        for name, path in written.items():
            commit(path, root / name)
        record = {"partition": task.partition, "key": task.key, "outputs": entries, "info": info}
        write_sealed(_path(root, task.partition), record)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise unwritable(root, error) from error
        raise
    finally:
        for path in written.values():
            if os.path.lexists(path):
                path.unlink()
    return _done(record)


def _entry(path: Path, *, published: bool) -> dict[str, Any]:
    digest = {"sha256": sha256_of(path)} if published else {"xxh3": digest_of(path)}
    return {**digest, "bytes": path.stat().st_size}


# --- the step as a whole ----------------------------------------------------------------------------


def manifest_of(directory: Path) -> list[Done] | None:
    """The tasks of a step's last plan, in order, without what else their records say; None while it is under way."""
    plain = read_sealed(directory / _MANIFEST)
    if plain is None:
        return None
    try:
        return [Done(partition=t["partition"], key=t["key"], outputs=dict(t["outputs"])) for t in plain["tasks"]]
    except (KeyError, TypeError, ValueError):
        return None  # damaged, of an earlier version whose files have no hash


def write_manifest(directory: Path, records: Sequence[Done]) -> bool:
    """Say that the step is whole, and of which tasks; False where its manifest says so already."""
    if manifest_of(directory) == [replace(r, info={}, num_bytes={}) for r in records]:
        return False
    tasks = [{"partition": r.partition, "key": r.key, "outputs": dict(r.outputs)} for r in records]
    write_sealed(directory / _MANIFEST, {"tasks": tasks})
    return True


def strangers(directory: Path, records: Sequence[Done]) -> list[Path]:
    """Files in the step's directory that belong to no task of the present plan."""
    if not directory.is_dir():
        return []
    ours = {directory / name for record in records for name in record.outputs}
    ours |= {_path(directory, record.partition) for record in records}
    ours |= {directory / _MANIFEST}
    return [path for path in directory.rglob("*") if path.is_file() and path not in ours]
