"""Reading what the pipeline wrote: a changed bit is an error with the file's name, or changes nothing that is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import DamagedFileError
from pipeline.storage.atomic import read_sealed, sha256_of, write_sealed
from pipeline.storage.checked import (
    check,
    digest_of,
    load_vector,
    open_file,
    picture_hash,
    read_batches,
    read_part,
    read_range,
    read_row_groups,
    read_table,
)
from pipeline.storage.location import Location
from pipeline.storage.parquet import parquet_writer, save_vector

ROWS = 300
TABLE = pa.table(
    {
        "order": pa.array(range(ROWS), pa.uint64()),
        "caption": [f"caption {7 * i}" for i in range(ROWS)],
        "ids": pa.array([[i % 5, i % 7] for i in range(ROWS)], pa.list_(pa.int32())),
        "source": [f"file {i % 3}" for i in range(ROWS)],
        "p_en": pa.array(np.linspace(0, 1, ROWS), pa.float32()),
        "uid": pa.array([i.to_bytes(16, "little") for i in range(ROWS)], pa.binary(16)),
    }
)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checked") / "a.parquet"
    with parquet_writer(path, TABLE.schema) as writer:
        writer.write_table(TABLE, row_group_size=100)
    return path


def _whole(file: Location) -> pa.Table:
    return pa.Table.from_batches(read_batches(file))


def _columns(file: Location) -> pa.Table:
    return read_table(file, ["caption", "ids"])


def _range(file: Location) -> pa.Table:
    return read_part(file, [("order", ">=", 120), ("order", "<=", 140)])


def _groups(file: Location) -> pa.Table:
    return pa.concat_tables(read_row_groups(file, 1, 2))


READERS = [read_table, _whole, _columns, _range, _groups]


def test_readers_return_what_was_written(parquet: Path) -> None:
    file = Location(str(parquet), digest_of(parquet))
    assert read_table(file).equals(TABLE)
    assert _whole(file).equals(TABLE)
    assert _columns(file).equals(TABLE.select(["caption", "ids"]))
    assert _range(file).equals(TABLE.slice(120, 21))
    assert _groups(file).equals(TABLE.slice(100, 100))


@pytest.mark.parametrize("read", READERS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_parquet_file_is_an_error_or_was_not_read(
    parquet: Path, read: Callable[[Location], pa.Table], place: float, bit: int
) -> None:
    file = Location(str(parquet), digest_of(parquet))
    data, want = parquet.read_bytes(), read(file)
    damaged = bytearray(data)
    damaged[int(place * len(data))] ^= 1 << bit
    try:
        parquet.write_bytes(damaged)
        found = _read_or_path(read, file)
    finally:
        parquet.write_bytes(data)
    if read in (read_table, _whole):
        assert found == str(parquet)
    else:
        assert found == str(parquet) or want.equals(found)


def _read_or_path(read: Callable[[Location], pa.Table], file: Location) -> pa.Table | str:
    try:
        return read(file)
    except DamagedFileError as error:
        return error.path


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("left", [None, 0, 11, 2000])
def test_a_file_that_is_gone_or_cut_is_named(
    parquet: Path, tmp_path: Path, read: Callable[[Location], pa.Table], left: int | None
) -> None:
    path = tmp_path / "b.parquet"
    if left is not None:
        path.write_bytes(parquet.read_bytes()[:left])
    with pytest.raises(DamagedFileError, match=r"b\.parquet: damaged: ") as caught:
        read(Location(str(path), digest_of(parquet)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", READERS)
def test_a_file_of_an_earlier_version_is_held_against_its_sha256(
    tmp_path: Path, read: Callable[[Location], pa.Table]
) -> None:
    path = tmp_path / "old.parquet"
    pq.write_table(TABLE, path, row_group_size=100)  # without checksums of pages
    file = Location(str(path), sha256_of(path))
    want = read(file)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFileError):
        read(file)
    assert want.num_rows


def test_vectors_ranges_and_plain_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    save_vector(path, np.arange(50))
    file = Location(str(path), digest_of(path))
    assert load_vector(file).sum() == 1225
    assert check(file) == str(path)
    data = path.read_bytes()
    with open_file(path) as opened:
        assert read_range(opened, 5, 7, picture_hash(data[5:12])) == data[5:12]
        with pytest.raises(DamagedFileError, match="the 7 bytes at 6 are not those"):
            read_range(opened, 6, 7, picture_hash(data[5:12]))
        with pytest.raises(DamagedFileError, match="ends before byte"):
            read_range(opened, len(data) - 1, 2, None)
    path.write_bytes(data[:-1] + b"\1")
    with pytest.raises(DamagedFileError, match="not those that were written"):
        load_vector(file)
    with pytest.raises(DamagedFileError, match="No such file"):
        open_file(tmp_path / "none")


def test_only_parquet_has_a_digest_of_its_footer(parquet: Path, tmp_path: Path) -> None:
    assert len(digest_of(parquet)) == 48
    for data in (b"", b"PAR1", b"PAR1PAR1", b"PAR1" + b"\xff" * 8 + b"PAR1", b"x" * 100):
        (tmp_path / "a").write_bytes(data)
        assert len(digest_of(tmp_path / "a")) == 32


def test_a_sealed_file_is_whole_or_absent(tmp_path: Path) -> None:
    path, value = tmp_path / "a.json", {"b": [1, 2.5, None], "a": {"猫": "x"}}
    write_sealed(path, value)
    assert read_sealed(path) == value
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            found = read_sealed(path)  # a damaged space says the same, and so does a damaged name of the hash
            assert found is None or all(found[name] == value[name] for name in value)
    path.write_text('{"a": 1}')
    assert read_sealed(path) == {"a": 1}, "of an earlier version"
