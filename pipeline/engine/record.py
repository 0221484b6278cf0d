"""The done-records of a step: of each task what was written, under which key, and that it is whole.

    STEP/done/PARTITION.json   one a task, written last: it is the commit (`commit.py`)
    STEP/records.jsonl         the same together, a line each, once a step of many tasks is whole
    STEP/manifest.json         which tasks the last plan had, in order; there while the step is whole

A record in done/ is the newer one, unless an earlier holder of the output put it: a worker may outlive its run. One in
records.jsonl is taken out before its task is done again, so that it never vouches for bytes of another.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from pipeline.engine.task import AnyTask
from pipeline.storage.atomic import read_sealed, unseal, write_bytes, write_sealed
from pipeline.storage.bucket import BucketPath
from pipeline.storage.location import Location
from pipeline.storage.place import Place
from pipeline.storage.store_client import StoreError

__all__ = [
    "Done",
    "Records",
    "amend",
    "done_of",
    "forget",
    "is_manifest_of",
    "manifest_of",
    "place_of_record",
    "put_together",
    "read_record",
    "record_at",
    "record_of",
    "records_in",
    "steps_in",
    "strangers",
    "take_out",
    "write_manifest",
]

_MANIFEST = "manifest.json"
_TOGETHER = "records.jsonl"
_RECORDS = ("done", _TOGETHER)
_TOGETHER_FROM = 256
"""Tasks of a step from which on its records are put together: so many small files are read in no time."""
_READERS = 32
_HASH_DIGITS = 16
_decode = msgspec.json.Decoder(dict[str, Any]).decode


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
    at: str = ""
    """Where in the step's directory its files are: of a bucket, a place that this attempt alone wrote to."""
    token: int = 0
    """Of the holder of the output that it was written for (`storage/lease.py`)."""

    def located(self, directory: Place) -> dict[str, Location]:
        """File name -> where it is, and what it must hold."""
        root = f"{directory}/{self.at}/" if self.at else f"{directory}/"
        return {name: Location(root + name, digest) for name, digest in self.outputs.items()}

    def plain(self) -> dict[str, Any]:
        """As it is written down."""
        kinds = {name: "sha256" if len(digest) == 64 else "xxh3" for name, digest in self.outputs.items()}
        outputs = {name: {kinds[name]: d, "bytes": self.num_bytes[name]} for name, d in self.outputs.items()}
        said = {"partition": self.partition, "key": self.key, "outputs": outputs, "info": dict(self.info)}
        return said | ({"at": self.at, "token": self.token} if self.at else {})


def done_of(plain: Mapping[str, Any]) -> Done:
    """What a record's plain form says. Raises KeyError, TypeError, AttributeError or ValueError where it is of another
    form."""
    return Done(
        partition=str(plain["partition"]),
        key=str(plain["key"]),
        outputs={name: str(entry.get("xxh3") or entry["sha256"]) for name, entry in plain["outputs"].items()},
        info=dict(plain["info"]),
        num_bytes={name: int(entry["bytes"]) for name, entry in plain["outputs"].items()},
        at=str(plain.get("at", "")),
        token=int(plain.get("token", 0)),
    )


def place_of_record(directory: Place, partition: str) -> Place:
    """The task's own record."""
    return directory / "done" / f"{partition}.json"


def record_at(path: Place) -> Done | None:
    """The record in this very file; None where it is absent, damaged, or not of a record's form."""
    return _done(read_sealed(path))


def read_record(data: bytes) -> Done | None:
    """As `record_at`, of the file's bytes."""
    return _done(unseal(data))


def _done(plain: Mapping[str, Any] | None) -> Done | None:
    try:
        return None if plain is None else done_of(plain)
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


class Records:
    """Every record of a step's directory, of this plan and of earlier ones, as they were when they were read."""

    def __init__(
        self, directory: Place, found: Mapping[str, Done], single: frozenset[str], damaged: Sequence[Place]
    ) -> None:
        self.directory = directory
        self._root = str(directory)
        self._found = found
        self.single = single
        """The partitions that have a record of their own in done/."""
        self.damaged = damaged
        """Files of records that cannot be read, or not whole."""

    @classmethod
    def of(cls, directory: Place) -> Records:
        """Read them. Raises StoreError."""
        single = list(_singles(directory))  # first: they go when they are put together, under the eyes of who looks
        together = list(_lines_together(directory))
        found = {record.partition: record for record in together if record is not None}
        for _, record in single:
            if record is not None and _is_newer(record, found.get(record.partition)):
                found[record.partition] = record
        damaged = [path for path, record in single if record is None]
        if any(record is None for record in together):
            damaged.append(directory / _TOGETHER)
        return cls(directory, found, frozenset(path.stem for path, _ in single), damaged)

    def __iter__(self) -> Iterator[Done]:
        """By name."""
        return (self._found[partition] for partition in sorted(self._found))

    def __len__(self) -> int:
        return len(self._found)

    def get(self, partition: str) -> Done | None:
        """A task's record, whatever its key."""
        return self._found.get(partition)

    def finished(self, task: AnyTask[Any]) -> Done | None:
        """The task's record if it is of this very key and its outputs are still there, else None.

        Sizes are looked at here, on this machine's disks, and content where it is read (`storage/checked.py`); what is
        gone from a bucket is told there too.
        """
        record = self._found.get(task.partition)
        if record is None or record.key != task.key or record.outputs.keys() != set(task.outputs):
            return None
        if isinstance(self.directory, BucketPath):
            return record
        root = f"{self._root}/{record.at}" if record.at else self._root  # of a step that was copied out of a bucket
        try:
            whole = all(os.stat(f"{root}/{name}").st_size == size for name, size in record.num_bytes.items())
        except OSError:
            return None
        return record if whole else None


def _together(directory: Place) -> Iterator[Done]:
    """The records that were put together, those that are what they were."""
    return (record for record in _lines_together(directory) if record is not None)


def _lines_together(directory: Place) -> Iterator[Done | None]:
    """Line after line; None for one that is not what it was."""
    try:
        data = (directory / _TOGETHER).read_bytes()
    except StoreError:
        raise
    except OSError:
        return
    for line in data.split(b"\n"):
        stated, plain = line[:_HASH_DIGITS], line[_HASH_DIGITS + 1 :]
        if line:
            whole = stated.decode("ascii", "replace") == xxhash.xxh3_64_hexdigest(plain)
            yield _done(_decode(plain)) if whole else None


def _singles(directory: Place) -> Iterator[tuple[Place, Done | None]]:
    if isinstance(directory, Path):
        yield from ((path, record_at(path)) for path in (directory / "done").glob("*.json"))
        return
    paths = [path for path, _ in (directory / "done").walk()]
    with ThreadPoolExecutor(_READERS) as readers:
        yield from zip(paths, readers.map(record_at, paths), strict=True)


def record_of(directory: Place, partition: str) -> Done | None:
    """The record of a step's task, whatever its key; None where there is none that can be read."""
    record = record_at(place_of_record(directory, partition))
    if record is not None and not record.token:
        return record  # of a disk
    together = next((each for each in _together(directory) if each.partition == partition), None)
    return record if record is not None and _is_newer(record, together) else together


def _is_newer(single: Done, together: Done | None) -> bool:
    return together is None or single.token >= together.token


def records_in(directory: Place) -> Iterator[Done]:
    """Every record of a step's directory, of this plan and of earlier ones, by name."""
    return iter(Records.of(directory))


def forget(directory: Place, *partitions: str) -> None:
    """Let the tasks of these names be done again by the next run."""
    _remove_singles(directory, partitions)
    take_out(directory, set(partitions))


def amend(directory: Place, records: Sequence[Done]) -> None:
    """Say of finished tasks what their files are now, since somebody has changed them in their place: their keys stay,
    and those of tasks that read them do not. Raises OutputError."""
    for record in records:
        write_sealed(place_of_record(directory, record.partition), record.plain())
    plan = manifest_of(directory)
    if plan is not None and records:
        now = {record.partition: record.outputs for record in records}
        write_manifest(
            directory, [dataclasses.replace(each, outputs=now.get(each.partition, each.outputs)) for each in plan]
        )


def steps_in(work: Place) -> list[Place]:
    """The directories in `work` that hold records, of a step or of one in a group of steps, by name."""
    if isinstance(work, Path):
        patterns = [f"{deep}/{name}" for deep in ("*", "*/*") for name in _RECORDS]
        return sorted({path.parent for pattern in patterns for path in work.glob(pattern)})
    found: list[Place] = []
    for directory in (path for path in sorted(work.iterdir()) if not path.suffix):
        inside = list(directory.iterdir())
        groups = {directory: inside} | {path: list(path.iterdir()) for path in inside if _may_be_step(path)}
        found += [step for step, files in groups.items() if any(path.name in _RECORDS for path in files)]
    return found


def _may_be_step(path: BucketPath) -> bool:
    return path.name not in ("at", "done") and not path.suffix


# --- the step as a whole ----------------------------------------------------------------------------


def take_out(directory: Place, partitions: set[str]) -> None:
    """Drop these from the records that were put together. Raises OutputError."""
    kept = list(_together(directory))
    if any(record.partition in partitions for record in kept):
        _write_together(directory, [record for record in kept if record.partition not in partitions])


def put_together(directory: Place, plan: Sequence[Done]) -> None:
    """Put the records of a whole step into one file, where they are many; those in done/ go when it is there. Raises
    OutputError."""
    if len(plan) < _TOGETHER_FROM and not (directory / _TOGETHER).is_file():
        return
    _write_together(directory, plan)
    _remove_singles(directory, [record.partition for record in plan])


def _remove_singles(directory: Place, partitions: Sequence[str]) -> None:
    singles = [place_of_record(directory, partition) for partition in partitions]
    if isinstance(directory, BucketPath):
        BucketPath.remove([path for path in singles if isinstance(path, BucketPath)])
    else:
        for path in singles:
            path.unlink(missing_ok=True)


def _write_together(directory: Place, records: Sequence[Done]) -> None:
    lines = []
    for record in records:
        plain = json.dumps(record.plain(), sort_keys=True, ensure_ascii=False).encode()
        lines.append(f"{xxhash.xxh3_64_hexdigest(plain)} ".encode() + plain + b"\n")
    write_bytes(directory / _TOGETHER, b"".join(lines))


def manifest_of(directory: Place) -> list[Done] | None:
    """The tasks of a step's last plan, in order, without what else their records say; None while it is under way."""
    plain = read_sealed(directory / _MANIFEST)
    try:
        return None if plain is None else [Done(**_entry(task)) for task in plain["tasks"]]
    except (KeyError, TypeError, ValueError):
        return None  # damaged, of an earlier version whose files have no hash


def is_manifest_of(directory: Place, records: Sequence[Done]) -> bool:
    """Whether the step's manifest says that these are its tasks."""
    try:
        found = _decode((directory / _MANIFEST).read_bytes())
    except StoreError:
        raise
    except (OSError, ValueError):
        return False
    return found.get("tasks") == _tasks_of(records)


def write_manifest(directory: Place, records: Sequence[Done]) -> None:
    """Say that the step is whole, and of which tasks."""
    write_sealed(directory / _MANIFEST, {"tasks": _tasks_of(records)})


def _tasks_of(records: Sequence[Done]) -> list[dict[str, Any]]:
    return [
        {"partition": r.partition, "key": r.key, "outputs": dict(r.outputs)} | ({"at": r.at} if r.at else {})
        for r in records
    ]


def _entry(task: Mapping[str, Any]) -> dict[str, Any]:
    return {**{n: task[n] for n in ("partition", "key")}, "outputs": dict(task["outputs"]), "at": task.get("at", "")}


def strangers(directory: Place, records: Sequence[Done]) -> list[Place]:
    """Files in the step's directory that belong to no task of the present plan."""
    ours = {file.path for record in records for file in record.located(directory).values()}
    ours |= {str(place_of_record(directory, record.partition)) for record in records}
    ours |= {str(directory / _MANIFEST), str(directory / _TOGETHER)}
    if isinstance(directory, BucketPath):
        return [path for path, _ in directory.walk() if str(path) not in ours]
    return [path for path in directory.rglob("*") if path.is_file() and str(path) not in ours]
