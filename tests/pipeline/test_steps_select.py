"""The exchange, dedup, count, balance and schedule steps over files, against a plain-Python oracle."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine import Data, Done, Engine, EngineConfig, open_engine
from pipeline.engine.task import names_in
from pipeline.records.identity import first_64_bits, keyed_hash, text_hash
from pipeline.records.ledger import Line, totals
from pipeline.records.ledger_config import LedgerConfig
from pipeline.records.schema import MATCHED
from pipeline.stages.balance import BalanceConfig
from pipeline.steps.balance.plan import Balanced, balance
from pipeline.steps.dedup import dedup
from pipeline.steps.dedup_config import DedupConfig
from pipeline.steps.exchange import Blocks, Exchanged, exchange, partition_of, read_blocks
from pipeline.steps.judge_links import Matched
from pipeline.steps.queries import Queries
from pipeline.steps.schedule import bound, schedule
from pipeline.steps.step import Page
from pipeline.steps.texts_config import TextsConfig
from pipeline.storage.checked import digest_of
from pipeline.storage.parquet import save_vector
from tests.pipeline.pages import run_page

QUERIES = 12
PARTITIONS = 3
LEDGER = LedgerConfig()
PAIRS = DedupConfig(by="pair")


def make_rows(count: int, urls: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(3)
    rows = []
    for i in range(count):
        url, text = int(generator.integers(urls)), int(generator.integers(4))
        queries = sorted({int(q) for q in generator.integers(0, QUERIES, 3) ** 2 // QUERIES})
        rows.append(
            {
                "uid": hashlib.md5(f"{url} {text} {i % 2}".encode()).digest(),
                "url_id": hashlib.md5(f"{url}".encode()).digest(),
                "url": f"http://a.b/{url}",
                "alt_text": f"text {text}",
                "text_source": "alt",
                "source": f"file {i % 4}",
                "record": i,
                "link": 0,
                "caption": f"text {text}",
                "lang": "en",
                "p_en": 0.5,
                "lang_by": "model",
                "query_ids": queries,
            }
        )
    by_uid: dict[bytes, list[int]] = {}
    for row in rows:  # equal captions contain equal queries
        row["query_ids"] = by_uid.setdefault(row["url_id"] + row["caption"].encode(), row["query_ids"])
    return rows


def page_at(root: Path, seed: int = 0) -> Page:
    """A page without steps, whose files lie in `root`/work."""
    return Page(root, seed=seed, ledger=LEDGER)


def matched_data(page: Page, rows: Sequence[dict[str, Any]], files: int) -> Data[Matched]:
    """Rows as `files` of matched pairs."""
    data = Data("texts", Matched)
    data.directory = page.run.directory("texts")
    data.directory.mkdir(parents=True)
    done = []
    for i in range(files):
        table = pa.Table.from_pylist(rows[i::files], schema=MATCHED)
        outputs = {f"f{i}.matched.parquet": "", f"f{i}.rejections.parquet": ""}
        path = data.directory / f"f{i}.matched.parquet"
        pq.write_table(table, path)
        outputs[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        done.append(Done(partition=f"f{i}", key="k", outputs=outputs, info={"kept": table.num_rows}))
    data.finish(done)
    return data


def exchanged_data(page: Page, rows: Sequence[dict[str, Any]], files: int) -> Data[Blocks]:
    """Rows through the real exchange, with blocks of a few rows, once the page is run."""
    texts = TextsConfig(partitions=PARTITIONS, rows_per_flush=150)
    return page.add(exchange(matched_data(page, rows, files), texts))


def queries_data(page: Page) -> Data[Queries]:
    """The query list, as far as the select steps read it."""
    data = Data("queries", Queries)
    data.directory = page.run.directory("queries")
    data.directory.mkdir(parents=True)
    path = data.directory / "all.query_hashes.npy"
    save_vector(path, query_hashes())
    outputs = dict.fromkeys(names_in(Queries, "all"), "") | {path.name: digest_of(path)}
    data.finish([Done(partition="all", key="q", outputs=outputs, info={"num_queries": QUERIES})])
    return data


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What the select steps left."""

    page: Page
    shards: list[list[dict[str, Any]]]
    counts: list[dict[str, Any]]
    lines: dict[str, Line]
    balanced: Balanced
    queries: Data[Queries]


def run_plan(
    root: Path,
    rows: Sequence[dict[str, Any]],
    files: int,
    config: BalanceConfig,
    engine: Engine,
    dedup_config: DedupConfig = PAIRS,
) -> Planned:
    """From matched rows to staging shards of 20 pairs, with the real steps."""
    page = page_at(root)
    queries = queries_data(page)
    unique = dedup(page, exchanged_data(page, rows, files), queries, TextsConfig(partitions=PARTITIONS), dedup_config)
    balanced = balance(page, unique, queries, config)
    scheduled = page.add(schedule(balanced.pairs, 20))
    run_page(page, engine)
    return Planned(
        page=page,
        shards=[pq.read_table(part.files.selected.path).to_pylist() for part in scheduled.parts],
        counts=pq.read_table(balanced.query_counts.only.files.query_counts.path).to_pylist(),
        lines={line.stage: line for line in totals([*unique.said(), *balanced.pairs.said()])},
        balanced=balanced,
        queries=queries,
    )


def query_hashes() -> np.ndarray:
    return np.array([text_hash(f"q{i}") for i in range(QUERIES)], np.uint64)


def _oracle(rows: Sequence[dict[str, Any]], t: int) -> dict[bytes, list[int]]:
    first: dict[tuple[bytes, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: (r["uid"], r["source"], r["record"], r["link"])):
        first.setdefault((row["url_id"], row["caption"]), row)
    hashes = query_hashes()
    chosen: dict[bytes, list[int]] = {}
    for query in range(QUERIES):
        mine = [r["uid"] for r in first.values() if query in r["query_ids"]]
        key = hashes[query : query + 1]
        for uid in sorted(mine, key=lambda u: (int(keyed_hash(0, first_64_bits(u), key)[0]), u))[:t]:
            chosen.setdefault(uid, []).append(query)
    return chosen


@pytest.mark.parametrize(("files", "t"), [(1, 5), (4, 5), (3, 10_000)])
def test_selection_equals_the_oracle_whatever_the_files(tmp_path: Path, files: int, t: int) -> None:
    rows = make_rows(600, 80)
    with open_engine(EngineConfig(kind="inline")) as engine:
        result = run_plan(tmp_path, rows, files, BalanceConfig(max_pairs_per_query=t), engine)
    selected = [row for shard in result.shards for row in shard]
    assert {row["uid"]: row["selected_by"] for row in selected} == _oracle(rows, t)
    assert [r["order"] for r in selected] == sorted(r["order"] for r in selected)
    urls = [{row["url_id"] for row in shard} for shard in result.shards]
    assert sum(map(len, urls)) == len(set().union(*urls)), "a URL belongs to one staging shard"
    lines = result.lines
    assert lines["dedup"].rows_in == 600
    assert lines["dedup"].kept == lines["balance"].rows_in
    assert lines["balance"].kept == len(selected)
    for row in result.counts:
        query = row["query_id"]
        assert row["selected"] == min(t, row["matched"]) == sum(query in r["selected_by"] for r in selected)
        assert row["contained"] == sum(query in r["query_ids"] for r in selected)


def test_empty_input_gives_an_empty_plan(tmp_path: Path) -> None:
    with open_engine(EngineConfig(kind="inline")) as engine:
        result = run_plan(tmp_path, [], 1, BalanceConfig(max_pairs_per_query=5), engine)
    assert result.shards == [[]]


def test_schedule_bounds_cover_the_hash_space_without_gap() -> None:
    for shards in (1, 3, 7, 4096):
        bounds = [bound(i, shards) for i in range(shards + 1)]
        assert bounds[0] == 0
        assert bounds[-1] == 2**64
        assert all(a < b for a, b in itertools.pairwise(bounds))


def test_exchange_brings_every_row_to_its_partition_once(tmp_path: Path) -> None:
    rows = make_rows(700, 90)
    page = page_at(tmp_path)
    blocks = exchanged_data(page, rows, 5)
    with open_engine(EngineConfig(kind="inline")) as engine:
        run_page(page, engine)
    assert len(blocks.parts) > 2, "files that do not fit together share no task"
    exchanged = Exchanged.of(blocks)
    seen = []
    for partition in range(PARTITIONS):
        mine = [row for batch in read_blocks(exchanged, partition) for row in batch.to_pylist()]
        ids = pa.array([row["url_id"] for row in mine], pa.binary(16))
        assert set(partition_of(ids, PARTITIONS).tolist()) == {partition}
        seen += [row["record"] for row in mine]
    assert sorted(seen) == list(range(700))


def test_small_files_share_an_exchange_task_and_large_ones_flush_often(tmp_path: Path) -> None:
    rows = make_rows(400, 90)
    small, large = page_at(tmp_path / "small"), page_at(tmp_path / "large")
    of_small, of_large = exchanged_data(small, rows[:100], 20), exchanged_data(large, rows, 1)
    with open_engine(EngineConfig(kind="inline")) as engine:
        run_page(small, engine)
        run_page(large, engine)
    assert len(of_small.parts) == 1
    blocks = of_large.only.files
    index = np.load(blocks.index.path)
    assert index.shape == (1, 2, PARTITIONS + 1), "one batch of the file is one flush"
    assert index[0, 0, 0] == 0
    assert index[-1, 0, -1] == blocks.blocks.local.stat().st_size
