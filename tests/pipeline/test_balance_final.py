"""The final balance over simulated yields: a pure function of the plan and of which pairs survived."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.load import ConfigError
from pipeline.engine import Data, Done, Engine, EngineConfig, open_engine
from pipeline.engine.task import names_in
from pipeline.records.identity import first_64_bits, keyed_hash
from pipeline.records.ledger import totals
from pipeline.records.schema import FETCHED
from pipeline.stages.balance import BalanceConfig
from pipeline.stages.balance.limit import planned_limit
from pipeline.steps.balance.final import final_balance
from pipeline.steps.judges.survivors import Arrived
from tests.pipeline.pages import run_page
from tests.pipeline.test_steps_select import QUERIES, Planned, make_rows, page_at, query_hashes, run_plan

Rows = list[dict[str, Any]]


def _fetch(planned: Planned, survives: Callable[[bytes], bool]) -> Data[Arrived]:
    """Staging shards as the fetched step leaves them, with `survives` in place of the web."""
    data = Data("fetched", Arrived)
    data.directory = planned.page.run.directory("fetched")
    data.directory.mkdir(parents=True)
    done = []
    for i, shard in enumerate(planned.shards):
        rows = []
        for row in shard:
            status = "success" if survives(row["uid"]) else "failed_to_download"
            rows.append({**dict.fromkeys(FETCHED.names), **row, "status": status})
        path = data.directory / f"{i:05d}.fetched.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=FETCHED), path)
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        outputs = dict.fromkeys(names_in(Arrived, f"{i:05d}"), "") | {path.name: sha}
        done.append(Done(partition=f"{i:05d}", key="k", outputs=outputs))
    data.finish(done)
    return data


def _balance(
    root: Path, rows: Rows, config: BalanceConfig, survives: Callable[[bytes], bool], engine: Engine
) -> tuple[Planned, Rows, Rows]:
    """The plan, the final rows, and FINAL_COUNTS."""
    planned = run_plan(root, rows, 2, config, engine)
    page = page_at(root)
    final = final_balance(page, _fetch(planned, survives), planned.balanced, planned.queries, config.mode)
    run_page(page, engine)
    table = [row for part in final.parts for row in pq.read_table(part.files.fetched.path).to_pylist()]
    (line,) = totals(final.said())
    alive = sum(survives(row["uid"]) for shard in planned.shards for row in shard)
    assert (line.stage, line.rows_in, line.kept) == ("final_balance", alive, len(table))
    counts = pq.read_table(page["final_counts"].data.only.files.final_counts.path).to_pylist()
    return planned, table, counts


def _oracle(planned: Planned, t: int, survives: Callable[[bytes], bool]) -> dict[bytes, list[int]]:
    """Each query sorts its surviving planned pairs by (hash, uid) and takes the first t."""
    hashes = query_hashes()
    chosen: dict[bytes, list[int]] = {}
    alive = [row for shard in planned.shards for row in shard if survives(row["uid"])]
    for query in range(QUERIES):
        mine = [row["uid"] for row in alive if query in row["selected_by"]]
        key = hashes[query : query + 1]
        for uid in sorted(mine, key=lambda u: (int(keyed_hash(0, first_64_bits(u), key)[0]), u))[:t]:
            chosen.setdefault(uid, []).append(query)
    return chosen


def _with_yield(share: float) -> Callable[[bytes], bool]:
    return lambda uid: hashlib.sha256(uid).digest()[0] < 256 * share


@pytest.mark.parametrize("share", [1.0, 0.7, 0.4, 0.0])
def test_each_query_takes_its_smallest_surviving_planned_edges(tmp_path: Path, share: float) -> None:
    config = BalanceConfig(max_pairs_per_query=9, expected_yield=0.7)
    survives = _with_yield(share)
    with open_engine(EngineConfig(kind="inline")) as engine:
        planned, rows, counts = _balance(tmp_path, make_rows(1500, 400), config, survives, engine)
    assert {row["uid"]: row["selected_by"] for row in rows} == _oracle(planned, 9, survives)
    for row in counts:
        query, matched = row["query_id"], planned.counts[row["query_id"]]["matched"]
        assert row["planned"] == min(13, matched)
        assert row["survived"] == sum(query in r["selected_by"] and survives(r["uid"]) for r in _flat(planned))
        assert row["selected"] == min(9, row["survived"]) == sum(query in r["selected_by"] for r in rows)
        assert row["contained"] == sum(query in r["query_ids"] for r in rows)
        assert row["short"] == min(9, matched) - row["selected"]
    assert any(row["short"] for row in counts) == (share < 1)


def _flat(planned: Planned) -> Sequence[dict[str, Any]]:
    return [row for shard in planned.shards for row in shard]


def test_whole_yield_of_a_reserve_is_the_set_without_one(tmp_path: Path) -> None:
    rows = make_rows(900, 300)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with open_engine(EngineConfig(kind="inline")) as engine:
        plain, without, _ = _balance(tmp_path / "a", rows, BalanceConfig(max_pairs_per_query=6), lambda _: True, engine)
        wide = BalanceConfig(max_pairs_per_query=6, expected_yield=0.5, reserve_slack=1.2)
        reserve, with_reserve, counts = _balance(tmp_path / "b", rows, wide, lambda _: True, engine)
    assert [row["uid"] for row in without] == [row["uid"] for row in _flat(plain)], "no reserve: nothing is cut"
    assert len(_flat(reserve)) > len(_flat(plain))
    assert [(r["uid"], r["selected_by"]) for r in with_reserve] == [(r["uid"], r["selected_by"]) for r in without]
    assert not any(row["short"] for row in counts)


def test_pair_fetched_for_another_query_fills_no_gap(tmp_path: Path) -> None:
    """A query whose planned pairs are lost stays short, though surviving pairs contain it."""
    rows = make_rows(1500, 400)
    config = BalanceConfig(max_pairs_per_query=5)
    with open_engine(EngineConfig(kind="inline")) as engine:
        (tmp_path / "plan").mkdir()
        plan = run_plan(tmp_path / "plan", rows, 2, config, engine)
        lost = {row["uid"] for row in _flat(plan) if 0 in row["selected_by"]}
        (tmp_path / "all").mkdir()
        _, kept, counts = _balance(tmp_path / "all", rows, config, lambda uid: uid not in lost, engine)
    assert counts[0]["selected"] == 0
    assert counts[0]["short"] == 5
    assert counts[0]["contained"] == sum(0 in row["query_ids"] for row in kept) > 0


@pytest.mark.parametrize("mode", ["coordinated", "metaclip", "none"])
def test_other_modes_keep_their_rule_among_the_survivors(tmp_path: Path, mode: Any) -> None:
    baseline = 60 if mode == "none" else None
    config = BalanceConfig(mode=mode, max_pairs_per_query=30, baseline_pairs=baseline, expected_yield=0.6)
    survives = _with_yield(0.8)
    with open_engine(EngineConfig(kind="inline")) as engine:
        planned, rows, counts = _balance(tmp_path, make_rows(1500, 600), config, survives, engine)
    alive = [row for row in _flat(planned) if survives(row["uid"])]
    if mode == "none":
        assert len(_flat(planned)) == 100
        order = sorted(alive, key=lambda r: (int(keyed_hash(0, first_64_bits(r["uid"]))[0]), r["uid"]))
        assert {row["uid"] for row in rows} == {row["uid"] for row in order[:60]}
        assert all(row["selected_by"] == row["query_ids"] for row in rows)
    elif mode == "coordinated":
        assert all(row["selected"] == min(30, row["survived"]) for row in counts)
    else:
        assert len(rows) < len(alive)
        for row in counts:
            expected = min(30, row["survived"])
            assert abs(row["selected"] - expected) <= 6 * expected**0.5


def test_reserve_is_rounded_up_and_one_means_none() -> None:
    assert planned_limit(20_000, BalanceConfig()) == 20_000
    assert planned_limit(20_000, BalanceConfig(expected_yield=0.9)) == 22_223
    assert planned_limit(9, BalanceConfig(expected_yield=0.9)) == 10
    assert planned_limit(10, BalanceConfig(expected_yield=0.5, reserve_slack=1.05)) == 21
    assert np.all([planned_limit(t, BalanceConfig(expected_yield=1 / 3)) == 3 * t for t in range(1, 2000)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"expected_yield": 0.0},
        {"expected_yield": 1.1},
        {"reserve_slack": 0.9},
        {"tail_share": 1.0},
        {"baseline_pairs": 5},
        {"mode": "none", "baseline_pairs": 0},
    ],
)
def test_impossible_balance_is_a_config_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        BalanceConfig(**wrong)
