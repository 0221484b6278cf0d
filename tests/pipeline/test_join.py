"""Users' scores by uid become columns; lists of URLs go out and come in again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalog.catalog import open_catalog
from pipeline.commands import main
from pipeline.errors import InputError, OutputError
from pipeline.sets.export_list import LIST, export_list
from pipeline.sets.join import join
from pipeline.stages.extract import ExtractConfig, extract
from pipeline.web.urls import resolver
from tests.pipeline.small_set import QUERIES_OF_THE_SET, make_set

Rows = list[dict[str, Any]]


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Rows]:
    return tmp_path / "set", make_set(tmp_path / "set", 60)


def _table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("hexadecimal", [False, True])
def test_scores_become_columns_to_query(made: tuple[Path, Rows], tmp_path: Path, hexadecimal: bool) -> None:
    root, samples = made
    some = samples[1::2]
    uids = [row["uid"] for row in some] + [b"\1" * 16]
    values: Any = [uid.hex() for uid in uids] if hexadecimal else pa.array(uids, pa.binary(16))
    scores = _table(tmp_path / "my clip.parquet", uid=values, score=range(len(uids)), label=["x"] * len(uids))
    result = join(root, scores)
    assert (result.name, result.columns) == ("my_clip", ("score", "label"))
    assert (result.rows, result.samples, result.covered) == (len(uids), len(samples), len(some))
    with open_catalog(root) as database:
        found = dict(database.sql("SELECT uid, score FROM samples").fetchall())
        assert database.sql("SELECT count(*) FROM published").fetchall() == [(len(samples),)]
    assert found == {row["uid"]: i // 2 if i % 2 else None for i, row in enumerate(samples)}


def test_several_tables_join_and_a_deleted_one_is_gone(made: tuple[Path, Rows], tmp_path: Path) -> None:
    root, samples = made
    uids = pa.array([row["uid"] for row in samples], pa.binary(16))
    join(root, _table(tmp_path / "a.parquet", uid=uids, a=range(len(samples))))
    join(root, _table(tmp_path / "b.parquet", uid=uids, b=range(len(samples))))
    with open_catalog(root) as database:
        assert database.sql("SELECT count(*) FROM samples WHERE a = b").fetchall() == [(len(samples),)]
    (root / "joined/a.parquet").unlink()
    with open_catalog(root) as database:
        assert {"a", "b"} & set(database.sql("SELECT * FROM samples").columns) == {"b"}


def test_stored_table_is_the_same_whatever_the_order_of_rows(made: tuple[Path, Rows], tmp_path: Path) -> None:
    root, samples = made
    for name, rows in (("one", samples), ("two", samples[::-1])):
        uids = pa.array([row["uid"] for row in rows], pa.binary(16))
        join(root, _table(tmp_path / f"{name}.parquet", uid=uids, **{name: [row["width"] for row in rows]}))
    one, two = (pq.read_table(root / "joined" / f"{name}.parquet") for name in ("one", "two"))
    assert one.rename_columns(["uid", "x"]) == two.rename_columns(["uid", "x"])


U = [bytes([i]) * 16 for i in range(3)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1], "score": [1]}, "has no column uid"),
        ({"uid": U}, "no column but uid"),
        ({"uid": [*U, U[1]], "score": [1, 2, 3, 4]}, f"1 rows repeat a uid, for example {U[1].hex()}"),
        ({"uid": [*U, None], "score": [1, 2, 3, 4]}, "1 rows have no valid uid"),
        ({"uid": [b"short"], "score": [1]}, "1 rows have no valid uid"),
        ({"uid": ["xyz"], "score": [1]}, "1 rows have no valid uid"),
        ({"uid": [1], "score": [1]}, "is of BIGINT"),
        ({"uid": U, "score": [1, 2, 3]}, "none of its 3 uids is a sample of this set"),
        ({"uid": U, "width": [1, 2, 3]}, "samples have a column width already"),
        ({"uid": U, "Caption": [1, 2, 3]}, "samples have a column Caption already"),
    ],
)
def test_wrong_table_changes_nothing(
    made: tuple[Path, Rows], tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    root, _ = made
    with pytest.raises(InputError, match=message):
        join(root, _table(tmp_path / "s.parquet", **columns))
    assert not (root / "joined").exists()


def test_taken_names_and_wrong_files_are_refused(made: tuple[Path, Rows], tmp_path: Path) -> None:
    root, samples = made
    scores = _table(tmp_path / "s.parquet", uid=[*U, samples[0]["uid"]], score=[1, 2, 3, 4])
    join(root, scores)
    with pytest.raises(OutputError, match="joined already"):
        join(root, scores)
    with pytest.raises(InputError, match="samples have a column score already"):
        join(root, scores, "other")
    with pytest.raises(InputError, match="letters, digits"):
        join(root, scores, "../../x")
    (tmp_path / "text.parquet").write_text("uid,score\n")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        join(root, tmp_path / "text.parquet")
    with pytest.raises(InputError, match="no such file"):
        join(root, tmp_path / "absent.parquet")
    with pytest.raises(OutputError, match="not ours"):
        join(tmp_path, scores)
    assert [path.name for path in (root / "joined").iterdir()] == ["s.parquet"]


def test_join_on_the_command_line(made: tuple[Path, Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, samples = made
    scores = _table(tmp_path / "s.parquet", uid=[row["uid"] for row in samples], score=[0.5] * len(samples))
    assert main(["join", str(root), str(scores), "--name", "clip"]) == 0
    assert f"{len(samples)} of {len(samples)} samples have one" in capsys.readouterr().out
    assert (root / "joined/clip.parquet").exists()
    assert main(["join", str(root)]) == 2
    assert "expected a data set's directory and a .parquet file" in capsys.readouterr().err


# --- lists ------------------------------------------------------------------------------------


def test_list_has_every_sample_with_its_queries_and_no_image(made: tuple[Path, Rows], tmp_path: Path) -> None:
    root, samples = made
    assert export_list(root, tmp_path / "list.parquet") == len(samples)
    table = pq.read_table(tmp_path / "list.parquet")
    assert table.schema.equals(LIST)
    rows = table.to_pylist()
    assert [row["uid"] for row in rows] == [row["uid"] for row in samples]
    for row, sample in zip(rows, samples, strict=True):
        assert row["queries"] == [QUERIES_OF_THE_SET[query] for query in sample["query_ids"]]
        assert {name: row[name] for name in row if name in sample} == {
            name: sample[name] for name in row if name in sample
        }
    export_list(root, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "list.parquet").read_bytes()


def test_list_is_a_source_with_the_same_uids(made: tuple[Path, Rows], tmp_path: Path) -> None:
    root, samples = made
    export_list(root, tmp_path / "list.parquet")
    outcomes = list(extract(str(tmp_path / "list.parquet"), ExtractConfig()))
    rows = [row for outcome in outcomes for row in outcome.kept.to_pylist()]
    names = ("uid", "url_id", "alt_text", "text_source", "page_url")
    assert [row["url"] for row in rows] == [resolver("")(row["url"]) for row in samples]
    # Sets made before user info was left out have another identity for such URLs.
    same = [(new, old) for new, old in zip(rows, samples, strict=True) if "@" not in old["url"]]
    assert 0 < len(same) < len(rows)
    assert [[new[name] for name in names] for new, _ in same] == [[old[name] for name in names] for _, old in same]


def test_list_is_refused_where_it_would_harm(made: tuple[Path, Rows], tmp_path: Path) -> None:
    root, _ = made
    for place in (root / "shards/x.parquet", root / "work/x.parquet"):
        with pytest.raises(OutputError, match="lies among the files"):
            export_list(root, place)
    with pytest.raises(OutputError, match=r"is a \.parquet file"):
        export_list(root, tmp_path / "list.csv")
    with pytest.raises(OutputError, match="cannot write"):
        export_list(root, Path("/proc/openwit/list.parquet"))
    (root / "shards").unlink()
    with pytest.raises(InputError, match="no published shards"):
        export_list(root, tmp_path / "list.parquet")
    assert main(["export-list", str(root)]) == 2
