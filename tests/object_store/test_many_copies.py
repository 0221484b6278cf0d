"""Copies of objects on this machine, where there are very many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.storage import copies
from pipeline.storage.bucket import BucketPath
from pipeline.storage.copies import kept_copy
from tests.object_store.fixtures import Bucket


def test_copies_are_not_gone_through_for_every_small_one(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(copies, "_unseen_bytes", math.inf)
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
