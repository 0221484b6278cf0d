"""Reading where samples lie, from what the pipeline and other tools write."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.conftest import index_of
from tests.training.tiny_shards import make_shards
from training.errors import DataError
from training.index import write_index


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    make_shards(tmp_path / "data", counts=(5, 4), size=24)
    return tmp_path / "data"


def test_index_from_parquet_points_at_the_images_and_captions(shards: Path) -> None:
    index = index_of(shards)
    assert len(index) == 9
    assert index.shard.tolist() == [0] * 5 + [1] * 4
    with tarfile.open(shards / "shards" / "00001.tar") as tar:
        jpgs = [m for m in tar.getmembers() if m.name.endswith(".jpg")]
        texts = [tar.extractfile(m).read().decode() for m in tar.getmembers() if m.name.endswith(".txt")]
    assert index.offset[5:].tolist() == [m.offset_data for m in jpgs]
    assert index.num_bytes[5:].tolist() == [m.size for m in jpgs]
    assert [index.caption(i) for i in range(5, 9)] == texts


def test_index_from_tar_headers_equals_that_from_parquet(shards: Path) -> None:
    ours = index_of(shards)
    for parquet in (shards / "shards").glob("*.parquet"):
        parquet.unlink()
    (shards / "shards" / "sizes.json").unlink()
    foreign = index_of(shards / "shards")
    for name in ("shard", "offset", "num_bytes", "caption_end", "captions"):
        assert np.array_equal(getattr(ours, name), getattr(foreign, name)), name
    assert len(set(foreign.uid.tolist())) == 9


def test_img2dataset_parquet_without_offsets_falls_back_to_the_tar(shards: Path) -> None:
    ours = index_of(shards)
    for parquet in (shards / "shards").glob("*.parquet"):
        rows = [{"key": "1", "caption": "x", "status": "failed_to_download"}] * 20
        pq.write_table(pa.Table.from_pylist(rows), parquet)
    assert np.array_equal(index_of(shards).offset, ours.offset)


def test_rows_without_text_or_image_are_left_out_and_counted(shards: Path) -> None:
    path = shards / "shards" / "00000.parquet"
    rows = pq.read_table(path)
    captions, sizes = rows["caption"].to_pylist(), rows["num_bytes"].to_pylist()
    captions[1], captions[3], sizes[2] = "  ", None, None
    rows = rows.set_column(1, "caption", pa.array(captions, pa.string()))
    rows = rows.set_column(rows.schema.get_field_index("num_bytes"), "num_bytes", pa.array(sizes, pa.int64()))
    pq.write_table(rows, path)
    index = index_of(shards)
    assert (len(index), index.num_without_text, index.num_without_image) == (6, 2, 1)


def test_saved_index_is_read_back_equal_and_memory_mapped(shards: Path, tmp_path: Path) -> None:
    index = index_of(shards)
    again = write_index(shards, root=tmp_path / "index")
    again = write_index(shards, root=tmp_path / "index")  # replaces
    assert [path.name for path in (tmp_path / "index").iterdir()] == [index.fingerprint]
    assert isinstance(again.captions, np.memmap)
    assert again.fingerprint == index.fingerprint
    assert [again.caption(i) for i in range(9)] == [index.caption(i) for i in range(9)]


def test_an_index_that_others_read_is_kept(shards: Path, tmp_path: Path) -> None:
    kept = tmp_path / "index" / write_index(shards, root=tmp_path / "index").fingerprint / "uid.npy"
    number = kept.stat().st_ino
    write_index(shards, root=tmp_path / "index", replace=False)
    assert kept.stat().st_ino == number
    write_index(shards, root=tmp_path / "index")
    assert kept.stat().st_ino != number


def test_a_failed_index_leaves_nothing_behind(shards: Path, tmp_path: Path) -> None:
    (shards / "shards" / "00001.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"00001\.tar: truncated"):
        write_index(shards, root=tmp_path / "index")
    assert not list((tmp_path / "index").iterdir())


def test_fingerprint_changes_with_the_data(shards: Path, tmp_path: Path) -> None:
    make_shards(tmp_path / "same", counts=(5, 4), size=24)
    make_shards(tmp_path / "other", counts=(5, 4), size=24, seed=1)
    assert index_of(shards).fingerprint == index_of(tmp_path / "same").fingerprint
    assert index_of(shards).fingerprint != index_of(tmp_path / "other").fingerprint


def test_a_missing_shard_is_one_clear_line(shards: Path) -> None:
    (shards / "shards" / "00001.tar").unlink()
    with pytest.raises(DataError, match=r"00001\.tar: listed but missing") as caught:
        index_of(shards)
    assert "\n" not in str(caught.value)


def test_a_truncated_shard_is_one_clear_line(shards: Path) -> None:
    tar = shards / "shards" / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"00000\.tar: truncated"):
        index_of(shards)


def test_a_truncated_foreign_shard_is_one_clear_line(shards: Path) -> None:
    shutil.rmtree(shards / "shards" / "nothing", ignore_errors=True)
    (shards / "shards" / "00000.parquet").unlink()
    tar = shards / "shards" / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"00000\.tar"):
        index_of(shards)


def test_a_shard_of_another_size_than_the_manifests_is_refused(shards: Path) -> None:
    entries = [
        {"name": f"{i:05d}.tar", "samples": n, "bytes": (shards / "shards" / f"{i:05d}.tar").stat().st_size + i}
        for i, n in enumerate((5, 4))
    ]
    (shards / "shards" / "manifest.json").write_text(json.dumps({"version": 1, "shards": entries}))
    with pytest.raises(DataError, match=r"00001\.tar: \d+ bytes, but the manifest says"):
        index_of(shards)


@pytest.mark.parametrize("content", ["not json", "[]"])
def test_a_damaged_list_of_shards_is_one_clear_line(shards: Path, content: str) -> None:
    (shards / "shards" / "sizes.json").write_text(content)
    with pytest.raises(DataError, match=r"sizes\.json"):
        index_of(shards)


def test_an_empty_or_missing_directory_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such directory"):
        index_of(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no shards here"):
        index_of(tmp_path)
