"""pipeline/storage/bucket.py: what `pathlib` does for a disk, over a store that fails now and then."""

from __future__ import annotations

import errno
import io
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import DamagedFileError, InputError, OutputError
from pipeline.stages.extract.files import open_binary
from pipeline.storage.bucket import BucketPath, ConflictError
from pipeline.storage.checked import open_file, read_range
from pipeline.storage.place import Place, files_in, place_of
from pipeline.storage.store_client import StoreError
from tests.object_store.fault_proxy import Faults
from tests.object_store.fixtures import Bucket

EVERY_FAULT = {"500": 0.05, "503": 0.03, "slow": 0.02, "cut request": 0.03, "cut answer": 0.05, "lost answer": 0.04}


def root_of(bucket: Bucket) -> BucketPath:
    return BucketPath.of(bucket.url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://b/a/b/", "s3://b/a/b"),
        ("s3://b", "s3://b"),
        ("s3://b/", "s3://b"),
        ("gs://b/x//y", "gs://b/x/y"),
        ("az://b/./x", "az://b/x"),
    ],
)
def test_url_of_a_bucket_has_one_spelling(url: str, shown: str) -> None:
    assert str(place_of(url)) == shown


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "s3:///x", "s3:/b/x", "s3://b/../x", "s3://b/x?y=1", "s3://key:word@b/x", "http://h/x"]
)
def test_url_that_nothing_can_serve_is_one_clear_line(url: str) -> None:
    with pytest.raises(OutputError) as told:
        place_of(url)
    assert "\n" not in str(told.value)
    assert "word" not in str(told.value)


def test_names_are_those_of_a_path() -> None:
    ours, twin = BucketPath.of("s3://b/set/work/00000.facts.parquet"), Path("/b/set/work/00000.facts.parquet")
    for name in ("name", "stem", "suffix"):
        assert getattr(ours, name) == getattr(twin, name)
    assert ours.parent.name == "work"
    assert ours.relative_to(BucketPath.of("s3://b/set")) == "work/00000.facts.parquet"
    assert [str(p) for p in ours.parents][-1] == "s3://b"
    with pytest.raises(ValueError, match="inside"):
        ours.relative_to(BucketPath.of("s3://b/se"))


def test_a_bucket_holds_what_a_directory_would(bucket: Bucket, tmp_path: Path) -> None:
    there: list[Place] = [root_of(bucket) / "set", tmp_path / "set"]
    for place in there:
        for name in ("a.txt", "b.txt", "b.json", "deep/c.txt"):
            path = place / name
            if isinstance(path, Path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(name.encode())
            else:
                path.put(name.encode())
    for ask in (
        lambda place: [path.name for path in files_in(place, "*.txt")],
        lambda place: sorted(path.name for path in place.iterdir()),
        lambda place: (place.exists(), place.is_dir(), place.is_file(), place.is_symlink()),
        lambda place: ((place / "a.txt").is_dir(), (place / "a.txt").is_file(), (place / "no").exists()),
        lambda place: ((place / "b.json").read_text(), (place / "b.json").stat().st_size),
    ):
        ours, twin = (ask(place) for place in there)
        assert ours == twin
    (there[0] / "a.txt").unlink()
    (there[0] / "a.txt").unlink(missing_ok=True)
    for gone in (there[0] / "a.txt", there[1] / "no"):
        with pytest.raises(FileNotFoundError):
            gone.read_bytes()


def test_opened_object_seeks_and_reads_as_a_file(bucket: Bucket) -> None:
    data = os.urandom(100_000)
    path = root_of(bucket) / "x"
    path.put(data)
    with path.open() as file:
        assert file.seek(0, os.SEEK_END) == len(data)
        assert file.seek(-10, os.SEEK_END) == len(data) - 10
        assert file.read() == data[-10:]
        file.seek(5)
        assert file.read(7) == data[5:12]
        assert file.tell() == 12
    assert path.read_ranges([(0, 3), (50, 0), (99_990, 10)]) == [data[:3], b"", data[-10:]]
    assert b"".join(path.stream()) == data


def test_ranges_of_an_object_that_ends_before_are_what_there_is(bucket: Bucket) -> None:
    path = root_of(bucket) / "short"
    for content in (b"0123456789", b""):
        path.put(content)
        ranges = [(0, 4), (8, 4), (10, 1), (20, 5), (3, 0)]
        assert path.read_ranges(ranges) == [content[start : start + size] for start, size in ranges]
        with pytest.raises(DamagedFileError, match="ends before byte 12"), open_file(path) as file:
            read_range(file, 8, 4, None)
    path.put(bytes(range(256)) * 20_000)
    far = [(5_000_000, 9), (0, 3), (2, 4), (2_600_000, 300), (5_119_999, 2)]
    assert path.read_ranges(far) == [(bytes(range(256)) * 20_000)[start : start + size] for start, size in far]


@pytest.mark.parametrize("seed", range(3))
def test_faults_change_nothing_but_the_time(bucket: Bucket, seed: int, tmp_path: Path) -> None:
    root, file = root_of(bucket) / "x", tmp_path / "big"
    big = os.urandom(17 << 20)  # in parts
    file.write_bytes(big)
    bucket.proxy.faults = Faults(shares=EVERY_FAULT, seed=seed, slow_s=0.05)
    (root / "big").put(file)
    for number in range(20):
        (root / f"{number:02d}").put(str(number).encode())
    (root / "03").copy(root / "copy")
    BucketPath.remove([root / "05", root / "06"])
    assert [path.name for path, _ in root.walk()] == sorted(
        {*(f"{n:02d}" for n in range(20)), "copy", "big"} - {"05", "06"}
    )
    assert (root / "copy").read_bytes() == b"3"
    assert b"".join((root / "big").stream()) == big
    assert (root / "big").read_ranges([(5, 9), (16 << 20, 4)]) == [big[5:14], big[16 << 20 :][:4]]
    assert not (root / "05").exists()
    assert bucket.proxy.fault_counts()


def test_of_two_who_put_one_wins_whatever_answers_are_lost(bucket: Bucket) -> None:
    for number in range(8):
        path = root_of(bucket) / f"lock-{number}"
        bucket.proxy.once("lost answer", "PUT", path.key)
        tag = path.put_new(b"ours")
        with pytest.raises(ConflictError):
            path.put_new(b"theirs")
        bucket.proxy.once("cut answer", "PUT", path.key)
        later = path.put_over(b"ours again", tag)
        with pytest.raises(ConflictError):
            path.put_over(b"theirs", tag)
        assert path.read_tagged() == (b"ours again", later)


def test_put_over_what_is_gone_is_a_conflict(bucket: Bucket) -> None:
    path = root_of(bucket) / "x"
    tag = path.put_new(b"1")
    path.unlink()
    with pytest.raises(ConflictError):
        path.put_over(b"2", tag)


def test_object_that_is_too_large_for_the_store_to_copy_arrives(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore
    from obstore.exceptions import GenericError

    def refuse(*_: object) -> None:
        raise GenericError("the copy source is larger than the maximum allowable size")

    path = root_of(bucket) / "large"
    path.put(data := os.urandom(20 << 20))
    monkeypatch.setattr(obstore, "copy", refuse)
    with pytest.raises(StoreError, match="larger"):
        path.copy(root_of(bucket) / "copy")
    monkeypatch.setattr("pipeline.storage.bucket._MOST_COPIED_BYTES", 10 << 20)
    with monkeypatch.context() as fails:
        fails.setattr(BucketPath, "stream", cut_stream)
        with pytest.raises(OSError, match="a cut"):
            path.copy(root_of(bucket) / "copy")
    assert not (root_of(bucket) / "copy").exists()
    path.copy(root_of(bucket) / "copy")
    assert (root_of(bucket) / "copy").read_bytes() == data


def cut_stream(path: BucketPath) -> Iterator[bytes]:
    yield bytes(17 << 20)
    raise OSError(errno.EIO, "a cut")


def test_what_is_not_there_is_removed_from_a_store_that_minds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's and Azure's stores say of an object that it is not there; so does this one, of a disk."""
    from obstore.store import LocalStore

    monkeypatch.setattr("pipeline.storage.bucket.store_of", lambda bucket: LocalStore(tmp_path))
    root = BucketPath.of("gs://b")
    for name in ("a", "b", "c"):
        (root / name).put(b"x")
    (root / "no").unlink()
    BucketPath.remove([root / name for name in ("no", "a", "neither", "b")])
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_put_that_meets_another_in_the_store_is_tried_again(bucket: Bucket) -> None:
    path = root_of(bucket) / "x"
    bucket.proxy.once("409", "PUT", "x")
    path.put_new(b"1")
    assert path.read_bytes() == b"1"


def test_store_that_cannot_compare_is_told(bucket: Bucket) -> None:
    assert (root_of(bucket) / "probe").can_compare()
    bucket.proxy.faults = Faults(shares={"cut answer": 0.2}, methods=("PUT",))
    for number in range(10):
        assert (root_of(bucket) / f"spoilt-{number}").can_compare()
    bucket.proxy.faults = Faults()
    bucket.proxy.conditional_puts = False
    assert not (root_of(bucket) / "probe-2").can_compare()


def test_bucket_that_is_not_there_is_no_missing_file(bucket: Bucket) -> None:
    nowhere = BucketPath.of("s3://no-such-bucket/x")
    for ask in (nowhere.read_bytes, nowhere.is_dir, lambda: nowhere.put(b"")):
        with pytest.raises(StoreError, match="bucket") as told:
            ask()
        assert told.value.errno == errno.EACCES


@pytest.mark.slow
def test_store_that_is_gone_is_one_line_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    began = time.monotonic()
    with pytest.raises(StoreError) as told:
        BucketPath.of("s3://gone/x").read_bytes()
    assert time.monotonic() - began < 60
    assert "\n" not in str(told.value)
    assert "key" not in str(told.value)


def test_a_file_costs_a_request_for_its_end_and_one_for_what_lies_before(bucket: Bucket) -> None:
    data = random.Random(5).randbytes(3 << 20)
    path, empty = BucketPath.of(f"{bucket.url}/a.bin"), BucketPath.of(f"{bucket.url}/empty")
    path.put(data)
    empty.put(b"")
    bucket.proxy.forget()
    with path.open() as file:
        assert file.seek(-8, 2) == len(data) - 8
        assert file.read() == data[-8:]
        file.seek(-(200 << 10), 2)
        assert file.read(100 << 10) == data[-(200 << 10) : -(100 << 10)]
        assert bucket.proxy.counts() == {"GET": 1}
        file.seek(5)
        assert [file.read(10), file.read(1 << 19)] == [data[5:15], data[15 : 15 + (1 << 19)]]
        assert bucket.proxy.counts() == {"GET": 2}
        file.seek(1)
        assert file.read() == data[1:]
        assert file.read(1) == b""
    for name, content in (("a.bin", data), ("empty", b"")):
        with BucketPath.of(f"{bucket.url}/{name}").open() as file:
            assert io.BufferedReader(file).read() == content
            assert file.read(3) == b""
    with path.open() as file:
        assert file.read(3) == data[:3]
        path.put(bytes(3 << 20))
        file.seek(2 << 20)
        with pytest.raises(StoreError, match="was replaced while it was read"):
            file.read(3)


@pytest.mark.slow
def test_silence_of_a_store_says_nothing_of_a_source(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would count as unreadable, and a minute's outage would cost a crawl its sources."""
    source = f"{bucket.url}/a.jsonl"
    BucketPath.of(source).put(b"{}")
    monkeypatch.setattr("pipeline.storage.store_client.TRIES", 1)
    bucket.proxy.faults = Faults(shares={"503": 1.0})
    with pytest.raises(StoreError):
        open_binary(source)
    bucket.proxy.faults = Faults()
    with pytest.raises(InputError, match="no such file"):
        open_binary(f"{bucket.url}/b.jsonl")
    with open_binary(source) as file:
        assert file.read() == b"{}"
