"""pipeline/engine/commit.py: which of several records of a task counts, in a bucket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.commit import _put_record, run_task
from pipeline.engine.record import Done, Records, put_together, record_at, record_of
from pipeline.errors import LockedError
from pipeline.storage.atomic import sealed
from pipeline.storage.bucket import BucketPath, Tag
from pipeline.storage.lease import Hold
from pipeline.storage.store_client import StoreError
from tests.object_store.fixtures import Bucket
from tests.pipeline.test_engine import Write


def record(key: str, at: str, token: int) -> Done:
    return Done(partition="00000", key=key, outputs={}, at=at, token=token)


def put(path: BucketPath, done: Done, hold: Hold) -> Done:
    return _put_record(path, done, sealed(done.plain()), hold)


def test_record_of_a_later_holder_stays_unless_the_numbers_began_anew(bucket: Bucket) -> None:
    """A lock that a person removed is numbered from one; records with higher numbers are there for ever."""
    root = BucketPath.of(f"{bucket.url}/set")
    lock, path = root / "lock", root / "done" / "00000.json"
    path.put(sealed(record("old", "at/9-a", 9).plain()))
    ours, hold = record("new", "at/1-b", 1), Hold(lock=lock, token=1)
    lock.put(json.dumps({"token": 9}).encode())
    with pytest.raises(LockedError):
        put(path, ours, hold)
    lock.put(json.dumps({"token": 1}).encode())
    assert put(path, ours, hold) == ours
    assert record_at(path) == ours


def test_record_that_is_taken_back_meanwhile_is_put_by_one(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    path = BucketPath.of(f"{bucket.url}/set/done/00000.json")
    theirs, ours = record("key", "at/1-a", 1), record("key", "at/1-b", 1)
    path.put(sealed(record("old", "at/1-c", 1).plain()))
    read, reads = BucketPath.read_tagged, []

    def read_late(self: BucketPath) -> tuple[bytes, Tag]:
        reads.append(self)
        if len(reads) == 2:  # the first is of the refused put itself
            self.unlink()
            with pytest.raises(FileNotFoundError):
                read(self)
            self.put(sealed(theirs.plain()))
            raise FileNotFoundError(str(self))
        return read(self)

    monkeypatch.setattr(BucketPath, "read_tagged", read_late)
    assert put(path, ours, Hold()) == theirs


def test_result_counts_although_what_an_attempt_left_cannot_be_removed(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = BucketPath.of(f"{bucket.url}/set/work/step")
    task = Write(partition="00000", log=str(tmp_path / "log"))
    first = run_task(str(step), task)

    def refuse(paths: Any) -> None:
        raise StoreError("no answer", "x")

    monkeypatch.setattr(BucketPath, "remove", staticmethod(refuse))
    assert run_task(str(step), task) == first


def test_record_of_a_worker_that_outlived_its_run_does_not_count(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A step's records were put together, so the place of each is free again."""
    monkeypatch.setattr("pipeline.engine.record._TOGETHER_FROM", 1)
    step = BucketPath.of(f"{bucket.url}/set/work/step")
    task = Write(partition="00000", log=str(tmp_path / "log"))
    present = run_task(str(step), task, hold=Hold(token=7))
    put_together(step, [present])
    late = run_task(str(step), task, hold=Hold(token=6))
    assert late.at != present.at
    assert record_of(step, "00000") == present
    assert Records.of(step).finished(task) == present
    newer = run_task(str(step), task, hold=Hold(token=8))
    assert newer == late, "of one key the first record counts"
    (step / "done" / "00000.json").unlink()
    newer = run_task(str(step), task, hold=Hold(token=8))
    assert record_of(step, "00000") == Records.of(step).get("00000") == newer
