"""Scores by uid choose a subset, and its ledger says what went, and why, with counts that add up."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalog.catalog import SqlError, open_catalog
from pipeline.commands import main
from pipeline.errors import InputError, OutputError
from pipeline.questions.explain import explain
from pipeline.questions.verify import verify
from pipeline.records.schema import REJECTIONS
from pipeline.sets.condition import clauses_of
from pipeline.sets.join import join
from pipeline.sets.subset import subset
from pipeline.sets.subset_config import SubsetConfig
from tests.pipeline.small_set import make_set

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows, Path]:
    """A set, its samples, and scores of all but the first three: clip, and of what every fifth is a duplicate."""
    root = tmp_path_factory.mktemp("scored")
    samples = make_set(root / "set")
    table = {
        "uid": pa.array([row["uid"] for row in samples[3:]], pa.binary(16)),
        "clip_score": pa.array([number / 200 for number in range(3, len(samples))], pa.float32()),
        "duplicate_of": pa.array(
            [samples[0]["uid"] if number % 5 == 0 else None for number in range(3, len(samples))], pa.binary(16)
        ),
        "policy_flags": [["maps"] if number % 7 == 0 else [] for number in range(3, len(samples))],
    }
    pq.write_table(pa.table(table), root / "scores.parquet")
    return root / "set", samples, root / "scores.parquet"


WHERE = "clip_score >= 0.25 AND (duplicate_of IS NULL OR false) AND len(policy_flags) = 0"


def _expected(samples: Rows) -> dict[bytes, str | None]:
    """uid -> the part of WHERE that each fails first."""
    found: dict[bytes, str | None] = {}
    for number, row in enumerate(samples):
        failed = None
        if number % 7 == 0:
            failed = "len(policy_flags) = 0"
        if number % 5 == 0:
            failed = "(duplicate_of IS NULL) OR "
        if number < 50:
            failed = "clip_score >= 0.25"
        found[row["uid"]] = failed
    return found


def _rejections(root: Path) -> Rows:
    with open_catalog(root, "rejections") as database:
        return database.sql("SELECT * FROM rejections").to_arrow_table().to_pylist()


def _line(root: Path) -> dict[str, Any]:
    (line,) = json.loads((root / "ledger.json").read_text())["lines"]
    assert line["rows_in"] == line["kept"] + sum(line["rejected"].values())
    return dict(line)


def test_scores_choose_and_the_ledger_names_what_went_and_why(made: tuple[Path, Rows, Path], tmp_path: Path) -> None:
    source, samples, scores = made
    result = subset(source, SubsetConfig(where=WHERE, scores=(str(scores),)), tmp_path / "out")
    expected = _expected(samples)
    kept = [uid for uid, failed in expected.items() if failed is None]
    assert 0 < result.samples == len(kept)
    with open_catalog(tmp_path / "out") as database:
        there = database.sql("SELECT uid, clip_score, duplicate_of FROM samples ORDER BY shard, tar_offset").fetchall()
        assert [row[0] for row in there] == kept
        assert all(row[1] >= 0.25 and row[2] is None for row in there)
        assert database.sql("SELECT stage, unit, kept FROM ledger").fetchall() == [("subset", "pair", len(kept))]
    counts = Counter(failed for failed in expected.values() if failed is not None)
    assert sorted(result.left_out.values()) == sorted(counts.values())
    assert result.left_out["clip_score >= 0.25"] == counts["clip_score >= 0.25"]
    rows = _rejections(tmp_path / "out")
    assert any(row["detail"].endswith(f"duplicate_of {samples[0]['uid'].hex()}") for row in rows)
    assert [row["uid"] for row in rows] == [uid for uid, failed in expected.items() if failed is not None]
    by_uid = {row["uid"]: row for row in samples}
    for row in rows:
        assert (row["stage"], row["reason"]) == ("subset", "condition")
        assert row["detail"].startswith(expected[row["uid"]])
        assert (row["source"], row["record"]) == (by_uid[row["uid"]]["source"], by_uid[row["uid"]]["record"])
    assert rows[0]["detail"] == "clip_score >= 0.25: clip_score null"
    assert rows[3]["detail"].startswith("clip_score >= 0.25: clip_score 0.015")
    assert _line(tmp_path / "out") == {
        "stage": "subset",
        "unit": "pair",
        "rows_in": len(samples),
        "kept": len(kept),
        "rejected": {"condition": len(samples) - len(kept)},
    }
    assert verify(tmp_path / "out").damages == []
    assert json.loads((tmp_path / "out/subset.json").read_text())["scores"] == [str(scores)]
    assert not (source / "joined").exists(), "the source is only read"


def test_each_way_of_choosing_has_its_reason(made: tuple[Path, Rows, Path], tmp_path: Path) -> None:
    source, samples, _ = made
    (tmp_path / "uids.txt").write_text("".join(f"{row['uid'].hex()}\n" for row in samples[10:]))
    config = SubsetConfig(where="width > 90", uids=str(tmp_path / "uids.txt"), limit_per_query=2)
    result = subset(source, config, tmp_path / "out")
    reasons = Counter(row["reason"] for row in _rejections(tmp_path / "out"))
    assert reasons["condition"] == sum(row["width"] <= 90 for row in samples)
    assert reasons["not_listed"] == sum(row["width"] > 90 for row in samples[:10])
    assert reasons["query_limit"] == len(samples) - result.samples - reasons["condition"] - reasons["not_listed"] > 0
    assert _line(tmp_path / "out")["rejected"] == dict(reasons)


def test_what_went_is_explained_and_the_rows_are_of_the_ledgers_schema(
    made: tuple[Path, Rows, Path], tmp_path: Path
) -> None:
    source, samples, scores = made
    subset(source, SubsetConfig(where="clip_score > 0.3", scores=(str(scores),)), tmp_path / "out")
    (story,) = explain(tmp_path / "out", uid=samples[5]["uid"].hex())
    assert (story.verdicts[-1].stage, story.verdicts[-1].verdict) == ("subset", "rejected")
    assert "clip_score > 0.3" in str(story.verdicts[-1].detail)
    (kept,) = explain(tmp_path / "out", uid=samples[-1]["uid"].hex())
    assert (kept.verdicts[-1].stage, kept.verdicts[-1].verdict) == ("subset", "kept")
    (file,) = (tmp_path / "out/work/subset").glob("*.rejections.parquet")
    assert pq.read_schema(file).equals(REJECTIONS)


def test_same_choice_gives_the_same_ledger_and_scores_go_along_with_joined_tables(
    made: tuple[Path, Rows, Path], tmp_path: Path
) -> None:
    source, samples, scores = made
    for name in ("a", "b"):
        subset(source, SubsetConfig(where=WHERE, scores=(str(scores),)), tmp_path / name)
    for file in ("work/subset/all.rejections.parquet", "ledger.json", "joined/scores.parquet", "subset.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    more = {"uid": [row["uid"].hex() for row in samples], "label": ["x"] * len(samples)}
    pq.write_table(pa.table(more), tmp_path / "labels.parquet")
    config = SubsetConfig(where="label = 'x' AND clip_score > 0.3", scores=(str(tmp_path / "labels.parquet"),))
    subset(tmp_path / "a", config, tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c/joined").iterdir()) == ["labels.parquet", "scores.parquet"]
    with open_catalog(tmp_path / "c") as database:
        assert database.sql("SELECT count(label), min(clip_score) > 0.3 FROM samples").fetchall()[0][1]


def test_subset_by_scores_on_the_command_line(
    made: tuple[Path, Rows, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, _, scores = made
    words = ["--scores", str(scores), "--where", "clip_score >= 0.25"]
    assert main(["subset", str(source), "--out", str(tmp_path / "out"), *words]) == 0
    assert "left out 50: clip_score >= 0.25" in capsys.readouterr().out
    assert main(["sql", str(tmp_path / "out"), "SELECT stage, reason, count FROM reasons"]) == 0
    assert "condition" in capsys.readouterr().out


def test_condition_that_says_something_else_each_time_still_adds_up(
    made: tuple[Path, Rows, Path], tmp_path: Path
) -> None:
    source, samples, _ = made
    result = subset(source, SubsetConfig(where="random() < 0.5"), tmp_path / "out")
    assert result.samples + sum(result.left_out.values()) == len(samples)
    assert _line(tmp_path / "out")["rejected"] == {"condition": len(samples) - result.samples}


def test_scores_that_do_not_fit_are_one_line(made: tuple[Path, Rows, Path], tmp_path: Path) -> None:
    source, samples, scores = made
    pq.write_table(pa.table({"uid": [b"\1" * 16], "clip_score": [0.5]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="none of its 1 uids is a sample of this set"):
        subset(source, SubsetConfig(where="true", scores=(str(tmp_path / "other.parquet"),)), tmp_path / "out")
    pq.write_table(pa.table({"uid": [samples[0]["uid"]], "clip_score": [0.5]}), tmp_path / "again.parquet")
    both = (str(scores), str(tmp_path / "again.parquet"))
    with pytest.raises(InputError, match="samples have a column clip_score already"):
        subset(source, SubsetConfig(where="true", scores=both), tmp_path / "out")
    with pytest.raises(SqlError, match="--where"):
        subset(source, SubsetConfig(where="clap_score > 1", scores=(str(scores),)), tmp_path / "out")
    subset(source, SubsetConfig(where="clip_score > 0.3", scores=(str(scores),)), tmp_path / "joined")
    with pytest.raises(OutputError, match="joined already"):
        join(tmp_path / "joined", scores)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("where", "parts"),
    [
        ("a > 1", [("a > 1", ("a",))]),
        ("a > 1 AND b IN (1, 2) -- AND c", [("a > 1", ("a",)), ("b IN (1, 2)", ("b",))]),
        ("a > 1 OR b > 1", [("(a > 1) OR (b > 1)", ("a", "b"))]),
        ("(a AND b) AND NOT c", [("a", ("a",)), ("b", ("b",)), ("NOT c", ("c",))]),
        ("x IN (SELECT y FROM t WHERE z AND w) AND s.a = 'it''s (b'", None),
    ],
)
def test_condition_is_taken_apart_at_its_top(where: str, parts: list[tuple[str, tuple[str, ...]]] | None) -> None:
    with duckdb.connect() as database:
        clauses = clauses_of(database, where)
    if parts is not None:
        assert [(clause.sql, clause.columns) for clause in clauses] == parts
    else:
        assert [clause.columns for clause in clauses] == [(), ("a",)]
        assert clauses[1].sql == "s.a = 'it''s (b'"
