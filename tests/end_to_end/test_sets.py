"""Explain, verify, subset and lists over a real run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.load import dump
from pipeline.catalog.catalog import open_catalog
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.pages import page_of, stages_of, views_of, whole_page
from pipeline.questions.explain import UnknownLinkError, explain, lines_of
from pipeline.questions.verify import verify
from pipeline.runs.run import run
from pipeline.sets.export_list import export_list
from pipeline.sets.subset import subset
from pipeline.sets.subset_config import SubsetConfig

Make = Callable[..., WitConfig]
STAGES = (
    *("extract", "clean", "language", "match", "privacy", "dedup", "captions", "robots", "balance", "fetch"),
    "check_image",
    *("filters", "decontaminate", "image_dedup", "final_balance"),
)
"""In the order in which rows pass them."""
OFF = {"captions", "robots", "filters", "decontaminate", "image_dedup"}
"""The stages that the sample's config leaves off."""


def _ask(output: Path, query: str) -> list[tuple[Any, ...]]:
    with open_catalog(output) as database:
        return database.sql(query).fetchall()


def test_every_stage_that_the_ledger_has_is_on_the_page(finished: Path) -> None:
    entered = {stage for (stage,) in _ask(finished, "SELECT DISTINCT stage FROM ledger")}
    assert entered == set(STAGES) - OFF
    assert list(stages_of(page_of(finished))) == [stage for stage in STAGES if stage not in OFF]
    assert {view.step.name for view in views_of(whole_page()).values()} <= {step.name for step in whole_page().steps}


def test_sample_is_explained_to_its_place_in_the_tar(finished: Path) -> None:
    rows = _ask(
        finished, "SELECT lower(hex(uid)), url, shard, key, selected_by, source FROM samples ORDER BY uid LIMIT 5"
    )
    for uid, url, shard, key, selected_by, source in rows:
        story = explain(finished, uid=uid)[0]
        assert [verdict.stage for verdict in story.verdicts] == list(STAGES)
        assert all(v.verdict == ("off" if v.stage in OFF else "kept") for v in story.verdicts)
        assert story.sample is not None
        assert (story.sample["shard"], story.sample["key"], story.source) == (shard, key, source)
        assert sorted(query.query_id for query in story.queries if query.planned) == sorted(selected_by)
        for query in story.queries:
            assert query.hash is not None
            assert query.threshold is not None
            assert query.final_threshold is not None
            assert query.planned == (query.hash <= query.threshold)
            assert query.final == (query.planned and query.hash <= query.final_threshold)
        assert f"key {key}" in lines_of(story)[-1]
        assert uid in {story.uid for story in explain(finished, url=url)}


def test_rejected_links_are_explained_with_stage_reason_and_detail(finished: Path) -> None:
    rows = _ask(
        finished,
        "SELECT stage, reason, detail, lower(hex(uid)), source, record, link FROM rejections WHERE uid IS NOT NULL",
    )
    seen = {row[0]: row for row in rows}
    assert {"clean", "language", "match", "dedup", "fetch", "check_image"} <= set(seen)
    for stage, reason, detail, uid, *place in seen.values():
        (story,) = [s for s in explain(finished, uid=uid) if [s.source, s.record, s.link] == place]
        (verdict,) = [verdict for verdict in story.verdicts if verdict.verdict == "rejected"]
        assert (verdict.stage, verdict.reason) == (stage, reason)
        if stage == "dedup" and detail is None:
            assert verdict.detail is not None
            assert verdict.detail.startswith("kept instead: uid ")
        else:
            assert verdict.detail == detail
        before = [verdict for verdict in story.verdicts[: STAGES.index(stage)] if verdict.stage not in OFF]
        assert {verdict.verdict for verdict in before} <= {"kept"}
        assert story.sample is None


def test_link_without_text_is_found_by_its_url(finished: Path) -> None:
    ((url,),) = _ask(
        finished,
        "SELECT detail FROM rejections WHERE reason = 'no_text' AND detail LIKE 'http%' ORDER BY detail LIMIT 1",
    )
    stories = [story for story in explain(finished, url=url) if story.uid is None]
    assert stories[0].verdicts[0].reason == "no_text"


def test_unfinished_run_is_explained_as_far_as_it_is(finished: Path, tmp_path: Path) -> None:
    ((uid,),) = _ask(finished, "SELECT lower(hex(uid)) FROM samples ORDER BY uid LIMIT 1")
    output = tmp_path / "set"
    shutil.copytree(finished, output, symlinks=True)
    steps = [step.name for step in whole_page().steps]
    for last, stage in (("fetched", "check_image"), ("balance", "balance"), ("texts", "privacy")):
        for step in steps[steps.index(last) + 1 :]:
            shutil.rmtree(output / "work" / step, ignore_errors=True)
        (output / "shards").unlink(missing_ok=True)
        story = explain(output, uid=uid)[0]
        kept = [verdict.stage for verdict in story.verdicts if verdict.verdict == "kept"]
        # What balance chose is seen in the plan, the step after it.
        expected = list(STAGES[: STAGES.index(stage) + (last != "balance")])
        assert kept == [stage for stage in expected if stage not in OFF]
        assert {verdict.stage for verdict in story.verdicts if verdict.verdict == "off"} == OFF
        assert story.sample is None
    with pytest.raises(UnknownLinkError):
        explain(output, uid="00" * 16)


def test_explain_on_the_command_line(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ((uid, url),) = _ask(finished, "SELECT lower(hex(uid)), url FROM samples ORDER BY uid LIMIT 1")
    assert main(["explain", str(finished), "--uid", uid]) == 0
    assert f"uid      {uid}" in capsys.readouterr().out
    assert main(["explain", str(finished), "--url", url, "--format", "json"]) == 0
    assert uid in capsys.readouterr().out
    for words, message in (
        (["--uid", "zz"], "is no uid"),
        (["--uid", "00" * 16], "no link with uid"),
        (["--url", "not a url"], "no link with URL"),
        ([], "name one link"),
        (["--uid", uid, "--url", url], "name one link"),
    ):
        assert main(["explain", str(finished), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_finished_run_and_its_subset_verify(finished: Path, tmp_path: Path) -> None:
    assert verify(finished).damages == []
    subset(finished, SubsetConfig(where="caption LIKE '%red%'", limit_per_query=5), tmp_path / "red")
    assert verify(tmp_path / "red").damages == []
    assert _ask(tmp_path / "red", "SELECT max(selected) FROM query_counts") == [(5,)]


def test_plan_is_whole_on_a_narrow_screen(
    finished: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    config = finished.parent / "planned.yaml"
    config.write_text(dump(make_config(finished, "--balance.max_pairs_per_query", "7")))
    assert main(["plan", str(config)]) == 0
    printed = capsys.readouterr().out
    lines = {line.split("  ")[0]: line for line in printed.splitlines()}
    assert set(lines) >= {step.name for step in whole_page().steps}
    assert "\u2026" not in printed, "something is cut off"
    assert lines["texts"].rstrip().endswith("done")
    assert lines["pairs"].rstrip().endswith("off")
    assert lines["limit"].rstrip().endswith("1 of 1")
    assert lines["shards"].rstrip().endswith("later")
    assert "all of CANDIDATES, caption: string" in printed


def test_status_of_a_directory_and_of_a_subset(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved, symlinks=True)
    assert main(["status", str(moved)]) == 0
    assert "final_balance" in capsys.readouterr().out
    subset(finished, SubsetConfig(where="true"), tmp_path / "all")
    assert main(["status", str(tmp_path / "all")]) == 2
    assert "a subset, which no run makes" in capsys.readouterr().err


def test_exported_list_as_a_source_gives_the_same_set(finished: Path, make_config: Make, tmp_path: Path) -> None:
    rows = export_list(finished, tmp_path / "list.parquet")
    again = tmp_path / "again"
    run(make_config(again, "--engine.kind", "inline", "--sources", f"[{tmp_path}/list.parquet]"))
    assert _ask(again, "SELECT rows_in FROM ledger WHERE stage = 'clean'") == [(rows,)]
    query = "SELECT uid, caption, sha256 FROM samples ORDER BY uid"
    assert _ask(again, query) == _ask(finished, query)
    # With the pairs gone that could not be fetched, a query may choose some that others had chosen.
    query = "SELECT selected_by FROM samples ORDER BY uid"
    for (new,), (old,) in zip(_ask(again, query), _ask(finished, query), strict=True):
        assert set(old) <= set(new)
