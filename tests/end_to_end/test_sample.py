"""The built-in sample web through the whole pipeline, against its ground truth."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.catalog.catalog import NAMED_QUERIES, named_query, open_catalog
from pipeline.config import WitConfig
from pipeline.engine import Engine
from pipeline.pages import is_reason
from pipeline.questions.report import write_report
from pipeline.runs.run import inspect, run
from pipeline.wit import build
from tests.end_to_end.conftest import published_hashes

Make = Callable[..., WitConfig]


def _truth(sample_web: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(sample_web / "truth.parquet").to_pylist()
    return [row for row in rows if row["wat_record"] is not None]


def _place(row: dict[str, Any]) -> tuple[str, int, int]:
    return Path(row["source"]).name, row["record"], row["link"]


def _rows(output: Path, view: str) -> list[dict[str, Any]]:
    with open_catalog(output) as database:
        result: list[dict[str, Any]] = database.sql(f"SELECT * FROM {view}").to_arrow_table().to_pylist()
    return result


def test_ledger_agrees_with_the_ground_truth_row_by_row(finished: Path, sample_web: Path) -> None:
    fates = {_place(row): f"{row['stage']}/{row['reason']}" for row in _rows(finished, "rejections")}
    samples = {_place(row) for row in _rows(finished, "samples")}
    assert not samples & set(fates)
    groups: dict[Any, list[str]] = {}
    wrong = []
    for row in _truth(sample_web):
        place = (Path(row["wat_file"]).name, row["wat_record"], row["wat_link"])
        fate = "kept" if place in samples else fates.get(place, "lost")
        if row["duplicate_group"] is not None and row["text_fate"] is None:
            groups.setdefault(row["duplicate_group"], []).append(fate)
        if row["text_fate"] is not None:
            expected = {row["text_fate"]}
        else:
            expected = {row["fetch_fate"] or "kept", "balance/not_selected"}
            if row["duplicate_group"] is not None:
                expected.add("dedup/duplicate")
        if fate not in expected:
            wrong.append((row["url"], row["alt_text"], fate, sorted(expected)))
    assert not wrong, wrong[:10]
    for group, found in groups.items():
        assert len(found) - Counter(found)["dedup/duplicate"] == 1, (group, found)


def test_every_count_adds_up_and_every_reason_is_known(finished: Path) -> None:
    lines = _rows(finished, "ledger")
    stages = [line["stage"] for line in lines if line["unit"] not in ("source", "record")]
    assert stages == [
        "extract",
        "clean",
        "language",
        "match",
        "privacy",
        "dedup",
        "balance",
        "fetch",
        "check_image",
        "final_balance",
    ]
    flow = [line for line in lines if line["unit"] not in ("source", "record")]
    for line in lines:
        assert line["rows_in"] == line["kept"] + line["rejected"]
    for before, after in itertools.pairwise(flow):
        assert after["rows_in"] == before["kept"]
    assert flow[-1]["kept"] == len(_rows(finished, "samples"))
    detailed = Counter((row["stage"], row["reason"]) for row in _rows(finished, "rejections"))
    counted = {(row["stage"], row["reason"]): row["count"] for row in _rows(finished, "reasons")}
    without_rows = {("extract", "not_a_page"), ("extract", "other_record")}
    assert detailed == {key: count for key, count in counted.items() if key not in without_rows}
    assert without_rows <= set(counted)
    assert all(is_reason(stage, reason) for stage, reason in counted)


def test_no_query_selects_more_than_t_and_balance_bites(finished: Path) -> None:
    counts = _rows(finished, "query_counts")
    assert max(row["selected"] for row in counts) == 40 < max(row["matched"] for row in counts)
    assert all(row["selected"] == min(40, row["matched"]) for row in counts)


def test_shards_metadata_and_tars_say_the_same(finished: Path) -> None:
    sizes = json.loads((finished / "shards" / "sizes.json").read_text())
    manifest = json.loads((finished / "shards" / "manifest.json").read_text())
    assert sizes == {shard["name"]: shard["samples"] for shard in manifest["shards"]}
    assert max(sizes.values()) - min(sizes.values()) <= 1
    keys: list[str] = []
    for name, count in sizes.items():
        rows = pq.read_table(finished / "shards" / name.replace(".tar", ".parquet")).to_pylist()
        assert len(rows) == count
        data = (finished / "shards" / name).read_bytes()
        with tarfile.open(finished / "shards" / name) as tar:
            members = {m.name: m for m in tar.getmembers()}
            assert [m.name for m in tar.getmembers()] == sorted(members)
            assert all((m.mtime, m.uid, m.gid, m.mode) == (0, 0, 0, 0o644) for m in members.values())
            for row in rows:
                image = data[row["tar_offset"] : row["tar_offset"] + row["num_bytes"]]
                assert image == tar.extractfile(members[f"{row['key']}.jpg"]).read()  # type: ignore[union-attr]  # a file
                assert tar.extractfile(members[f"{row['key']}.txt"]).read().decode() == row["caption"]  # type: ignore[union-attr]
                plain = json.loads(tar.extractfile(members[f"{row['key']}.json"]).read())  # type: ignore[union-attr]
                assert plain["uid"] == row["uid"].hex()
                assert plain["query_ids"] == row["query_ids"]
        assert 3 * len(rows) == len(members)
        keys += [row["key"] for row in rows]
    assert keys == sorted(set(keys))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_load_in_webdataset(finished: Path) -> None:
    import webdataset

    # webdataset leaves the last tar to the garbage collector, hence the ignored warnings.
    urls = sorted(str(path) for path in (finished / "shards").glob("*.tar"))
    stream = webdataset.WebDataset(urls, shardshuffle=False).decode("rgb").to_tuple("jpg", "txt", "json")
    seen = [(image.shape[2], text, meta["caption"]) for image, text, meta in stream]
    assert len(seen) == len(_rows(finished, "samples"))
    assert all(channels == 3 and text == caption for channels, text, caption in seen)


def test_ray_run_writes_the_same_bytes_as_the_inline_run(
    finished: Path, make_config: Make, tmp_path: Path, ray_engine: Engine
) -> None:
    result = run(make_config(tmp_path / "set"))
    assert result.ran_tasks > 0
    assert published_hashes(tmp_path / "set") == published_hashes(finished)


def test_second_run_does_nothing_and_changed_config_redoes_what_it_affects(finished: Path, make_config: Make) -> None:
    inline = ("--engine.kind", "inline")
    before = published_hashes(finished)
    log = (finished / "runs.jsonl").read_text()
    assert run(make_config(finished, *inline)).ran_tasks == 0
    assert (finished / "runs.jsonl").read_text() == log
    run(make_config(finished, *inline, "--balance.max_pairs_per_query", "35"))
    ran = json.loads((finished / "runs.jsonl").read_text().splitlines()[-1])["steps"]
    redone = {name for name, step in ran.items() if step["ran"]}
    select = {"limit", "gather", "threshold", "balance", "query_counts", "schedule"}
    assert redone == select | {"requests", "fetched", "final_threshold", "final_balance", "final_counts", "shards"}
    assert not ran["fetch"]["ran"], "a smaller plan was fetched already"
    assert published_hashes(finished) != before
    run(make_config(finished, *inline))
    assert published_hashes(finished) == before
    assert len(list((finished / "versions").iterdir())) == 1


def test_page_lists_the_steps_in_order(finished: Path, make_config: Make) -> None:
    config = make_config(finished)
    states, first = inspect(config)
    assert [state.step for state in states] == [step.name for step in build(config).steps]
    assert first is None


NOT_ASKED_FOR = {"heavy_hosts"}
"""Named queries of a step that the sample's config has not."""


@pytest.mark.parametrize("name", NAMED_QUERIES)
def test_named_query_answers(finished: Path, name: str) -> None:
    with open_catalog(finished) as database:
        if name in NOT_ASKED_FOR:
            with pytest.raises(duckdb.InvalidInputException, match="not asked for by the config"):
                database.sql(named_query(name).strip().rstrip(";")).fetchall()
        else:
            assert database.sql(named_query(name).strip().rstrip(";")).fetchall()


def test_catalog_of_an_unfinished_run_has_every_view(make_config: Make, tmp_path: Path) -> None:
    from pipeline.catalog.catalog import view_names
    from pipeline.storage.output import open_output

    with open_output(tmp_path / "new"):
        pass
    with open_catalog(tmp_path / "new") as database:
        for view in view_names():
            assert database.execute(f"SELECT count(*) FROM {view}").fetchone() == (0,)


def test_data_card_says_what_the_ledger_says_and_needs_nothing_else(finished: Path, tmp_path: Path) -> None:
    write_report(finished, tmp_path / "card.html")
    page = (tmp_path / "card.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count('<figure class="sample">') == 48
    assert 'src="data:image/jpeg;base64,' in page
    assert "http-equiv" not in page
    assert "<script" not in page
    lines = json.loads((finished / "ledger.json").read_text())["lines"]
    of_links = [line for line in lines if line["unit"] in ("link", "pair")]
    left = [int(count.replace(",", "")) for count in re.findall(r'<span class="left"><b>([\d,]+)</b>', page)]
    assert left == [of_links[0]["rows_in"], *(line["kept"] for line in of_links)]
    manifest = json.loads((finished / "shards" / "manifest.json").read_text())
    assert f"<b>{manifest['samples']:,}</b> samples" in page
    assert f"<dt>version</dt><dd>{manifest['fingerprint']}</dd>" in page
    assert re.search(r"<dt>t, pairs a query</dt><dd>40</dd>", page)
    assert re.search(r"<dt>query list</dt><dd>queries.parquet, [\d,]+ queries, fingerprint [0-9a-f]{16}</dd>", page)
    assert re.search(r"<dt>with</dt><dd>Python [\d.]+, duckdb ", page)
    for told in ("by the headers", "creativecommons.org", "the server&#39;s answer: Not Found", "3.54", "94.4"):
        assert told in page


def test_image_dedup_keeps_one_of_equal_files(finished: Path, make_config: Make, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "set", symlinks=True)  # most pictures are known
    wider = ("--image_dedup.mode", "same_file", "--balance.max_pairs_per_query", "1000")
    config = make_config(tmp_path / "set", "--engine.kind", "inline", *wider)
    lines = {line.stage: line for line in run(config).lines}
    rows = _rows(tmp_path / "set", "samples")
    pictures = {row["url_id"]: row["sha256"] for row in rows}
    assert len(set(pictures.values())) == len(pictures)
    assert lines["image_dedup"].rejected
    assert lines["image_dedup"].kept == len(rows)
