"""A second crawl added to a finished set: the same plan as one run over both, and only new URLs are asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.load import ConfigError
from pipeline.commands import main
from pipeline.config import WitConfig
from pipeline.records.queries import read_queries, write_queries
from pipeline.runs.run import run
from pipeline.steps.balance.plan import BalancePairs
from pipeline.steps.fetch.facts import FactStore
from tests.end_to_end.conftest import (
    make_config,
    published_hashes,
    query_list,
    sample_web,
)

Make = Callable[..., WitConfig]
__all__ = ["make_config", "query_list", "sample_web"]  # fixtures of the end-to-end tests
PLAN = ("dedup", "count", "limit", "threshold", "balance", "query_counts", "schedule")
SHARDS = ("--engine.kind", "inline", "--shards.samples_per_shard", "250")
EXTRA = (*SHARDS, "--balance.max_pairs_per_query", "4")


def _hashes(output: Path, steps: tuple[str, ...]) -> dict[str, str]:
    files = [p for step in steps for p in sorted((output / "work" / step).iterdir()) if p.is_file()]
    return {
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "manifest.json"
    }


def _plan(output: Path) -> dict[bytes, str]:
    rows: dict[bytes, str] = {}
    for path in sorted((output / "work" / "balance").glob("*.chosen.parquet")):
        table = pq.read_table(path)
        rows |= dict(zip(table["uid"].to_pylist(), table["url"].to_pylist(), strict=True))
    return rows


def _requested(output: Path) -> list[bytes]:
    store = output / "work" / "fetch"
    return [row for each in FactStore.of(store).files for row in pq.read_table(each.file.path)["url_id"].to_pylist()]


@pytest.fixture(scope="module")
def crawls(sample_web: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The sample's links as two crawls that overlap."""
    directory = tmp_path_factory.mktemp("crawls")
    table = pq.read_table(next((sample_web / "tables").glob("*.parquet")))
    cut = table.num_rows // 5
    pq.write_table(table.slice(0, 3 * cut), directory / "first.parquet")
    pq.write_table(table.slice(2 * cut), directory / "second.parquet")
    return str(directory / "first.parquet"), str(directory / "second.parquet")


@pytest.fixture(scope="module")
def both(make_config: Make, crawls: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("both") / "set"
    run(make_config(output, "--sources", json.dumps(crawls), *EXTRA))
    return output


@pytest.fixture(scope="module")
def extended(make_config: Make, crawls: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("extended") / "set"
    run(make_config(output, "--sources", json.dumps(crawls[:1]), *EXTRA))
    shutil.copytree(output, output.parent / "first", symlinks=True)
    run(make_config(output, "--sources", json.dumps(crawls[1:]), *EXTRA), extend=True)
    return output


def test_extended_plan_equals_that_of_one_run_over_both(extended: Path, both: Path) -> None:
    assert _hashes(extended, PLAN) == _hashes(both, PLAN)


def test_extension_publishes_the_bytes_of_a_fresh_run(extended: Path, both: Path) -> None:
    assert published_hashes(extended) == published_hashes(both)


def test_only_added_urls_are_requested(extended: Path) -> None:
    requested = _requested(extended)
    assert len(requested) == len(set(requested)), "no URL is asked for twice"
    first = set(_requested(extended.parent / "first"))
    assert first < set(requested)
    added = pq.read_table(extended / "work" / "changes" / "all.added.parquet")
    assert set(requested) - first <= set(added["url_id"].to_pylist())


def test_change_is_two_lists(extended: Path) -> None:
    before, after = _plan(extended.parent / "first"), _plan(extended)
    changes = extended / "work" / "changes"
    added, evicted = (pq.read_table(changes / f"all.{name}.parquet") for name in ("added", "evicted"))
    assert set(added["uid"].to_pylist()) == set(after) - set(before)
    assert set(evicted["uid"].to_pylist()) == set(before) - set(after)
    assert added.num_rows
    assert evicted.num_rows, "the second crawl brings smaller hashes for the head queries"
    assert all(after[row["uid"]] == row["url"] for row in added.to_pylist())
    assert not (extended / "work" / "before").exists()


def test_same_extension_again_has_nothing_to_do(extended: Path, make_config: Make, crawls: tuple[str, str]) -> None:
    before = published_hashes(extended)
    config = make_config(extended, "--sources", json.dumps(crawls[1:]), *EXTRA)
    assert run(config, extend=True).ran_tasks == 0
    assert published_hashes(extended) == before


def test_sources_named_in_another_way_change_nothing(
    extended: Path, make_config: Make, crawls: tuple[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "set"
    shutil.copytree(extended, output, symlinks=True)
    (tmp_path / "crawls.paths").write_text("\n".join(crawls))
    sources = ("--sources", f"[{tmp_path}/crawls.paths]", "--max_sources", "2")
    with pytest.raises(ConfigError, match=r"max_sources is 2, but .* was made with all"):
        run(make_config(output, *EXTRA, *sources), extend=True)
    assert run(make_config(output, *EXTRA, *sources[:2]), extend=True).ran_tasks == 0
    assert pq.read_table(output / "work" / "changes" / "all.added.parquet").num_rows, "the last list of changes stays"


def test_changed_config_is_refused_and_nothing_changes(
    extended: Path, make_config: Make, crawls: tuple[str, str], tmp_path: Path
) -> None:
    before = (extended / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"balance.max_pairs_per_query is 3, but .* was made with 4"):
        run(make_config(extended, *EXTRA[:-1], "3", "--sources", json.dumps(crawls)), extend=True)
    with pytest.raises(ConfigError, match=r"seed is 9, .* \(and balance.max_pairs_per_query\); .*config.yaml has it"):
        run(make_config(extended, *EXTRA[:-1], "3", "--sources", json.dumps(crawls), "--seed", "9"), extend=True)
    other = tmp_path / "queries.txt"
    other.write_text("dog\n")
    with pytest.raises(ConfigError, match="queries is"):
        run(make_config(extended, *EXTRA, "--queries", str(other)), extend=True)
    assert (extended / "config.yaml").read_bytes() == before


def test_rebuilt_query_list_is_refused(
    extended: Path, make_config: Make, crawls: tuple[str, str], query_list: Path, tmp_path: Path
) -> None:
    config = make_config(extended, *EXTRA, "--sources", json.dumps(crawls))
    kept = query_list.read_bytes()
    query_list.unlink()
    plain = tmp_path / "plain.txt"
    plain.write_text("dog\ncat\n")
    write_queries(read_queries(plain).table, query_list)
    try:
        with pytest.raises(ConfigError, match="not the query list"):
            run(config, extend=True)
    finally:
        query_list.write_bytes(kept)


def test_extension_of_nothing_or_of_an_unfinished_set_is_refused(
    make_config: Make, crawls: tuple[str, str], extended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "new", "--sources", json.dumps(crawls[:1]), *EXTRA)
    with pytest.raises(ConfigError, match="holds no data set yet"):
        run(config, extend=True)
    broken = tmp_path / "broken"
    shutil.copytree(extended.parent / "first", broken, symlinks=True)
    next((broken / "work" / "balance" / "done").iterdir()).unlink()
    text = (broken / "config.yaml").read_text().replace(str(extended), str(broken))
    (broken / "config.yaml").write_text(text)
    sources = json.dumps(crawls[1:])
    assert main(["run", str(broken / "config.yaml"), "--extend", "--sources", sources]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: --extend:")
    assert "not finished (next: balance)" in error


def test_interrupted_extension_goes_on_and_lists_the_same_changes(
    extended: Path, make_config: Make, crawls: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "set"
    shutil.copytree(extended.parent / "first", output, symlinks=True)
    text = (output / "config.yaml").read_text().replace(str(extended), str(output))
    (output / "config.yaml").write_text(text)
    config = make_config(output, "--sources", json.dumps(crawls[1:]), *EXTRA)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BalancePairs, "work", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(config, extend=True)
    with pytest.raises(ConfigError, match="by other sources is under way"):
        run(dataclasses.replace(config, sources=(*config.sources, str(tmp_path / "third.parquet"))), extend=True)
    run(config, extend=True)
    assert _hashes(output, PLAN) == _hashes(extended, PLAN)
    for name in ("all.added.parquet", "all.evicted.parquet"):
        mine, theirs = (pq.read_table(o / "work" / "changes" / name) for o in (output, extended))
        assert mine.equals(theirs)


def test_larger_and_smaller_t_request_only_what_is_missing(
    make_config: Make, crawls: tuple[str, str], extended: Path, tmp_path: Path
) -> None:
    output = tmp_path / "set"
    shutil.copytree(extended, output, symlinks=True)
    sources = ("--sources", json.dumps(crawls), *EXTRA[:-1])
    before = set(_requested(output))
    run(make_config(output, *sources, "2"))
    assert set(_requested(output)) == before
    run(make_config(output, *sources, "6"))
    after = _requested(output)
    assert len(after) == len(set(after)) > len(before)
    run(make_config(output, *sources, "4"))
    assert _requested(output) == after
    assert published_hashes(output) == published_hashes(extended)


def test_lost_facts_are_fetched_again(
    make_config: Make, crawls: tuple[str, str], extended: Path, tmp_path: Path
) -> None:
    output = tmp_path / "set"
    shutil.copytree(extended, output, symlinks=True)
    shutil.rmtree(output / "work" / "fetch")
    run(make_config(output, "--sources", json.dumps(crawls), *EXTRA))
    assert pa.array(sorted(_requested(output))).equals(
        pa.array(sorted({u for p in (output / "work" / "schedule").glob("*.parquet") for u in _ids(p)}))
    )
    assert published_hashes(output) == published_hashes(extended)


def _ids(path: Path) -> list[bytes]:
    ids: list[bytes] = pq.read_table(path)["url_id"].to_pylist()
    return ids
