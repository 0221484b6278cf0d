"""pipeline/storage/copies.py: what of a bucket is kept on this machine, and what damage of a copy means."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.load import ConfigError
from pipeline.errors import OutputError
from pipeline.storage import copies
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check
from pipeline.storage.copies import copies_directory, kept_copy
from pipeline.storage.location import Location
from tests.object_store.fixtures import Bucket


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(copies, "_unseen_bytes", math.inf)


def test_copies_beyond_what_may_be_kept_go_the_longest_unused_first(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENWIT_COPIES_GB", "0.00000025")
    root = BucketPath.of(bucket.url)
    for name in "abc":
        (root / name / "x").put(bytes(100))
        kept_copy(root / name / "x")
    kept = [path.name for path in copies_directory().glob("of-*/x")]
    assert len(kept) == 2
    assert kept_copy(root / "c" / "x").read_bytes() == bytes(100)


def test_copies_are_not_gone_through_for_every_small_one(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENWIT_COPIES_GB", "1")
    root, looks, glob = BucketPath.of(bucket.url), [], Path.glob

    def counted(self: Path, pattern: str) -> Iterator[Path]:
        looks.append(self)
        return glob(self, pattern)

    monkeypatch.setattr(Path, "glob", counted)
    for number in range(5):
        (root / str(number)).put(b"x")
        kept_copy(root / str(number))
    assert len(looks) == 1


def test_fault_of_the_machine_is_no_damage_of_the_object(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage would have the object made again."""
    path = BucketPath.of(f"{bucket.url}/x.npy")
    path.put(b"x")
    monkeypatch.setenv("OPENWIT_COPIES_GB", "many")
    with pytest.raises(ConfigError, match="OPENWIT_COPIES_GB"):
        check(Location(str(path)))
    user = os.geteuid() + 1
    monkeypatch.setattr("os.geteuid", lambda: user)
    with pytest.raises(OutputError, match="TMPDIR"):
        check(Location(str(path)))
