"""The query list's file: it vouches for itself, and anyone may bring another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import OutputError, QueryListError
from pipeline.records.identity import text_hash
from pipeline.records.queries import content_fingerprint, query_list_of, read_queries, write_queries
from pipeline.records.schema import QUERIES


def test_a_written_list_reads_back(tmp_path: Path) -> None:
    made = query_list_of(["dog", "New York", "狗"])
    assert write_queries(made.table, tmp_path / "q.parquet") == made.fingerprint
    found = read_queries(tmp_path / "q.parquet")
    assert found.queries == ["dog", "New York", "狗"]
    assert found.fingerprint == made.fingerprint
    assert found.table.equals(made.table)
    assert found.query_hashes.dtype == np.uint64
    assert found.query_hashes.tolist() == [text_hash(query) for query in found.queries]


def test_equal_rows_give_equal_bytes_whatever_their_chunks(tmp_path: Path) -> None:
    table = query_list_of([f"query {i}" for i in range(1000)]).table
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 700), table.slice(701)])
    assert write_queries(table, tmp_path / "a.parquet") == write_queries(pieces, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize("column", QUERIES.names)
def test_fingerprint_covers_every_column(column: str) -> None:
    table = query_list_of(["dog", "cat"]).table
    at = table.column_names.index(column)
    field = table.schema.field(at)
    other = ["x", "y"] if pa.types.is_string(field.type) else [7, 8]
    changed = table.set_column(at, field, pa.array(other, field.type))
    assert content_fingerprint(changed) != content_fingerprint(table)


def test_null_and_zero_have_different_fingerprints() -> None:
    table = query_list_of(["dog"]).table
    zero = table.set_column(3, table.schema.field(3), pa.array([0], pa.int64()))
    assert content_fingerprint(zero) != content_fingerprint(table)


def test_a_changed_row_is_refused(tmp_path: Path) -> None:
    table = query_list_of(["dog", "cat"]).table
    write_queries(table, tmp_path / "q.parquet")
    metadata = pq.read_schema(tmp_path / "q.parquet").metadata
    other = table.set_column(1, table.schema.field(1), pa.array(["dog", "cow"]))
    pq.write_table(other.replace_schema_metadata(metadata), tmp_path / "q.parquet")
    with pytest.raises(QueryListError, match="build it again"):
        read_queries(tmp_path / "q.parquet")


def test_another_versions_columns_are_refused(tmp_path: Path) -> None:
    write_queries(query_list_of(["dog"]).table, tmp_path / "q.parquet")
    table = pq.read_table(tmp_path / "q.parquet")
    pq.write_table(table.drop_columns(["pmi"]), tmp_path / "q.parquet")
    with pytest.raises(QueryListError, match="columns"):
        read_queries(tmp_path / "q.parquet")


def test_own_text_file(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("\ufeffdog\n\n  New York \r\ndog\ncat", encoding="utf-8")
    assert read_queries(tmp_path / "q.txt").queries == ["dog", "New York", "cat"]


def test_own_table(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('group,query\na,"dog, wet"\nb,cat\nb,\n', encoding="utf-8")
    assert read_queries(tmp_path / "q.csv").queries == ["dog, wet", "cat"]
    pq.write_table(pa.table({"query": ["dog", None, "cat"], "more": [1, 2, 3]}), tmp_path / "q.parquet")
    assert read_queries(tmp_path / "q.parquet").queries == ["dog", "cat"]


def test_queries_are_the_text_that_they_are(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("query\n007\n2020\n1e5\ntrue\nNA\n\n2020-01-01\n")
    assert read_queries(tmp_path / "q.csv").queries == ["007", "2020", "1e5", "true", "NA", "2020-01-01"]
    (tmp_path / "q.txt").write_text("a\u2028b\rc\x0cd\r\ne\x85f\n", encoding="utf-8", newline="")
    assert read_queries(tmp_path / "q.txt").queries == ["a\u2028b", "c\x0cd", "e\x85f"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.string())])
def test_text_of_any_column_type_is_read_as_text(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(["dog", None, "żółw"]).cast(kind)
    pq.write_table(pa.table({"query": column}), tmp_path / "q.parquet", store_schema=kind != pa.binary())
    assert read_queries(tmp_path / "q.parquet").queries == ["dog", "żółw"]


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pa.array([7, 2020]), "holds int64, not text"),
        (pa.array([7.5, None]), "holds double, not text"),
        (pa.array([True]), "holds bool, not text"),
        (pa.array([["dog"]]), r"holds list<.*>, not text"),
        (pa.array([b"dog", b"caf\xe9"]), "row 1 is not UTF-8"),
        (
            pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xe9")),
            "row 0 is not UTF-8",
        ),
    ],
)
def test_column_that_is_no_text_is_refused(tmp_path: Path, column: pa.Array, told: str) -> None:
    pq.write_table(pa.table({"query": column}), tmp_path / "q.parquet")
    with pytest.raises(QueryListError, match=told):
        read_queries(tmp_path / "q.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.parquet", None, "query_list build"),
        ("q.parquet", b"no parquet", "cannot read"),
        ("q.txt", b"\xff\xfe\xfa", "line 1 is not UTF-8"),
        ("q.txt", b"dog\ncaf\xe9\nbeach\n", "line 2 is not UTF-8"),
        ("q.csv", b"query\ndog\ncaf\xe9\nbeach\n", "line 3 is not UTF-8"),
        ("q.csv", b"query,more\ndog,\xe9\n", "line 2 is not UTF-8"),
        ("q.csv", b"query,query\ndog,cat\n", "2 columns 'query'"),
        ("q.csv", b"more,query\n1,dog\n2\n", "line 3: has no field"),
        ("q.csv", b'query\n"dog" x\n', "line 2: "),
        ("q.csv", b'query\n"dog\ncat\n', "line 3: "),
        ("q.txt", b"\n \n", "holds no query"),
        ("q.csv", b"word\ndog\n", "no column 'query'"),
        ("q.json", b"[]", "a .parquet, .csv or .txt"),
    ],
)
def test_bad_files_are_named_with_a_remedy(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(QueryListError, match=message) as caught:
        read_queries(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_unwritable_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        write_queries(query_list_of(["dog"]).table, tmp_path / "file" / "q.parquet")
