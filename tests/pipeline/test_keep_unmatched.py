"""texts.keep_unmatched: a raw set, with pairs that contain no query of the list."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.commands import main
from tests.pipeline.loopback_server import LoopbackServer, text
from tests.pipeline.small_run import SmallRun, picture

PATHS = [f"/{number}" for number in range(8)]


@pytest.fixture
def small(tmp_path: Path) -> SmallRun:
    with LoopbackServer({path: text(picture(int(path[1:]))) for path in PATHS}) as server:
        small = SmallRun.make(tmp_path, server, PATHS)
        (tmp_path / "queries.txt").write_text("two children\npeople\n")
        assert small.run() == 0
        assert len(small.samples()) == 2
        assert small.run("--texts.keep_unmatched", "true", "--balance.mode", "none") == 0
    return small


def test_pairs_without_a_query_are_part_of_the_set(small: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.samples() == PATHS
    rows = [row for path in (small.output / "shards").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert sorted(len(row["query_ids"]) for row in rows) == [0] * 6 + [1] * 2
    assert all(row["selected_by"] == row["query_ids"] for row in rows)
    for words in (["verify", "--work"], ["sql", "funnel"], ["report", "--to", str(small.root / "card.html")]):
        assert main([words[0], str(small.output), *words[1:]]) == 0
    assert main(["explain", str(small.output), "--uid", next(r["uid"].hex() for r in rows if not r["query_ids"])]) == 0


def test_it_goes_with_no_balance_alone(small: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.run("--texts.keep_unmatched", "true") == 2
    assert "texts.keep_unmatched: no query selects a pair that contains none; set --balance.mode none" in (
        capsys.readouterr().err
    )
