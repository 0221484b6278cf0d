"""The output of a run, a directory or a place in a bucket, and its lock.

OUT/openwit.json   marks the directory as ours, with the layout's version
OUT/lock           held by the live run (flock; in a bucket a lease)
OUT/config.yaml    the resolved config of the last run
OUT/runs.jsonl     one line a run: when, what, how long
OUT/log/           what happened in each of the last runs
OUT/work/STEP/     files of one step, done/PARTITION.json, manifest.json
OUT/versions/ID/   published shards; OUT/shards is a link to the newest whole version
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import LockedError, OutputError
from pipeline.storage.atomic import read_json, sweep, unwritable, write_json
from pipeline.storage.bucket import BucketPath
from pipeline.storage.lease import held
from pipeline.storage.place import Place

__all__ = ["LAYOUT_VERSION", "check_output", "is_output", "open_output"]

LAYOUT_VERSION = 1
_MARK = "openwit.json"


def _nothing(line: str) -> None:
    """Who runs no command says nothing."""


@contextmanager
def open_output(path: Place, *, single_driver: bool = False, say: Callable[[str], None] = _nothing) -> Iterator[Place]:
    """Take the output for one run: create or recognise it, lock it, sweep it; `say` tells what there is to wait for.

    Raises OutputError where the path is a file, not writable, holds files that are not ours or was
    written by a newer version, or a bucket's store is not fit; LockedError while another live run holds it.
    """
    with _locked_bucket(path, single_driver, say) if isinstance(path, BucketPath) else _locked_directory(path):
        if read_json(path / _MARK) is None:
            write_json(path / _MARK, {"layout_version": LAYOUT_VERSION, "made_by": "openwit"})
        sweep(path)
        yield path


@contextmanager
def _locked_directory(path: Path) -> Iterator[None]:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    check_output(path, must_exist=False)
    try:
        lock = (path / "lock").open("a+")
    except OSError as error:
        raise unwritable(path, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            raise LockedError(
                f"{path}: a live run holds this directory ({owner}); wait for it or choose another --output"
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()}")
        lock.flush()
        yield


@contextmanager
def _locked_bucket(path: BucketPath, single_driver: bool, say: Callable[[str], None]) -> Iterator[None]:
    check_output(path, must_exist=False)
    with held(path, single_driver=single_driver, say=say):
        yield


def is_output(path: Place) -> bool:
    """Whether a run has taken this directory before."""
    return (path / _MARK).is_file()


def check_output(path: Place, *, must_exist: bool = True) -> None:
    """Raise OutputError unless `path` is a directory of ours (or, if allowed, an empty one)."""
    mark = read_json(path / _MARK)
    if mark is None:
        if not path.is_dir():
            if must_exist:
                what = "no such directory" if isinstance(path, Path) else "nothing is there"
                raise OutputError(f"{path}: {what}; run `python -m pipeline run` to make it")
            return
        left = [p.name for p in path.iterdir() if not p.name.startswith("lock") and ".tmp-" not in p.name]
        if left or must_exist:
            if {"config.yaml", "runs.jsonl", "work"} <= set(left):
                mark = f'{{"layout_version": {LAYOUT_VERSION}}}'
                raise OutputError(
                    f"{path}/{_MARK}: is gone, by which a data set is known; put it there again, with {mark} in it"
                )
            what = f"holds files that are not ours ({left[0]})" if left else "is empty"
            raise OutputError(f"{path}: {what}; choose another --output, or an empty directory")
    elif not isinstance(mark, dict) or not isinstance(mark.get("layout_version"), int):
        raise OutputError(f"{path}/{_MARK}: damaged; choose another --output")
    elif mark["layout_version"] > LAYOUT_VERSION:
        raise OutputError(
            f"{path}: written by a newer openwit (layout {mark['layout_version']}, this one knows "
            f"{LAYOUT_VERSION}); update openwit or choose another --output"
        )
