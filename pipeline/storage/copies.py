"""Files of a bucket on this machine's own disk: one copy for all of its processes, or one for a moment.

    TMPDIR/openwit-UID/copies/HASH OF THE PLACE/NAME   found again by name, since what a task put there never changes
    TMPDIR/openwit-UID/task-xxxxxxxx/                  of tasks that run

Copies are for what is mapped (the matcher's tables, vectors) or read by a library that wants a path. Those that were
used the longest ago go when there are more than `OPENWIT_COPIES_GB` of them (default 50); a process that has one mapped
keeps it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import math
import os
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import xxhash

from pipeline.errors import OutputError
from pipeline.storage.bucket import BucketPath
from pipeline.storage.scratch import scratch_directory

__all__ = ["copies_directory", "download", "forget_copy", "kept_copy", "scratch_copy", "scratch_files"]

_COPIES = "copies"
"""Apart from what tasks have: each looks through that for what dead ones left, and copies may be thousands."""
_MOST_GB = 50
_IN_USE_S = 60.0
"""A copy that somebody asked for so lately may be about to be opened."""
_SILENT_S, _LOOK_EVERY_S = 30.0, 0.05
"""The client of a store that is gone gives up sooner."""

_UNSEEN_SHARE = 0.01
_unseen_bytes = math.inf
"""Of copies that this process made since it went through all that there are."""


def copies_directory() -> Path:
    """Where this user's copies are. Nobody else may enter it. Raises OutputError where somebody else has the name."""
    place = Path(tempfile.gettempdir()) / f"openwit-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    about = place.lstat()
    if about.st_uid != os.geteuid() or not stat.S_ISDIR(about.st_mode):
        raise OutputError(
            f"{place}: belongs to somebody else, or is no directory; set TMPDIR to a directory of your own"
        )
    return place


def download(path: BucketPath, to: Path) -> None:
    """The object as the file `to`, written piece by piece. Raises FileNotFoundError, StoreError, or OSError of the
    disk."""
    with to.open("wb") as file:
        for piece in path.stream():
            file.write(piece)


def kept_copy(path: BucketPath) -> Path:
    """The copy of an object that never changes, made once a machine."""
    copy = _place_of(path)
    directory = copy.parent
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{path.name}.lock").open("a") as lock:
        _take_turn(lock, copy)  # the others of this machine wait for the one that asks
        with contextlib.suppress(FileNotFoundError):
            os.utime(copy)
            return copy
        temporary = copy.with_name(f"{copy.name}.tmp-{uuid.uuid4().hex[:12]}")
        try:
            download(path, temporary)
            num_bytes = temporary.stat().st_size
            temporary.replace(copy)
        finally:
            temporary.unlink(missing_ok=True)
    _make_room(copy, num_bytes)
    return copy


def _take_turn(lock: TextIO, copy: Path) -> None:
    """Wait for the lock of a copy as long as its holder brings something: one that was stopped holds nobody. Made
    twice, it is the same."""
    before, since = -1, time.monotonic()
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        now = 0
        with contextlib.suppress(FileNotFoundError):  # made meanwhile
            now = sum(path.stat().st_size for path in copy.parent.glob(f"{glob.escape(copy.name)}.tmp-*"))
        if now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since > _SILENT_S:
            return
        time.sleep(_LOOK_EVERY_S)


def forget_copy(path: BucketPath) -> None:
    """Remove the copy, which proved to be damaged."""
    _place_of(path).unlink(missing_ok=True)


def _place_of(path: BucketPath) -> Path:
    return copies_directory() / _COPIES / f"of-{xxhash.xxh3_64_hexdigest(str(path.parent).encode())}" / path.name


def _make_room(latest: Path, num_bytes: int) -> None:
    """Remove the copies that were used the longest ago, beyond what may be kept; never the latest.

    They are gone through now and then, not for each of the 90,000 small ones that a crawl has.
    """
    global _unseen_bytes
    most = _most_bytes()
    _unseen_bytes += num_bytes
    if _unseen_bytes < most * _UNSEEN_SHARE:
        return
    _unseen_bytes = 0.0
    found = []
    for path in (copies_directory() / _COPIES).glob("of-*/*"):
        with contextlib.suppress(OSError):
            about = path.stat()
            found.append((about.st_mtime, about.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        if path != latest and not path.name.endswith(".lock") and _is_removed(path):
            total -= size


def _most_bytes() -> float:
    said = os.environ.get("OPENWIT_COPIES_GB", str(_MOST_GB))
    try:
        return float(said) * 1e9
    except ValueError:
        raise OutputError(f"OPENWIT_COPIES_GB is {said!r}; give a number of gigabytes, such as {_MOST_GB}") from None


def _is_removed(copy: Path) -> bool:
    """Remove a copy unless somebody is about to use it."""
    name = copy.name.partition(".tmp-")[0]
    with copy.with_name(f"{name}.lock").open("a") as lock, contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - copy.stat().st_mtime > _IN_USE_S:
            copy.unlink()
            return True
    return False


@contextmanager
def scratch_copy(path: BucketPath) -> Iterator[Path]:
    """The object as a file for as long as the block runs."""
    with scratch_files() as directory:
        copy = directory / path.name
        download(path, copy)
        yield copy


@contextmanager
def scratch_files() -> Iterator[Path]:
    """A directory of this machine for as long as the block runs, swept by a later one where a kill left it."""
    with scratch_directory("task-", copies_directory()) as directory:
        yield directory
