"""Reading where samples lie, from what the pipeline and other tools write."""

from __future__ import annotations

import io
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
from training.data.index import write_index
from training.data.rows import read_rows
from training.data.shards import Shard
from training.data.tar_headers import _lean, members
from training.errors import DataError


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


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_are_read_as_tarfile_reads_them(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.tar"
    names = ["a.jpg", "ü/犬.txt", f"{'long/' * 18}{'name' * 15}.jpg", "x" * 99, "y" * 100, ".hidden", "a.b.c"]
    if kind != tarfile.USTAR_FORMAT:
        names += ["z" * 101, "/".join(["deep"] * 80)]
    with tarfile.open(path, "w", format=kind) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = number * 300
            info.mtime = 1.5 if kind == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(bytes(info.size)))
            for other in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE):
                info = tarfile.TarInfo(f"other-{number}")
                info.type, info.linkname = other, "a.jpg"
                tar.addfile(info)
    with tarfile.open(path) as tar:
        theirs = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    assert list(members(path)) == theirs
    assert list(_lean(path)) == theirs, "without tarfile's help"


@pytest.mark.parametrize("at", [0, 100, 124, 148, 156, 512, 700])
def test_a_damaged_header_is_left_to_tarfile(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.jpg", "b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 600
            tar.addfile(info, io.BytesIO(b"x" * 600))
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    try:
        with tarfile.open(path, "r:") as tar:
            theirs = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    except tarfile.TarError:
        with pytest.raises(DataError, match=r"a\.tar: not a readable tar"):
            list(members(path))
    else:
        assert list(members(path)) == theirs


def test_many_shards_are_read_by_processes_to_the_same_index(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = write_index(shards, root=tmp_path / "alone")
    monkeypatch.setattr("training.data.index._MANY_SHARDS", 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    told: list[tuple[int, int]] = []
    together = write_index(shards, root=tmp_path / "together", tell=lambda *numbers: told.append(numbers))
    assert together.fingerprint == alone.fingerprint
    assert together.captions.tobytes() == alone.captions.tobytes()
    assert told == [(number + 1, len(alone.paths)) for number in range(len(alone.paths))]
    tar = shards / "shards" / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"00001\.tar: truncated"):
        write_index(shards, root=tmp_path / "together")


def test_captions_lose_white_space_of_every_kind_at_their_ends(shards: Path) -> None:
    path = shards / "shards" / "00000.parquet"
    rows = pq.read_table(path)
    captions = rows["caption"].to_pylist()
    captions[:3] = ["\u3000a dog\u2003", "\x1f\x85", "a\u2028b"]
    pq.write_table(rows.set_column(1, "caption", pa.array(captions)), path)
    index = index_of(shards)
    assert [index.caption(i) for i in range(2)] == ["a dog", "a\u2028b"]
    assert index.num_without_text == 1


def _foreign(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("at", [0, 100, 124, 148, 156])
@pytest.mark.parametrize("member", [1, 2, 3])
def test_a_header_that_cannot_be_read_is_no_end(tmp_path: Path, at: int, member: int) -> None:
    """tarfile stops there without a word, and all samples behind it would be lost."""
    names = ["0.jpg", "0.txt", "1.jpg", "1.txt"]
    path = _foreign(tmp_path / "d" / "a.tar", [(name, b"x") for name in names])
    data = bytearray(path.read_bytes())
    data[member * 1024 + at] ^= 0x11
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.tar: not a readable tar \(no header at byte {member * 1024}\)"):
        list(members(path))


def test_every_member_of_a_foreign_tar_is_a_sample_or_counted(tmp_path: Path) -> None:
    rows = [("0.jpg", b"a"), ("0.txt", b"first"), ("0.jpg", b"b"), ("0.txt", b"second")]
    rows += [("1.jpg", b"c"), ("1.JPG", b"d"), ("1.txt", b"third"), ("2.jpg", b""), ("2.txt", b"fourth")]
    tar = _foreign(tmp_path / "d" / "a.tar", rows)
    read = read_rows(Shard(path=tar, samples=None, sha256=None, num_bytes=tar.stat().st_size))
    assert read.captions == b"firstsecondthird"
    assert [int(offset) // 1024 for offset in read.offset] == [0, 2, 5]
    assert (read.num_without_text, read.num_without_image) == (1, 1)
