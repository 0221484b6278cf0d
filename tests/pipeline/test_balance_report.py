"""The figures about balancing: beside the published ones, and mode by mode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.catalog.catalog import named_query, open_catalog
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.errors import OutputError
from pipeline.questions.balance_report import compare_modes
from pipeline.runs.run import run
from pipeline.storage.output import open_output
from tests.end_to_end.conftest import make_config, query_list, sample_web

__all__ = ["make_config", "query_list", "sample_web"]  # fixtures of the end-to-end tests


@pytest.fixture(scope="module")
def balanced(make_config: Callable[..., WitConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("balanced") / "set"
    quick = ("--fetch.timeout_s", "0.5", "--fetch.retries", "0", "--shards.samples_per_shard", "1000")
    run(make_config(output, "--engine.kind", "inline", "--balance.max_pairs_per_query", "4", *quick))
    return output


def test_summary_says_what_the_counts_say(balanced: Path) -> None:
    with open_catalog(balanced) as database:
        rows = database.execute(named_query("balance_summary")).fetchall()
        (matches, selections, unmatched, queries) = database.execute(
            "SELECT sum(matched), sum(selected), count(*) FILTER (matched = 0), count(*) FROM query_counts"
        ).fetchone() or (0, 0, 0, 0)
        (pairs, kept) = database.execute("SELECT rows_in, kept FROM ledger WHERE stage = 'balance'").fetchone() or (
            0,
            0,
        )
    here = {figure: value for figure, value, _ in rows}
    assert float(here["matches a text"]) == pytest.approx(matches / pairs, abs=0.01)
    assert float(here["pairs kept, %"]) == pytest.approx(100 * kept / pairs, abs=0.06)
    assert float(here["selections a kept pair"]) == pytest.approx(selections / kept, abs=0.01)
    assert float(here["queries without a match, %"]) == pytest.approx(100 * unmatched / queries, abs=0.06)
    assert ("matches a text", 3.54) in {(figure, value) for figure, _, value in rows}


def test_modes_are_compared_at_the_same_t(balanced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["mode"]: row for row in compare_modes(balanced).to_pylist()}
    assert list(rows) == ["offered", "quota", "coordinated", "metaclip"]
    with open_catalog(balanced) as database:
        kept = database.execute("SELECT kept FROM ledger WHERE stage = 'balance'").fetchone()
        assert (rows["quota"]["pairs"],) == kept, "the set's own mode, recomputed"
        words = database.execute("SELECT avg(len(string_split(caption, ' '))) FROM selected").fetchone()
    assert words is not None
    assert rows["quota"]["mean_words"] == pytest.approx(words[0], abs=0.01)
    assert rows["coordinated"]["pairs"] < rows["quota"]["pairs"] < rows["offered"]["pairs"]
    assert main(["balance-report", str(balanced), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["mode"] == "offered"


def test_set_that_is_not_balanced_yet_is_one_clear_line(make_config: Callable[..., WitConfig], tmp_path: Path) -> None:
    from configs.load import dump

    with open_output(tmp_path / "new") as output:
        (output / "config.yaml").write_text(dump(make_config(output)))
    with pytest.raises(OutputError, match="not balanced yet"):
        compare_modes(tmp_path / "new")
