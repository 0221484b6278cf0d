"""In a bucket a removal hides at once what all readers of ours would find, and `compact` takes out the bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalog.catalog import open_catalog
from pipeline.commands import main
from pipeline.records.shard import REMOVED_MEMBER
from pipeline.sets.read_shards import read_shards
from pipeline.storage.bucket import BucketPath
from pipeline.takedown import published
from tests.object_store.fixtures import Bucket
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture
from training.data.index import write_index
from training.data.rows import read_rows
from training.data.shards import find_shards
from training.embedding.shard_parts import shard_parts


@pytest.fixture
def remote(bucket: Bucket, tmp_path: Path) -> Iterator[tuple[SmallRun, BucketPath]]:
    answers = {f"/{i}": text(picture(i)) for i in range(7)}
    with LoopbackServer(answers) as server:
        small = SmallRun.make(tmp_path, server, answers)
        output = BucketPath.of(f"{bucket.url}/set")
        options = ("--shards.samples_per_shard", "4", "--texts.partitions", "1", "--output", str(output))
        assert small.run(*options) == 0
        yield small, output


def uids_by_reader(output: BucketPath, scratch: Path) -> dict[str, list[Any]]:
    """What each reader of ours finds, in the set's order."""
    with open_catalog(output) as database:
        by_sql = database.execute("SELECT uid FROM samples ORDER BY shard, tar_offset").fetchall()
    assert main(["export-list", str(output), "--to", str(scratch / "list.parquet")]) == 0
    assert main(["subset", str(output), "--out", str(scratch / "part"), "--where", "key <> ''"]) == 0
    part = [uid for file in sorted((scratch / "part/shards").glob("*.parquet")) for uid in pq.read_table(file)["uid"]]
    _, parts = shard_parts(output)
    rows = [part.rows() for part in parts]
    embedded = [uid for each in rows for uid, there in zip(each.uids, each.has_picture, strict=True) if there]
    assert sum(len(read_rows(shard, with_queries=True).uid) for shard in find_shards(output)) == len(by_sql)
    return {
        "sql": [uid for (uid,) in by_sql],
        "api": [sample["uid"] for sample in read_shards(output)],
        "export-list": pq.read_table(scratch / "list.parquet")["uid"].to_pylist(),
        "subset": pa.array(part).to_pylist(),
        "embed": embedded,
        "training": [int(uid).to_bytes(8, "big") for uid in write_index(output, root=scratch / "index").uid],
    }


class Killed(BaseException):
    """What a kill is to the code that it meets."""


def killed(*_: object) -> None:
    raise Killed


def members(output: BucketPath) -> list[str]:
    names = []
    for shard in (output / "shards").glob("*.tar"):
        with tarfile.open(fileobj=io.BytesIO(shard.read_bytes())) as tar:
            names += tar.getnames()
    return names


@pytest.mark.slow
def test_readers_pass_over_what_is_removed_and_compact_takes_it_out(
    remote: tuple[SmallRun, BucketPath], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, output = remote
    before = [(sample["uid"], sample["image"]) for sample in read_shards(output)]
    (tmp_path / "uids.txt").write_text(before[1][0].hex())
    (tmp_path / "hidden").mkdir()
    (tmp_path / "compact").mkdir()
    assert main(["remove", str(output), "--uids", str(tmp_path / "uids.txt")]) == 0
    assert "hidden" in capsys.readouterr().out
    kept = [uid for uid, _ in before if uid != before[1][0]]

    def holds_for(scratch: Path) -> None:
        for reader, uids in uids_by_reader(output, scratch).items():
            assert uids == [uid[:8] if reader == "training" else uid for uid in kept], reader

    holds_for(tmp_path / "hidden")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "amend", killed)
        with pytest.raises(Killed):
            main(["compact", str(output)])
    assert not (output / "shards" / "manifest.json").exists()  # who reads now is told so
    assert main(["compact", str(output)]) == 0
    assert "taken out of every file" in capsys.readouterr().out
    assert not (output / "shards" / "tombstones.json").exists()
    holds_for(tmp_path / "compact")
    assert members(output).count(REMOVED_MEMBER) == 1
    needle = before[1][1][600:700]
    assert not [str(path) for path, _ in output.walk() if needle in path.read_bytes()]
    assert main(["verify", str(output), "--work"]) == 0
    assert small.run("--shards.samples_per_shard", "4", "--texts.partitions", "1", "--output", str(output)) == 0
    assert [sample["uid"] for sample in read_shards(output)] == kept
    assert main(["verify", str(output), "--work"]) == 0
    assert main(["compact", str(output)]) == 0
    assert "no removal is under way" in capsys.readouterr().out
