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

from pipeline.checked import digest_of
from pipeline.engine import Done, Engine, EngineConfig, open_engine
from pipeline.identity import first_64_bits, keyed_hash, text_hash
from pipeline.ledger import LedgerConfig, Line, totals
from pipeline.schema import MATCHED
from pipeline.stages.balance import BalanceConfig
from pipeline.steps import dedup, exchange, schedule, select
from pipeline.steps.dedup import DedupConfig
from pipeline.steps.step import Step
from pipeline.storage import save_vector

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


def write_exchanged(root: Path, rows: Sequence[dict[str, Any]], files: int, engine: Engine) -> list[tuple[Done, Path]]:
    """Rows as `files` of matched pairs, through the real exchange with blocks of a few rows."""
    (root / "texts").mkdir(parents=True)
    matched = []
    for i in range(files):
        table = pa.Table.from_pylist(rows[i::files], schema=MATCHED)
        name = f"f{i}.matched.parquet"
        pq.write_table(table, root / "texts" / name)
        sha = hashlib.sha256((root / "texts" / name).read_bytes()).hexdigest()
        done = Done(partition=f"f{i}", key="k", outputs={name: sha}, info={"kept": table.num_rows})
        matched.append((done, root / "texts"))
    step = exchange.plan(matched, partitions=PARTITIONS, rows_per_task=150)
    return [(done, root / "exchange") for done in engine.run_step(root / "exchange", step.tasks)]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What the select steps left."""

    shards: list[list[dict[str, Any]]]
    counts: list[dict[str, Any]]
    lines: dict[str, Line]
    limit: tuple[Done, Path]
    thresholds: tuple[Done, Path]
    queries: tuple[Done, Path]
    query_counts: tuple[Done, Path]


def run_plan(
    root: Path,
    rows: Sequence[dict[str, Any]],
    files: int,
    config: BalanceConfig,
    engine: Engine,
    dedup_config: DedupConfig = PAIRS,
) -> Planned:
    """From matched rows to staging shards of 20 pairs, with the real steps."""
    exchanged = write_exchanged(root, rows, files, engine)
    (root / "queries").mkdir()
    save_vector(root / "queries" / "q.query_hashes.npy", query_hashes())
    digest = digest_of(root / "queries" / "q.query_hashes.npy")
    queries = (Done(partition="all", key="q", outputs={"q.query_hashes.npy": digest}, info={}), root / "queries")

    def run(step: Step) -> list[Done]:
        return engine.run_step(root / step.name, step.tasks)

    plan = dedup.plan(exchanged, partitions=PARTITIONS, num_queries=QUERIES, config=dedup_config, ledger=LEDGER)
    unique, directory = run(plan), root / "dedup"
    counts = (run(select.plan_count(unique, directory))[0], root / "count")
    limit = (run(select.plan_limit(counts, config))[0], root / "limit")
    gathered = run(select.plan_gather(unique, directory, limit, queries, config, 0))
    step = select.plan_threshold(gathered, root / "gather", (unique, directory), limit, queries, config, 0)
    thresholds = (run(step)[0], root / "threshold")
    chosen = run(select.plan_balance(unique, directory, thresholds, queries, config, 0, LEDGER))
    query_counts = (
        run(select.plan_report(chosen, root / "balance", counts, thresholds))[0],
        root / "query_counts",
    )
    scheduled = schedule.shards_of(run(schedule.plan(chosen, root / "balance", 20)))
    return Planned(
        shards=[pq.read_table(done.path(root / "schedule", "selected")).to_pylist() for done in scheduled],
        counts=pq.read_table(query_counts[0].path(query_counts[1], "query_counts")).to_pylist(),
        lines={line.stage: line for line in totals([done.info for done in [*unique, *chosen]])},
        limit=limit,
        thresholds=thresholds,
        queries=queries,
        query_counts=query_counts,
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
        bounds = [schedule.bound(i, shards) for i in range(shards + 1)]
        assert bounds[0] == 0
        assert bounds[-1] == 2**64
        assert all(a < b for a, b in itertools.pairwise(bounds))


def test_exchange_brings_every_row_to_its_partition_once(tmp_path: Path) -> None:
    rows = make_rows(700, 90)
    with open_engine(EngineConfig(kind="inline")) as engine:
        files = write_exchanged(tmp_path, rows, 5, engine)
    assert len(files) > 2, "files that do not fit together share no task"
    paths = [(d.file(where, "blocks"), d.file(where, "index.npy")) for d, where in files]
    seen = []
    for partition in range(PARTITIONS):
        mine = [row for batch in exchange.read_blocks(paths, partition) for row in batch.to_pylist()]
        ids = pa.array([row["url_id"] for row in mine], pa.binary(16))
        assert set(exchange.partition_of(ids, PARTITIONS).tolist()) == {partition}
        seen += [row["record"] for row in mine]
    assert sorted(seen) == list(range(700))


def test_small_files_share_an_exchange_task_and_large_ones_flush_often(tmp_path: Path) -> None:
    rows = make_rows(400, 90)
    with open_engine(EngineConfig(kind="inline")) as engine:
        (tmp_path / "small").mkdir()
        assert len(write_exchanged(tmp_path / "small", rows[:100], 20, engine)) == 1
        (tmp_path / "large").mkdir()
        ((done, where),) = write_exchanged(tmp_path / "large", rows, 1, engine)
    index = np.load(done.path(where, "index.npy"))
    assert index.shape == (1, 2, PARTITIONS + 1), "one batch of the file is one flush"
    assert index[0, 0, 0] == 0
    assert index[-1, 0, -1] == done.path(where, "blocks").stat().st_size
