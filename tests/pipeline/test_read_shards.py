"""A published set, read back sample by sample."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import DamagedFileError, InputError
from pipeline.records.schema import SAMPLES
from pipeline.sets.read_shards import read_shards
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

PATHS = {f"/{i}": text(picture(i)) for i in range(8)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallRun]:
    with LoopbackServer(PATHS) as server:
        small = SmallRun.make(tmp_path_factory.mktemp("read"), server, PATHS)
        assert small.run("--shards.samples_per_shard", "3") == 0
        yield small


def test_every_sample_comes_in_the_order_of_the_set_with_its_picture(finished: SmallRun) -> None:
    files = sorted((finished.output / "shards").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    samples = list(read_shards(finished.output))
    assert len(files) == 3
    assert [{name: sample[name] for name in SAMPLES.names} for sample in samples] == rows
    assert [sample["uid"] for sample in read_shards(str(finished.output / "shards"))] == [row["uid"] for row in rows]
    for sample in samples:
        assert Image.open(io.BytesIO(sample["image"])).size == (sample["width"], sample["height"])


def test_samples_of_an_earlier_version_have_nulls(finished: SmallRun, tmp_path: Path) -> None:
    for path in (finished.output / "shards").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = (tmp_path / "manifest.json").read_text().replace("parquet_sha256", "other")
    (tmp_path / "manifest.json").write_text(manifest)
    for path in tmp_path.glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["stored_xxh3", "lang_by"]), path)
    assert {(sample["stored_xxh3"], sample["lang_by"]) for sample in read_shards(tmp_path)} == {(None, None)}


def test_damage_is_named(finished: SmallRun, tmp_path: Path) -> None:
    for path in (finished.output / "shards").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tar = tmp_path / "00001.tar"
    whole = tar.read_bytes()
    first = next(row for row in read_shards(tmp_path) if row["shard"] == 1)
    tar.write_bytes(whole[: first["tar_offset"]] + b"?" + whole[first["tar_offset"] + 1 :])
    with pytest.raises(DamagedFileError, match=r"00001\.tar: damaged: the \d+ bytes at"):
        list(read_shards(tmp_path))
    tar.unlink()
    with pytest.raises(DamagedFileError, match=r"00001\.tar: damaged: cannot be read"):
        list(read_shards(tmp_path))
    tar.write_bytes(whole)
    (tmp_path / "00002.parquet").write_bytes((tmp_path / "00001.parquet").read_bytes())
    with pytest.raises(DamagedFileError, match=r"00002\.parquet: damaged: its bytes are not those"):
        list(read_shards(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DamagedFileError, match=r"manifest\.json: damaged: is no list of shards"):
        read_shards(tmp_path)


def test_directory_without_shards_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        read_shards(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no shards here"):
        read_shards(tmp_path)
