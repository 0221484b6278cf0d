"""Extraction from tables."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from configs.load import from_mapping
from pipeline.errors import InputError
from pipeline.records.identity import canonical_url, uid_of
from pipeline.records.outcome import Outcome
from pipeline.records.schema import CANDIDATES
from pipeline.stages.extract import ExtractConfig, extract
from pipeline.stages.extract.batch import LinkBatch
from pipeline.web.urls import resolver

_ROWS = [
    {"url": "http://h/1.jpg", "caption": 'A "quoted" dog,\nwith a line break'},
    {"url": "http://h/2.jpg", "caption": "żółw &amp; 犬"},
    {"url": "http://h/3.jpg", "caption": ""},
    {"url": "data:image/png;base64,AA", "caption": "inline"},
    {"url": "not a url", "caption": "relative"},
]


def _extract(path: Path, config: ExtractConfig | None = None) -> list[Outcome]:
    outcomes = list(extract(str(path), config or ExtractConfig()))
    for outcome in outcomes:
        outcome.kept.validate(full=True)
        assert outcome.kept.schema == CANDIDATES
        link_rejections = sum(link is not None for link in outcome.rejected["link"].to_pylist())
        assert outcome.num_in == outcome.kept.num_rows + link_rejections
    return outcomes


def _kept(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    return [row for outcome in outcomes for row in outcome.kept.to_pylist()]


def _rejected(outcomes: list[Outcome]) -> list[tuple[int | None, int | None, str]]:
    return [(row["record"], row["link"], row["reason"]) for outcome in outcomes for row in outcome.rejected.to_pylist()]


def _separated(rows: list[dict[str, str]], delimiter: str) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["url", "caption"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    if ".parquet" in name:
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    data = _json_lines(rows) if ".jsonl" in name else _separated(rows, "," if ".csv" in name else "\t")
    if name.endswith(".gz"):
        data = gzip.compress(data)
    if name.endswith(".zst"):
        data = zstandard.compress(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "a.parquet",
        "a.csv",
        "a.csv.gz",
        "a.csv.zst",
        "a.tsv",
        "a.tsv.gz",
        "a.jsonl",
        "a.jsonl.gz",
        "a.jsonl.zst",
        "a.ndjson.gz",
    ],
)
def test_every_format_gives_the_same_candidates(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name.replace("ndjson", "jsonl"), _ROWS)
    if "ndjson" in name:
        path = path.rename(tmp_path / name)
    outcomes = _extract(path, ExtractConfig(tsv_quoting=True))
    rows = _kept(outcomes)
    assert [(row["url"], row["alt_text"], row["record"], row["link"]) for row in rows] == [
        ("http://h/1.jpg", _ROWS[0]["caption"], 0, 0),
        ("http://h/2.jpg", _ROWS[1]["caption"], 1, 0),
    ]
    assert rows[0]["uid"] == uid_of(canonical_url("http://h/1.jpg"), "alt", _ROWS[0]["caption"])
    assert rows[0]["page_url"] is None
    assert _rejected(outcomes) == [(2, 0, "no_text"), (3, 0, "not_http"), (4, 0, "bad_url")]
    assert sum(outcome.num_records for outcome in outcomes) == 5


def test_columns_are_chosen_by_config(tmp_path: Path) -> None:
    rows = [{"id": 1, "U": "http://h/1", "T": "text", "P": "http://h/", "L": "CC0", "n": None}]
    config = ExtractConfig(
        url_columns=("nope", "U"), text_columns=("T",), page_url_columns=("P",), license_columns=("L",)
    )
    for name in ("a.parquet", "a.jsonl"):
        (row,) = _kept(_extract(_write(tmp_path, name, rows), config))
        assert (row["url"], row["alt_text"], row["page_url"], row["license"]) == (
            "http://h/1",
            "text",
            "http://h/",
            "CC0",
        )


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl"])
def test_missing_column_is_an_input_error(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name, [{"url": "http://h/1", "caption": "t"}])
    with pytest.raises(InputError, match=r"words|usable"):
        _extract(path, ExtractConfig(text_columns=("words",)))


def test_tsv_without_header_and_without_quoting(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('A "dog\thttp://h/1\n"cat" here\thttp://h/2\n')
    rows = _kept(_extract(path, ExtractConfig(column_names=("caption", "url"))))
    assert [row["alt_text"] for row in rows] == ['A "dog', '"cat" here']


@pytest.mark.parametrize("header", ["url,caption\n", "\ufeffurl,caption\r\n", '"url","caption"\n'])
def test_header_variants(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(header + "http://h/1,t\n", encoding="utf-8")
    assert len(_kept(_extract(path))) == 1


def test_stray_quote_costs_one_row(tmp_path: Path) -> None:
    lines = ["url,caption", 'http://h/0,"never closed', *[f"http://h/{i},text {i}" for i in range(1, 3000)]]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines))
    outcomes = _extract(path)
    assert len(_kept(outcomes)) == 2999
    assert _rejected(outcomes) == [(0, None, "bad_record")]


def test_bad_rows_are_counted_and_the_rest_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'url,caption\nhttp://h/0,t\nhttp://h/1\nhttp://h/2,a,b\nhttp://h/3,\xff\n\nhttp://h/4,"open\nhttp://h/5,'
        + b"x" * 2000
        + b"\nhttp://h/6,t"
    )
    outcomes = _extract(path, ExtractConfig(max_record_bytes=1000))
    assert [row["url"] for row in _kept(outcomes)] == ["http://h/0", "http://h/6"]
    assert _rejected(outcomes) == [
        (1, None, "bad_record"),
        (2, None, "bad_record"),
        (3, None, "bad_record"),
        (4, None, "bad_record"),
        (5, None, "oversized_record"),
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"url": "http://h/0", "caption": "t"}\n{"url": \nnull\n3\n[]\n{"url": 3, "caption": "t"}\n'
        + b'{"caption": "\xff"}\n'
        + b'{"x": ' * 5000
        + b"\n\n"
        + b'{"url": "'
        + b"x" * 40_000
        + b'"}\n{"caption": "t", "url": "http://h/8", "extra": {"a": [1]}}\n{"caption": "no url"}\n{"url": "http://h/9"}'
    )
    outcomes = _extract(path, ExtractConfig(max_record_bytes=35_000))
    assert [row["url"] for row in _kept(outcomes)] == ["http://h/0", "http://h/8"]
    assert _rejected(outcomes) == [
        *[(i, None, "bad_record") for i in range(1, 8)],
        (8, None, "oversized_record"),
        (10, 0, "bad_url"),
        (11, 0, "no_text"),
    ]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.jsonl.zst", "a.tsv.zst"])
def test_cut_compressed_table_keeps_what_came_before(tmp_path: Path, name: str) -> None:
    # Texts that do not compress, so that a cut stream still holds whole blocks.
    rows = [{"url": f"http://h/{i}", "caption": uid_of(str(i), "alt", "").hex() * 20} for i in range(10_000)]
    path = _write(tmp_path, name, rows)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    outcomes = _extract(path)
    found = [row["url"] for row in _kept(outcomes)]
    assert 0 < len(found) < 10_000
    assert found == [row["url"] for row in rows[: len(found)]]
    assert _rejected(outcomes) == [(None, None, "truncated_file")]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.csv.gz"])
def test_empty_file_and_noise_are_input_errors(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content in (b"", b"\x00\x01\x02 noise\n\xff\xfe", b"\x1f\x8b\x08broken"):
        path.write_bytes(content)
        with pytest.raises(InputError):
            _extract(path)


def test_truncated_parquet_is_an_input_error(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.parquet", _ROWS)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="its end is missing"):
        _extract(path)


def test_damaged_row_group_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"url": f"http://h/{i}", "caption": f"text {i}"} for i in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10, compression="zstd")
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(bytes(data))
    outcomes = _extract(path)
    assert [row["record"] for row in _kept(outcomes)] == [*range(10), *range(20, 30)]
    assert _rejected(outcomes) == [(row, None, "bad_record") for row in range(10, 20)], "every lost row is counted"
    assert sum(outcome.num_records for outcome in outcomes) == 30


def test_parquet_bytes_that_are_not_text_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table(
        {"url": pa.array([b"http://h/1", b"http://h/2", None]), "caption": pa.array([b"t", b"\xff", b"t"])}
    )
    pq.write_table(table, path)
    outcomes = _extract(path)
    assert [row["url"] for row in _kept(outcomes)] == ["http://h/1"]
    assert _rejected(outcomes) == [(1, None, "bad_record"), (2, 0, "bad_url")]


_LISTS = {"url": ["http://h/1", "http://h/2", "http://h/3"], "caption": [["a cat", "", "cat"], [], None]}


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), None])
def test_list_of_captions_is_a_link_for_each(tmp_path: Path, kind: pa.DataType | None) -> None:
    rows = [dict(zip(_LISTS, row, strict=True)) for row in zip(*_LISTS.values(), strict=True)]
    if kind is None:
        path = _write(tmp_path, "a.jsonl", rows)
    else:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"url": _LISTS["url"], "caption": pa.array(_LISTS["caption"], kind)}), path)
    outcomes = _extract(path)
    assert [(row["record"], row["link"], row["alt_text"]) for row in _kept(outcomes)] == [
        (0, 0, "a cat"),
        (0, 2, "cat"),
    ]
    assert _rejected(outcomes) == [(0, 1, "no_text"), (1, 0, "no_text"), (2, 0, "no_text")]
    assert sum(outcome.num_records for outcome in outcomes) == 3
    assert sum(outcome.num_in for outcome in outcomes) == 5


def test_lists_of_fixed_size_and_a_dictionarys_texts_are_read(tmp_path: Path) -> None:
    captions = pa.array([["a", "b"], ["c", None]], pa.list_(pa.string(), 2))
    table = pa.table({"url": pa.array(["http://h/1", "http://h/2"]).dictionary_encode(), "caption": captions})
    pq.write_table(table, tmp_path / "a.parquet")
    outcomes = _extract(tmp_path / "a.parquet")
    assert [row["alt_text"] for row in _kept(outcomes)] == ["a", "b", "c"]
    assert _rejected(outcomes) == [(1, 1, "no_text")]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([7, None]), ["7"]),
        (pa.array([1.5, float("nan")]), ["1.5"]),
        (pa.array([np.float16(1.5), None], pa.float16()), ["1.5"]),
        (pa.nulls(2), []),
        (pa.array([b"ab", b"cd"], pa.binary(2)), ["ab", "cd"]),
        (pa.array(["a", None], pa.large_string()), ["a"]),
    ],
)
def test_captions_of_other_types_are_read_as_they_would_be_written(
    tmp_path: Path, values: pa.Array, texts: list[str]
) -> None:
    pq.write_table(pa.table({"url": ["http://h/1", "http://h/2"], "caption": values}), tmp_path / "a.parquet")
    outcomes = _extract(tmp_path / "a.parquet")
    assert [row["alt_text"] for row in _kept(outcomes)] == texts
    assert len(_rejected(outcomes)) == 2 - len(texts)


@pytest.mark.parametrize(
    ("name", "values", "option"),
    [
        ("caption", pa.array([{"en": "a"}]), "text_columns"),
        ("caption", pa.array([[("en", "a")]], pa.map_(pa.string(), pa.string())), "text_columns"),
        ("caption", pa.array([True]), "text_columns"),
        ("caption", pa.array([[["a"]]]), "text_columns"),
        ("url", pa.array([["http://h/1"]]), "url_columns"),
        ("url", pa.array([7]), "url_columns"),
        ("license", pa.array([{"name": "CC0"}]), "license_columns"),
        ("page_url", pa.array([["http://h/"]]), "page_url_columns"),
    ],
)
def test_column_whose_type_holds_no_text_is_an_input_error(
    tmp_path: Path, name: str, values: pa.Array, option: str
) -> None:
    columns = {"url": pa.array(["http://h/1"]), "caption": pa.array(["a"]), name: values}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=rf"a\.parquet: the column {name} is of .*set extract\.{option}"):
        _extract(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_doubled_column_is_an_input_error_where_it_is_read(tmp_path: Path, name: str) -> None:
    names = ["url", "caption", "n", "caption", "n"]
    path = tmp_path / name
    if name == "a.csv":
        path.write_text(f"{','.join(names)}\nhttp://h/1,a,1,b,2\n")
    else:
        pq.write_table(pa.Table.from_arrays([pa.array([f"http://h/{i}"]) for i in range(5)], names=names), path)
    with pytest.raises(InputError, match="2 columns are named caption; rename all but one"):
        _extract(path)
    with pytest.raises(InputError, match="2 columns are named n"):
        _extract(path, ExtractConfig(text_columns=("url",), extra_columns=("n",)))
    assert len(_kept(_extract(path, ExtractConfig(text_columns=("url",))))) == 1, "what nobody reads may be doubled"


def test_fields_that_nobody_reads_cost_no_json_line(tmp_path: Path) -> None:
    lines = [
        b'{"url": "http://h/0", "caption": "a", "s": NaN}',
        b'{"url": "http://h/1", "caption": "b", "s": -Infinity}',
        b'{"url": "http://h/2", "caption": "c", "s": "\\ud800"}',
        b'{"url": "http://h/3", "caption": "d", "s": "\xff"}',
        b'{"url": "http://h/4", "caption": 1984, "s": 1}',
        b'{"url": "http://h/5", "caption": "e", "text": {"not": "read"}, "license": 7}',
        b'{"url": "http://h/6", "caption": NaN}',
        b'{"url": "http://h/7", "caption": "half \\ud800"}',
        b'{"url": "http://h/8", "caption": true}',
        b'{"url": "http://h/9", "caption": ["f", 2]}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    outcomes = _extract(path, ExtractConfig(extra_columns=("s",)))
    assert [row["alt_text"] for row in _kept(outcomes)] == ["a", "b", "c", "d", "1984", "e", "f", "2"]
    assert [json.loads(row["extra"]) for row in _kept(outcomes)][:5] == [
        {"s": None},
        {"s": None},
        {"s": "\ufffd"},
        {"s": "\ufffd"},
        {"s": 1},
    ]
    assert _rejected(outcomes) == [(6, 0, "no_text"), (7, None, "bad_record"), (8, None, "bad_record")]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("stray", [b"\r\n", b"a \x1f\x8b\x08 b \x28\xb5\x2f\xfd", b"\x1f\x8b", b"\x28\xb5"])
def test_bytes_behind_the_packed_data_lose_no_row(tmp_path: Path, pack: Callable[[bytes], bytes], stray: bytes) -> None:
    rows = [{"url": f"http://h/{i}", "caption": uid_of(str(i), "alt", "").hex()} for i in range(3000)]
    one, two = (pack(_json_lines(part)) for part in (rows[:1500], rows[1500:]))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(one + stray + two + stray)
    outcomes = _extract(path)
    assert [row["record"] for row in _kept(outcomes)] == [*range(3000)]
    assert _rejected(outcomes) == [(None, None, "bad_record")]
    assert f"{2 * len(stray)} bytes outside" in outcomes[-1].rejected["detail"][-1].as_py()
    assert sum(outcome.num_records for outcome in outcomes) == 3001


def test_padding_and_frames_to_be_skipped_are_no_strays(tmp_path: Path) -> None:
    rows = _json_lines([{"url": "http://h/1", "caption": "a"}])
    skipped = b"\x5e\x2a\x4d\x18" + (70_000).to_bytes(4, "little") + b"x" * 70_000
    for data in (gzip.compress(rows) + b"\0" * 1000, skipped + zstandard.compress(rows) + skipped):
        (tmp_path / "a.jsonl").write_bytes(data)
        assert _rejected(_extract(tmp_path / "a.jsonl")) == []


def test_quotes_that_spark_escaped_are_read_when_asked_for_and_never_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        'url,caption\nhttp://h/0,"a \\"big\\" dog"\nhttp://h/1,"a \\"big\\" cat, wet"\nhttp://h/2,"a ""b"""\n'
    )
    outcomes = _extract(path)
    assert [row["alt_text"] for row in _kept(outcomes)] == ['a "b"']
    assert _rejected(outcomes) == [(0, None, "bad_record"), (1, None, "bad_record")]
    assert "extract.csv_escape" in outcomes[0].rejected["detail"][0].as_py()
    escaped = _kept(_extract(path, ExtractConfig(csv_escape="\\")))
    assert [row["alt_text"] for row in escaped] == ['a "big" dog', 'a "big" cat, wet', 'a "b"']


def test_backslash_before_neither_a_quote_nor_a_backslash_is_text(tmp_path: Path) -> None:
    """As Spark writes it and reads it: only a quote, or what stands for the escape itself, is escaped."""
    path = tmp_path / "a.csv"
    captions = ['"C:\\new \\"x\\""', '"two \\\\ of"', "C:\\new", '"a\\\nb"', '"\\\\\\"q"', "end\\"]
    path.write_text("url,caption\n" + "".join(f"http://h/{n},{text}\n" for n, text in enumerate(captions)))
    rows = _kept(_extract(path, ExtractConfig(csv_escape="\\")))
    assert [row["alt_text"] for row in rows] == [
        'C:\\new "x"',
        "two \\ of",
        "C:\\new",
        "a\\\nb",
        '\\"q',
        "end\\",
    ]


_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=20)


@given(st.lists(_TEXT, min_size=1, max_size=8))
def test_texts_survive_csv_and_json(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("tables")
    rows = [{"url": f"http://h/{i}", "caption": text} for i, text in enumerate(texts)]
    for name in ("a.csv", "a.jsonl.zst"):
        assert [row["alt_text"] for row in _kept(_extract(_write(folder, name, rows)))] == texts


@pytest.mark.slow
def test_hundred_megabyte_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    row = b'{"url": "http://h/1", "caption": "t"}\n'
    path.write_bytes(gzip.compress(row + b'{"caption": "' + b"x" * 100_000_000 + b'"}\n' + row, 1))
    outcomes = _extract(path)
    assert len(_kept(outcomes)) == 2
    assert _rejected(outcomes) == [(1, None, "oversized_record")]


@pytest.mark.parametrize(
    ("preset", "name", "row"),
    [
        (
            "from_laion",
            "a.parquet",
            {"SAMPLE_ID": 1, "URL": "http://h/1", "TEXT": "t", "LICENSE": "?", "NSFW": "UNLIKELY"},
        ),
        ("from_coyo", "a.parquet", {"id": 1, "url": "http://h/1", "text": "t", "width": 5}),
        ("from_datacomp", "a.parquet", {"uid": "x", "url": "http://h/1", "text": "t", "sha256": "y"}),
        ("from_img2dataset", "a.parquet", {"url": "http://h/1", "key": "0", "caption": "t", "status": "success"}),
        ("from_cc12m", "a.tsv", None),
    ],
)
def test_presets_read_the_published_layouts(tmp_path: Path, preset: str, name: str, row: dict[str, Any] | None) -> None:
    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / "shards" / f"{preset}.yaml").read_text())
    path = tmp_path / name
    if row is None:
        path.write_text('http://h/1\tt\nhttp://h/2\ta "quoted\n')
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    rows = _kept(_extract(path, from_mapping(ExtractConfig, config["extract"])))
    assert (rows[0]["url"], rows[0]["alt_text"]) == ("http://h/1", "t")
    assert len(rows) == (2 if row is None else 1)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz"])
def test_other_columns_are_carried_along_as_json(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [
        {"url": "http://h/1", "caption": "a", "score": 0.25, "id": 2**53 + 1, "tags": ["x", "ü"], "note": None},
        {"url": "http://h/2", "caption": "", "score": 1.0, "id": 7, "tags": [], "note": "n"},
        {"url": "http://h/3", "caption": "c", "score": 0.5, "id": 8, "tags": [], "note": 'q"'},
    ]
    path = _write(tmp_path, name, rows)
    assert [row["extra"] for row in _kept(_extract(path))] == [None, None]
    named = _kept(_extract(path, ExtractConfig(extra_columns=("id", "tags"))))
    assert [json.loads(row["extra"]) for row in named] == [{"id": 2**53 + 1, "tags": ["x", "ü"]}, {"id": 8, "tags": []}]
    others = _kept(_extract(path, ExtractConfig(extra_columns=("*",))))
    assert [json.loads(row["extra"]) for row in others] == [
        {name: value for name, value in row.items() if name not in ("url", "caption")} for row in (rows[0], rows[2])
    ]


def test_other_columns_of_separated_values_are_strings(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('n,url,caption,m\n1,http://h/1,a,"x ""y"""\n2,bad,b,\n3,http://h/3,c,\n')
    rows = _kept(_extract(path, ExtractConfig(extra_columns=("m", "n"))))
    assert [row["extra"] for row in rows] == ['{"m":"x \\"y\\"","n":"1"}', '{"m":"","n":"3"}']


def test_value_that_python_lacks_costs_only_itself(tmp_path: Path) -> None:
    """Dates behind the year 9999 come from sentinels such as "infinity"; a list may claim text and hold other bytes."""
    not_text = pa.array([[b"fine"], [b"\xff"], [b"fine"]], pa.list_(pa.binary())).view(pa.list_(pa.string()))
    table = {
        "url": [f"http://h/{n}" for n in range(3)],
        "caption": ["a", "b", "c"],
        "day": pa.array([0, 2**31 - 1, 1], pa.date32()),
        "time": pa.array([0, 10**12, 1], pa.timestamp("s")),
        "tags": not_text,
        "n": [1, 2, 3],
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(table), path)
    rows = [json.loads(row["extra"]) for row in _kept(_extract(path, ExtractConfig(extra_columns=("*",))))]
    assert [row["n"] for row in rows] == [1, 2, 3]
    assert [row["day"] for row in rows] == ["1970-01-01", None, "1970-01-02"]
    assert [row["time"] is None for row in rows] == [False, True, False]
    assert [row["tags"] for row in rows] == [["fine"], None, ["fine"]]


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_missing_other_column_is_an_input_error(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name, [{"url": "http://h/1", "caption": "t"}])
    with pytest.raises(InputError, match=r"no column named scores.*extra_columns"):
        _extract(path, ExtractConfig(extra_columns=("scores",)))


def test_field_that_a_json_line_lacks_is_left_out_of_its_extra(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"url": "http://h/1", "caption": "a", "n": 1e2}\n{"url": "http://h/2", "caption": "b"}\n')
    rows = _kept(_extract(path, ExtractConfig(extra_columns=("n",))))
    assert [row["extra"] for row in rows] == ['{"n":1e2}', "{}"]


def test_row_with_an_unusable_url_takes_its_extra_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    urls = ["http://h/1", "http://h:99999/", "http://[x", "http://h/4"]
    path.write_bytes(_json_lines([{"url": url, "caption": "a", "n": n} for n, url in enumerate(urls)]))
    outcomes = _extract(path, ExtractConfig(extra_columns=("n",)))
    assert [(row["url"], row["extra"]) for row in _kept(outcomes)] == [(urls[0], '{"n":0}'), (urls[3], '{"n":3}')]
    assert _rejected(outcomes) == [(1, 0, "bad_url"), (2, 0, "bad_url")]


@given(st.lists(st.sampled_from(["http://h/1", "http://h:99999/", "data:x", "", "x"]), max_size=12))
def test_rejections_keep_the_order_of_the_rows(urls: list[str]) -> None:
    batch = LinkBatch("table", ExtractConfig())
    resolve = resolver("")
    for number, url in enumerate(urls):
        batch.count_record()
        batch.add_row(number, resolve(url), url, "text", page_url=None, license_url=None, extra=str(number))
    outcome = batch.take()
    assert outcome.num_in == len(urls) == outcome.kept.num_rows + outcome.rejected.num_rows
    for rows in (outcome.kept["record"].to_pylist(), outcome.rejected["record"].to_pylist()):
        assert rows == sorted(rows)
    assert outcome.kept["extra"].to_pylist() == [str(record) for record in outcome.kept["record"].to_pylist()]
