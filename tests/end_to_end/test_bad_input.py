"""A user's mistake is one clear line and status 2; nothing is lost and nothing is begun."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.load import dump
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.sample_web.serving import serving
from pipeline.storage.output import open_output

Make = Callable[..., WitConfig]


def _fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert all(line.startswith("  ") for line in progress), progress  # the bars' lines, no trace
    return error


@pytest.fixture
def config(make_config: Make, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(dump(make_config(tmp_path / "set", "--engine.kind", "inline")))
    return path


def test_unknown_key_names_the_nearest(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = _fails(capsys, "run", str(config), "--balance.max_pair_per_query", "5")
    assert "did you mean 'balance.max_pairs_per_query'?" in error


def test_missing_config_source_and_query_list(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot read the config" in _fails(capsys, "run", "absent.yaml")
    assert "no such source file" in _fails(capsys, "run", str(config), "--sources", "[absent.wat.gz]")
    assert "absent.parquet" in _fails(capsys, "run", str(config), "--queries", "absent.parquet")


def test_missing_scores_and_evaluation_sets(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--filters.scores=[{files: [absent], column: s, min: 0}]", "--decontaminate.images=[absent]"):
        assert "absent: no such file" in _fails(capsys, "run", str(config), option)
        assert not (tmp_path / "set" / "work").exists()
        assert not (tmp_path / "set" / "config.yaml").exists()


def test_source_that_is_no_archive(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "noise.warc.wat.gz"
    path.write_bytes(os.urandom(5_000))
    assert str(path) in _fails(capsys, "run", str(config), "--sources", f"[{path}]")


def test_truncated_archive_is_used_up_to_the_break(
    config: Path, sample_web: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = next((sample_web / "wat").glob("*.gz")).read_bytes()
    path = tmp_path / "cut.warc.wat.gz"
    path.write_bytes(whole[: len(whole) // 2])
    output = tmp_path / "cut"
    assert main(["run", str(config), "--sources", f"[{path}]", "--output", str(output)]) == 0
    capsys.readouterr()
    assert main(["sql", str(output), "SELECT reason FROM rejections WHERE link IS NULL", "--format", "csv"]) == 0
    assert set(capsys.readouterr().out.split()) & {"truncated_file", "bad_record"}


def test_truncated_table_is_refused_before_work(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "links.parquet"
    path.write_bytes(b"PAR1" + bytes(100))
    assert str(path) in _fails(capsys, "run", str(config), "--sources", f"[{path}]")
    empty = tmp_path / "links.csv.gz"
    empty.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert "links.csv.gz" in _fails(capsys, "run", str(config), "--sources", f"[{empty}]")


def test_output_that_is_not_ours_locked_or_unwritable(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert "not ours" in _fails(capsys, "run", str(config), "--output", str(foreign))
    assert "cannot write" in _fails(capsys, "run", str(config), "--output", "/proc/openwit")
    with open_output(tmp_path / "held"):
        assert "a live run holds" in _fails(capsys, "run", str(config), "--output", str(tmp_path / "held"))
    assert "no such directory" in _fails(capsys, "sql", str(config), "funnel", "--output", str(tmp_path / "none"))


def test_subset_is_not_run_over(
    config: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["subset", str(finished), "--where", "true", "--out", str(tmp_path / "part")]) == 0
    capsys.readouterr()
    assert "is a subset" in _fails(capsys, "run", str(config), "--output", str(tmp_path / "part"))


def test_port_in_use(config: Path, sample_web: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(sample_web):
        assert "port" in _fails(capsys, "run", str(config))


def test_wrong_sql_and_unknown_named_query(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "SQL" in _fails(capsys, "sql", str(finished), "SELECT nonsense FROM samples")
    assert "no named query 'funel'" in _fails(capsys, "sql", str(finished), "funel")
    assert "--format" in _fails(capsys, "sql", str(finished), "funnel", "--format", "xml")


def test_sql_output_formats(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = "SELECT uid, caption FROM samples ORDER BY uid LIMIT 2"
    for shape in ("table", "csv", "json"):
        assert main(["sql", str(finished), query, "--format", shape]) == 0
        assert "caption" in capsys.readouterr().out
    path = tmp_path / "rows.parquet"
    assert main(["sql", str(finished), query, "--format", "parquet", "--to", str(path)]) == 0
    assert path.read_bytes()[:4] == b"PAR1"
