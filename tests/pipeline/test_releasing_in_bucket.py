"""A release from a bucket and into one: the same bytes as on a disk, whole or absent there too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import main
from pipeline.releasing import release as releasing
from pipeline.storage.bucket import BucketPath
from tests.object_store.fault_proxy import FaultProxy
from tests.object_store.fixtures import new_bucket
from tests.pipeline.small_set import make_set

TOLD = ("--pictures", "--published", "2026-11-29")


@pytest.fixture(scope="module")
def bucket(object_store: str) -> Iterator[BucketPath]:
    with pytest.MonkeyPatch.context() as patch, FaultProxy(object_store) as proxy:
        bucket = new_bucket(proxy, object_store)
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        yield BucketPath.of(bucket.url)


def _put(root: Path, to: BucketPath) -> None:
    """A set on a disk as one in a bucket: of its versions the published one alone."""
    for path in [*root.rglob("*"), *(root / "shards").iterdir()]:
        inside = path.relative_to(root)
        if path.is_file() and inside.parts[0] != "versions":
            (to / inside.as_posix()).put(path.read_bytes())


def _objects(place: BucketPath) -> dict[str, bytes]:
    return {path.relative_to(place): path.read_bytes() for path, _ in place.walk()}


@pytest.mark.slow
def test_release_is_the_same_from_and_in_a_bucket(
    bucket: BucketPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    make_set(tmp_path / "set", 40)
    _put(tmp_path / "set", bucket / "set")
    assert main(["release", str(tmp_path / "set"), str(tmp_path / "out"), *TOLD]) == 0
    expected = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert main(["release", str(bucket / "set"), str(tmp_path / "from"), *TOLD]) == 0
    assert {name: (tmp_path / "from" / name).read_bytes() for name in expected} == expected

    words = ["release", str(bucket / "set"), str(bucket / "out"), *TOLD]
    sums_of = releasing.sums_of

    def killed(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(releasing, "sums_of", killed)
    assert main(words) == 130
    assert not (bucket / "out" / "SHA256SUMS").exists()
    assert main(["verify", str(bucket / "out")]) == 1
    monkeypatch.setattr(releasing, "sums_of", sums_of)
    assert main(words) == 0
    assert _objects(bucket / "out") == expected
    assert not (bucket / "out.tmp-release").exists()
    assert main(["verify", str(bucket / "out")]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "is whole already" in capsys.readouterr().out
    assert main([*words, "--title", "other"]) == 2
    (bucket / "mine" / "notes.txt").put(b"mine")
    assert main([*words[:2], str(bucket / "mine"), *TOLD]) == 2
    assert "something is there that is no release" in capsys.readouterr().err
    assert _objects(bucket / "mine") == {"notes.txt": b"mine"}
