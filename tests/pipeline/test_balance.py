from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.identity import first_64_bits, keyed_hash, text_hash
from pipeline.stages.balance import (
    BalanceConfig,
    Thresholds,
    Windows,
    balance,
    edges_of,
    find_thresholds,
    find_windows,
    gather,
)

Pair = tuple[bytes, list[int]]


def _batch(pairs: list[Pair]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "uid": pa.array([uid for uid, _ in pairs], pa.binary(16)),
            "query_ids": pa.array([ids for _, ids in pairs], pa.list_(pa.int32())),
            "source": pa.array(["s"] * len(pairs)),
            "record": pa.array(range(len(pairs)), pa.int64()),
            "link": pa.array([0] * len(pairs), pa.int32()),
        }
    )


def _query_hashes(count: int) -> np.ndarray:
    return np.array([text_hash(f"query {i}") for i in range(count)], np.uint64)


def _select(
    pairs: list[Pair],
    num_queries: int,
    config: BalanceConfig,
    seed: int,
    pieces: int = 1,
    windows: Windows | None = None,
) -> dict[bytes, list[int]]:
    """The stage's functions put together, over `pieces` partitions."""
    hashes = _query_hashes(num_queries)
    parts = [_batch(pairs[i::pieces]) for i in range(pieces)]
    counts = np.zeros(num_queries, np.int64)
    for _, ids in pairs:
        counts[ids] += 1
    limit = config.max_pairs_per_query
    if config.mode == "none":
        counts, limit = np.array([len(pairs)]), config.baseline_pairs or len(pairs)

    def find(windows: Windows, among: np.ndarray) -> tuple[Thresholds, np.ndarray]:
        below = np.zeros(len(counts), np.int64)
        near = [gather(p, config, seed=seed, query_hashes=hashes, windows=windows, below=below) for p in parts]
        return find_thresholds(edges_of(near, below), among, limit, config)

    thresholds, failed = find(find_windows(counts, limit) if windows is None else windows, counts)
    if len(failed):
        lows, highs = np.ones(len(counts), np.uint64), np.zeros(len(counts), np.uint64)
        lows[failed], highs[failed] = 0, np.uint64(2**64 - 1)
        whole, still = find(
            Windows(lows=lows, highs=highs), np.where(np.isin(np.arange(len(counts)), failed), counts, 0)
        )
        assert not len(still)
        thresholds.hashes[failed], thresholds.uids[failed] = whole.hashes[failed], whole.uids[failed]
    chosen: dict[bytes, list[int]] = {}
    for part in parts:
        outcome = balance(part, config, seed=seed, query_hashes=hashes, thresholds=thresholds)
        assert outcome.num_in == outcome.kept.num_rows + outcome.rejected.num_rows
        for uid, ids in zip(outcome.kept["uid"].to_pylist(), outcome.kept["selected_by"].to_pylist(), strict=True):
            chosen[uid] = ids
    return chosen


def _oracle(pairs: list[Pair], num_queries: int, config: BalanceConfig, seed: int) -> dict[bytes, list[int]]:
    """Each query sorts all of its pairs by (hash, uid) and takes the first t."""
    hashes = _query_hashes(num_queries)
    chosen: dict[bytes, list[int]] = {}
    for query in range(num_queries):
        mine = []
        for uid, ids in pairs:
            if query in ids:
                key = None if config.mode == "coordinated" else hashes[query : query + 1]
                mine.append((int(keyed_hash(seed, first_64_bits(uid), key)[0]), uid))
        for _, uid in sorted(mine)[: config.max_pairs_per_query]:
            chosen.setdefault(uid, []).append(query)
    return chosen


pairs_strategy = st.lists(
    st.tuples(st.binary(min_size=16, max_size=16), st.sets(st.integers(0, 5), min_size=1).map(sorted)),
    max_size=40,
    unique_by=lambda pair: pair[0],
)


@settings(max_examples=60, deadline=None)
@given(
    pairs_strategy, st.integers(1, 12), st.integers(0, 3), st.sampled_from(["quota", "coordinated"]), st.integers(1, 4)
)
def test_every_query_selects_its_t_smallest_whatever_the_partitions(
    pairs: list[Pair], t: int, seed: int, mode: str, pieces: int
) -> None:
    config = BalanceConfig(mode=mode, max_pairs_per_query=t)  # type: ignore[arg-type]  # the strategy gives valid modes
    assert _select(pairs, 6, config, seed, pieces) == _oracle(pairs, 6, config, seed)


def _random_pairs(count: int, num_queries: int) -> list[Pair]:
    generator = np.random.default_rng(7)
    weights = 1 / np.arange(1, num_queries + 1)
    weights /= weights.sum()
    return [
        (generator.bytes(16), sorted({int(q) for q in generator.choice(num_queries, 3, p=weights)}))
        for _ in range(count)
    ]


def test_query_selects_exactly_min_of_t_and_count() -> None:
    pairs = _random_pairs(5_000, 50)
    counts = np.bincount([q for _, ids in pairs for q in ids], minlength=50)
    chosen = _select(pairs, 50, BalanceConfig(max_pairs_per_query=100), seed=3)
    selected = np.bincount([q for ids in chosen.values() for q in ids], minlength=50)
    assert selected.tolist() == np.minimum(counts, 100).tolist()


def test_larger_t_keeps_what_smaller_t_kept() -> None:
    pairs = _random_pairs(2_000, 30)
    small = _select(pairs, 30, BalanceConfig(max_pairs_per_query=20), seed=0)
    large = _select(pairs, 30, BalanceConfig(max_pairs_per_query=60), seed=0)
    assert set(small) < set(large)
    assert all(set(ids) <= set(large[uid]) for uid, ids in small.items())


def test_other_list_order_does_not_reshuffle() -> None:
    """A query counts by its text: renumbering the list changes no pair."""
    pairs = _random_pairs(1_000, 20)
    hashes = _query_hashes(20)
    batch = _batch(pairs)
    turned = _batch([(uid, sorted(19 - q for q in ids)) for uid, ids in pairs])
    config = BalanceConfig(mode="metaclip", max_pairs_per_query=30)
    kept = []
    for rows, texts in ((batch, hashes), (turned, hashes[::-1].copy())):
        counts = np.bincount(rows["query_ids"].flatten().to_numpy(), minlength=20)
        thresholds, _ = find_thresholds(edges_of([], np.zeros(20, np.int64)), counts, 30, config)
        outcome = balance(rows, config, seed=1, query_hashes=texts, thresholds=thresholds)
        kept.append(outcome.kept["uid"].to_pylist())
    assert kept[0] == kept[1]


def test_metaclip_keeps_with_the_closed_form_probability() -> None:
    pairs = [(uid, [0, 1]) for uid, _ in _random_pairs(20_000, 5)]
    chosen = _select(pairs, 2, BalanceConfig(mode="metaclip", max_pairs_per_query=2_000), seed=5)
    expected = 1 - (1 - 0.1) ** 2
    deviation = (expected * (1 - expected) * len(pairs)) ** 0.5
    assert abs(len(chosen) - expected * len(pairs)) < 5 * deviation


def test_mode_none_selects_everything() -> None:
    pairs = _random_pairs(100, 5)
    assert _select(pairs, 5, BalanceConfig(mode="none", max_pairs_per_query=1), seed=0) == dict(pairs)


def test_equal_hashes_are_cut_by_uid() -> None:
    uids = [bytes(8) + bytes([i]) + bytes(7) for i in range(6)]  # equal first 64 bits: equal hashes
    chosen = _select([(uid, [0]) for uid in reversed(uids)], 1, BalanceConfig(max_pairs_per_query=4), seed=0)
    assert sorted(chosen) == uids[:4]


@pytest.mark.parametrize("where", ["too_low", "too_high", "too_narrow"])
def test_query_whose_window_missed_is_gathered_again(where: str) -> None:
    pairs = _random_pairs(500, 3)
    counts = np.bincount([q for _, ids in pairs for q in ids], minlength=3)
    config = BalanceConfig(max_pairs_per_query=20)
    windows = find_windows(counts, 20)
    if where == "too_low":
        windows.highs[0] = windows.lows[0] = 5
    elif where == "too_high":
        windows.lows[0], windows.highs[0] = 2**63, 2**64 - 1
    else:
        windows.lows[0] = windows.highs[0]
    below = np.zeros(3, np.int64)
    near = gather(_batch(pairs), config, seed=0, query_hashes=_query_hashes(3), windows=windows, below=below)
    _, failed = find_thresholds(edges_of([near], below), counts, 20, config)
    assert failed.tolist() == [0]
    assert _select(pairs, 3, config, 0, 2, windows) == _oracle(pairs, 3, config, 0)


def test_windows_hold_few_edges_of_a_head_query() -> None:
    windows = find_windows(np.array([10**9, 20_000]), 20_000)
    share = (int(windows.highs[0]) - int(windows.lows[0])) / 2**64
    assert 0.08 < share * 10**9 / 20_000 < 0.1, "twelve standard deviations, not all t"
    assert windows.highs[1] < windows.lows[1]


def test_t_below_one_is_a_config_error() -> None:
    with pytest.raises(Exception, match="at least 1"):
        BalanceConfig(max_pairs_per_query=0)
