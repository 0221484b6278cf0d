"""Doing a task, and committing what it wrote: all of it or nothing.

    on a disk:    work under temporary names -> fsync + rename every output -> done/PARTITION.json   (the commit)
    in a bucket:  work in scratch -> put every output under a name of this attempt alone -> done/PARTITION.json, put
                  only where none of this key is   (the commit)

In a bucket a task may be done twice at a time, by two drivers or by a worker that was given up. Of two attempts one
puts its record, and the outputs that it names are of that attempt and no other; those of the other are swept by and
by.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.engine.record import Done, done_of, place_of_record, read_record
from pipeline.engine.task import AnyTask, Info
from pipeline.storage.atomic import commit, sealed, sha256_of, temporary_name, unwritable, write_sealed
from pipeline.storage.bucket import BucketPath, ConflictError
from pipeline.storage.checked import digest_of
from pipeline.storage.copies import scratch_files
from pipeline.storage.lease import Hold
from pipeline.storage.location import Location
from pipeline.storage.place import place_of
from pipeline.storage.store_client import patiently

__all__ = ["run_task"]

_NOT_AGAIN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""What a second try does not mend."""
_NO_HOLD = Hold()
_PUTS = 4
"""Outputs of a task that are put side by side."""


def run_task(
    directory: str, task: AnyTask[Any], *, check: Callable[[], None] | None = None, hold: Hold = _NO_HOLD
) -> Done:
    """Do the work, then commit. Runs in any process.

    `check` runs between work and commit, and raises where the result must not count. `hold` says for which holder of
    the output it is done. Raises OutputError when the disk is full or a store refuses, LockedError where somebody else
    holds the output by now; whatever the work or `check` raises otherwise. Nothing keeps a final name unless it is
    whole, and nothing counts unless the record is there. Returns the record that counts.
    """
    root = place_of(directory)
    try:
        if isinstance(root, BucketPath):
            return _run_in_bucket(root, task, check, hold)
        return _run_on_disk(root, task, check)
    except OSError as error:
        if error.errno in _NOT_AGAIN:
            raise unwritable(root, error) from error
        raise


def _run_on_disk(root: Path, task: AnyTask[Any], check: Callable[[], None] | None) -> Done:
    written: dict[str, Path] = {}
    try:
        (root / "done").mkdir(parents=True, exist_ok=True)
        written = {name: temporary_name(root / name) for name in task.outputs}
        for path in written.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        plain = _plain(task, _perform(task, written, check), written)
        record = place_of_record(root, task.partition)
        # An older record must not vouch for the new bytes, nor the new record for old ones.
        record.unlink(missing_ok=True)
        for name, path in written.items():
            commit(path, root / name)
        write_sealed(record, plain)
    finally:
        for path in written.values():
            if os.path.lexists(path):
                path.unlink()
    return done_of(plain)


def _run_in_bucket(root: BucketPath, task: AnyTask[Any], check: Callable[[], None] | None, hold: Hold) -> Done:
    at = f"at/{hold.token:06d}-{uuid.uuid4().hex[:12]}"
    with scratch_files() as scratch:
        written = {name: scratch / name for name in task.outputs}
        for path in written.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        plain = _plain(task, _perform(task, written, check), written) | {"at": at, "token": hold.token}
        with ThreadPoolExecutor(_PUTS) as puts:
            list(puts.map(lambda name: patiently(lambda: (root / at / name).put(written[name])), written))
    ours, content, record = done_of(plain), sealed(plain), root / "done" / f"{task.partition}.json"

    def put_record() -> Done:
        hold.check()
        return _put_record(record, ours, content, hold)

    counts = patiently(put_record)  # answers that were waited for an hour are not given up for a minute's silence
    if counts.at != at:
        with contextlib.suppress(OSError):  # the result is there; these are swept by and by
            BucketPath.remove([root / at / name for name in written])
    return counts


def _perform(task: AnyTask[Any], written: Mapping[str, Path], check: Callable[[], None] | None) -> Info:
    info = task.perform({name: Location(str(path)) for name, path in written.items()})
    if check is not None:
        check()
    return info


def _plain(task: AnyTask[Any], info: Info, written: Mapping[str, Path]) -> dict[str, Any]:
    outputs = {name: _entry(path, published=task.published) for name, path in written.items()}
    return {"partition": task.partition, "key": task.key, "outputs": outputs, "info": info}


def _entry(path: Path, *, published: bool) -> dict[str, Any]:
    digest = {"sha256": sha256_of(path)} if published else {"xxh3": digest_of(path)}
    return {**digest, "bytes": path.stat().st_size}


def _put_record(path: BucketPath, ours: Done, content: bytes, hold: Hold) -> Done:
    """Put the record unless one of this key is there; returns the one that is. Raises LockedError where a later holder
    of the output has put another."""
    if not hold.compares:
        path.put(content)
        return ours
    while True:
        with contextlib.suppress(ConflictError):
            path.put_new(content)
            return ours
        try:
            before, tag = path.read_tagged()
        except FileNotFoundError:
            continue  # taken back meanwhile
        found = read_record(before)
        if found is not None and found.key == ours.key:
            return found
        if found is not None and found.token > ours.token:
            hold.check()  # a later holder's; but where the lock is ours, it was removed once, and numbers began anew
        with contextlib.suppress(ConflictError):  # else look at what the other one put
            path.put_over(content, tag)
            return ours
