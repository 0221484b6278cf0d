"""The figures about balancing: beside the published ones, and mode by mode."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.catalog import named_query, open_catalog
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.engine import open_engine
from pipeline.errors import OutputError
from pipeline.questions.balance_report import compare_modes
from pipeline.questions.balance_tables import TABLES
from pipeline.questions.limits_report import compare_limits, limits_around
from pipeline.questions.published import PUBLISHED
from pipeline.runs.run import run
from pipeline.storage.output import open_output
from pipeline.wit import build
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


# --- several t ------------------------------------------------------------------------------------


def test_each_t_keeps_what_a_run_with_it_keeps(
    balanced: Path, make_config: Callable[..., WitConfig], tmp_path: Path
) -> None:
    rows = {row["t"]: row for row in compare_limits(balanced, [2, 4, 9]).to_pylist()}
    assert {t: row["note"] for t, row in rows.items()} == {2: "", 4: "own", 9: ""}
    for t, row in rows.items():
        # The steps up to the balance, with that t, over the same links.
        shutil.copytree(balanced, tmp_path / str(t), symlinks=True)
        config = make_config(tmp_path / str(t), "--engine.kind", "inline", "--balance.max_pairs_per_query", str(t))
        page = build(config)
        with open_engine(config.engine) as engine:
            for step in page.steps[: [step.name for step in page.steps].index("schedule")]:
                tasks = list(step.cut(page.run))
                step.data.finish(engine.run_step(page.run.directory(step.name), tasks, keep=step.keep))
        with open_catalog(tmp_path / str(t)) as database:
            (selections, head, full, in_head, matches) = database.execute(
                f"SELECT sum(selected), count(*) FILTER (matched > {t}), count(*) FILTER (selected = {t}), "
                f"sum(matched) FILTER (matched > {t}), sum(matched) FROM query_counts"
            ).fetchone() or (0, 0, 0, 0, 0)
        assert row["pairs"] == page["balance"].data.total("selected")
        assert row["per_pair"] == pytest.approx(selections / row["pairs"], abs=0.01)
        assert (row["head_queries"], row["full_queries"]) == (head, full)
        assert row["head_percent"] == pytest.approx(100 * in_head / matches, abs=0.06)


def test_estimate_of_a_large_set_is_near_the_exact_answer_and_says_what_it_is(balanced: Path) -> None:
    exact = compare_limits(balanced, [4, 20, 100]).to_pylist()
    estimate = compare_limits(balanced, [4, 20, 100], exact_pairs=0).to_pylist()
    for one, other in zip(exact, estimate, strict=True):
        assert other["note"] in ("estimate", "own, estimate")
        # The estimate's draws go by uids, which hold the server's port: another run, another estimate.
        assert other["kept_percent"] == pytest.approx(one["kept_percent"], abs=5.0)
        assert [other[name] for name in ("head_queries", "head_percent", "full_queries")] == [
            one[name] for name in ("head_queries", "head_percent", "full_queries")
        ]


@given(own=st.integers(1, 10**6), largest=st.integers(0, 10**8))
def test_limits_hold_the_sets_own_and_one_that_cuts_nothing(own: int, largest: int) -> None:
    limits = limits_around(own, largest)
    assert limits == sorted(set(limits))
    assert own in limits
    assert max(limits) >= min(largest, 170_000)
    assert sum(t >= largest for t in limits if t != own) <= 1


def test_terminal_has_all_tables_and_a_format_the_one_that_is_asked_for(
    balanced: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["balance-report", str(balanced)]) == 0
    shown = capsys.readouterr().out
    assert all(title in shown for title in TABLES.values())
    assert main(["balance-report", str(balanced), "--of", "limits", "--t", "3,1_000", "--format", "json"]) == 0
    assert [row["t"] for row in json.loads(capsys.readouterr().out)] == [3, 1000]
    assert main(["balance-report", str(balanced), "--of", "published", "--to", str(tmp_path / "p.json")]) == 0
    assert {row["figure"] for row in json.loads((tmp_path / "p.json").read_text())} == {p.figure for p in PUBLISHED}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--of", "everything"), "is not one of limits, modes, published"),
        (("--t", "many"), "--t: expected whole numbers"),
        (("--t", "0"), "--t: each must be at least 1"),
    ],
)
def test_mistakes_are_named(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["balance-report", "nowhere", *words]) == 2
    assert message in capsys.readouterr().err


def test_published_figures_are_those_of_the_named_query(balanced: Path) -> None:
    with open_catalog(balanced) as database:
        rows = database.execute(named_query("balance_summary")).fetchall()
    assert [(figure, published) for figure, _, published in rows] == [(p.figure, p.value) for p in PUBLISHED]
    assert all("arXiv" in each.source for each in PUBLISHED)
