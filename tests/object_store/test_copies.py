"""Copies of objects on this machine: one for all of its processes, and there for as long as one may open it."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from pipeline.errors import DamagedFileError, OutputError
from pipeline.storage import copies
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check, digest_of, read_table
from pipeline.storage.copies import kept_copy
from pipeline.storage.location import Location
from tests.object_store.fixtures import Bucket


@pytest.fixture
def objects(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[BucketPath]:
    """Four objects of 1,000 bytes, and no copy yet."""
    monkeypatch.setattr(copies.tempfile, "tempdir", str(tmp_path))
    made = [BucketPath.of(f"{bucket.url}/{number}/vector") for number in range(4)]
    for path in made:
        path.put(os.urandom(1000))
    return made


def _grow_old(copy: Path) -> None:
    os.utime(copy, (0, 0))


def test_copies_that_nobody_used_for_a_while_make_room(
    objects: list[BucketPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENWIT_COPIES_GB", "2e-6")
    old, *others = objects
    first = kept_copy(old)
    _grow_old(first)
    made = [kept_copy(path) for path in others]
    assert not first.exists()
    assert all(copy.exists() for copy in made), "too many, but their readers may not have opened them yet"
    assert kept_copy(old).read_bytes() == old.read_bytes()


def test_processes_with_little_room_do_not_take_copies_from_each_other(
    objects: list[BucketPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENWIT_COPIES_GB", "0")
    lost: list[Exception] = []

    def use(path: BucketPath) -> None:
        for _ in range(50):
            try:
                assert len(Path(check(Location(str(path)))).read_bytes()) == 1000
            except (DamagedFileError, OSError) as error:
                lost.append(error)

    users = [threading.Thread(target=use, args=(path,)) for path in objects]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert lost == []


def test_stopped_process_that_was_making_a_copy_holds_nobody(
    objects: list[BucketPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_SILENT_S", 0.2)
    copy = kept_copy(objects[0])
    copy.rename(copy.with_name(f"{copy.name}.tmp-of-the-other"))
    with copy.with_name(f"{copy.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert kept_copy(objects[0]).read_bytes() == objects[0].read_bytes()


@pytest.mark.parametrize("there", ["file", "link"])
def test_directory_of_copies_that_is_not_ours_is_refused(objects: list[BucketPath], tmp_path: Path, there: str) -> None:
    place = tmp_path / f"openwit-{os.geteuid()}"
    if there == "file":
        place.write_bytes(b"")
    else:
        place.symlink_to(tmp_path)
    with pytest.raises(OutputError, match="set TMPDIR"):
        check(Location(str(objects[0])))


def test_room_that_is_no_number_is_refused(objects: list[BucketPath], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENWIT_COPIES_GB", "lots")
    with pytest.raises(OutputError, match="OPENWIT_COPIES_GB is 'lots'"):
        check(Location(str(objects[0])))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO])
def test_trouble_with_this_machines_disk_is_not_the_objects_damage(
    objects: list[BucketPath], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(path: BucketPath, to: Path) -> None:
        raise OSError(number, os.strerror(number), str(to))

    monkeypatch.setattr(copies, "download", fail)
    for read in (check, read_table):
        with pytest.raises(OSError, match=os.strerror(number)):
            read(Location(str(objects[0]), "0" * 32))


def test_copy_of_what_was_there_before_is_made_anew(objects: list[BucketPath], tmp_path: Path) -> None:
    path, other = objects[:2]
    kept_copy(path)
    path.put(other.read_bytes())
    (tmp_path / "other").write_bytes(other.read_bytes())
    whole = Location(str(path), digest_of(tmp_path / "other"))
    assert Path(check(whole)).read_bytes() == other.read_bytes()
    path.put(b"of somebody else")
    Path(check(whole)).write_bytes(b"damaged here")
    with pytest.raises(DamagedFileError):
        check(whole)


def test_object_that_is_gone_is_damage(objects: list[BucketPath]) -> None:
    objects[0].unlink()
    for read in (check, read_table):
        with pytest.raises(DamagedFileError):
            read(Location(str(objects[0]), "0" * 32))
