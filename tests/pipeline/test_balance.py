from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records.identity import first_64_bits, keyed_hash, text_hash
from pipeline.stages.balance import BalanceConfig, mode_of
from pipeline.stages.balance.edges import edges_of, gather
from pipeline.stages.balance.limit import selection_limit
from pipeline.stages.balance.selection import balance
from pipeline.stages.balance.thresholds import Thresholds, find_thresholds
from pipeline.stages.balance.windows import Windows, find_windows

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
    hashes, mode = _query_hashes(num_queries), mode_of(config.mode)
    parts = [_batch(pairs[i::pieces]) for i in range(pieces)]
    counts = np.zeros(num_queries, np.int64)
    for _, ids in pairs:
        counts[ids] += 1
    limit = config.max_pairs_per_query
    if config.mode == "none":
        counts, limit = np.array([len(pairs)]), config.baseline_pairs or len(pairs)

    def find(windows: Windows, among: np.ndarray) -> tuple[Thresholds, np.ndarray]:
        below = np.zeros(len(counts), np.int64)
        near = [gather(p, mode, seed=seed, query_hashes=hashes, windows=windows, below=below) for p in parts]
        return find_thresholds(edges_of(near, below), among, limit, mode)

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
        outcome = balance(part, mode, seed=seed, query_hashes=hashes, thresholds=thresholds)
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


@settings(max_examples=60)
@given(
    pairs_strategy, st.integers(1, 12), st.integers(0, 3), st.sampled_from(["quota", "coordinated"]), st.integers(1, 4)
)
def test_every_query_selects_its_t_smallest_whatever_the_partitions(
    pairs: list[Pair], t: int, seed: int, mode: str, pieces: int
) -> None:
    config = BalanceConfig(mode=mode, max_pairs_per_query=t)
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
    mode = mode_of("metaclip")
    kept = []
    for rows, texts in ((batch, hashes), (turned, hashes[::-1].copy())):
        counts = np.bincount(rows["query_ids"].flatten().to_numpy(), minlength=20)
        thresholds, _ = find_thresholds(edges_of([], np.zeros(20, np.int64)), counts, 30, mode)
        outcome = balance(rows, mode, seed=1, query_hashes=texts, thresholds=thresholds)
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
    mode = mode_of(config.mode)
    near = gather(_batch(pairs), mode, seed=0, query_hashes=_query_hashes(3), windows=windows, below=below)
    _, failed = find_thresholds(edges_of([near], below), counts, 20, mode)
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


@settings(max_examples=40)
@given(pairs_strategy, st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.sampled_from(["quota", "metaclip"]))
def test_larger_t_selects_what_a_smaller_one_does(pairs: list[Pair], t: int, more: int, seed: int, mode: str) -> None:
    small = _select(pairs, 6, BalanceConfig(mode=mode, max_pairs_per_query=t), seed)
    large = _select(pairs, 6, BalanceConfig(mode=mode, max_pairs_per_query=t + more), seed)
    assert all(set(ids) <= set(large[uid]) for uid, ids in small.items())


@settings(max_examples=30)
@given(pairs_strategy, pairs_strategy, st.integers(1, 5))
def test_selection_of_a_union_comes_from_the_selections_of_its_parts(
    first: list[Pair], second: list[Pair], t: int
) -> None:
    """Why a set can grow: what neither part selects, the whole does not."""
    config = BalanceConfig(max_pairs_per_query=t)
    known = {uid for uid, _ in first}
    second = [pair for pair in second if pair[0] not in known]
    whole = _select(first + second, 6, config, 0)
    parts = _select(first, 6, config, 0) | _select(second, 6, config, 0)
    assert all(set(ids) <= set(parts[uid]) for uid, ids in whole.items())


def test_metaclip_inclusion_follows_the_closed_form_for_every_set_of_queries() -> None:
    """1 - prod(1 - t / max(count, t)) over a text's queries: an independent draw for each."""
    pairs = _random_pairs(40_000, 12)
    t = 900
    counts = np.bincount([q for _, ids in pairs for q in ids], minlength=12)
    chosen = _select(pairs, 12, BalanceConfig(mode="metaclip", max_pairs_per_query=t), seed=11)
    groups: dict[tuple[int, ...], list[bytes]] = {}
    for uid, ids in pairs:
        groups.setdefault(tuple(ids), []).append(uid)
    checked = 0
    for ids, uids in groups.items():
        probability = 1 - float(np.prod([1 - t / max(counts[q], t) for q in ids]))
        expected, deviation = probability * len(uids), (probability * (1 - probability) * len(uids)) ** 0.5
        if deviation > 3:
            checked += 1
            assert abs(sum(uid in chosen for uid in uids) - expected) < 5 * deviation
    assert checked > 20
    per_query = np.bincount([q for ids in chosen.values() for q in ids], minlength=12)
    assert np.all(np.abs(per_query - np.minimum(counts, t)) < 6 * t**0.5)


def test_coordinated_draws_do_not_favour_texts_with_many_queries() -> None:
    """Of equally frequent queries: one hash a pair keeps a long text no more often than a short one."""
    generator = np.random.default_rng(1)
    pairs = [(generator.bytes(16), [0, 1, 2, 3] if i % 2 else [i // 2 % 4]) for i in range(20_000)]
    kept = {}
    for mode in ("quota", "coordinated"):
        chosen = _select(pairs, 4, BalanceConfig(mode=mode, max_pairs_per_query=1_000), seed=2)
        long = sum(len(ids) == 4 and uid in chosen for uid, ids in pairs)
        kept[mode] = long / (len(chosen) - long)
    assert kept["quota"] > 3
    assert kept["coordinated"] < 1.2


@pytest.mark.parametrize("mode", ["quota", "coordinated", "metaclip", "none"])
def test_partitions_and_order_play_no_part_in_any_mode(mode: str) -> None:
    pairs = _random_pairs(3_000, 20)
    baseline = 500 if mode == "none" else None
    config = BalanceConfig(mode=mode, max_pairs_per_query=50, baseline_pairs=baseline)
    assert _select(pairs, 20, config, 1) == _select(pairs[::-1], 20, config, 1, pieces=7)


def test_baseline_is_a_uniform_sample_of_exactly_that_size() -> None:
    pairs = _random_pairs(4_000, 20)
    config = BalanceConfig(mode="none", baseline_pairs=1_000)
    chosen = _select(pairs, 20, config, seed=4)
    draws = keyed_hash(4, first_64_bits(b"".join(uid for uid, _ in pairs)))
    smallest = {pairs[i][0] for i in np.argsort(draws)[:1_000]}
    assert set(chosen) == smallest
    assert all(chosen[uid] == ids for uid, ids in pairs if uid in chosen)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.floats(0.01, 0.99))
def test_tail_share_gives_the_smallest_t_whose_tail_holds_it(counts: list[int], share: float) -> None:
    config = BalanceConfig(tail_share=share)
    t = selection_limit(np.array(counts), config, pairs=99)
    if not any(counts):
        assert t == 1
        return
    held = {limit: sum(c for c in counts if c <= limit) for limit in range(1, 31)}
    assert t == min(limit for limit, matches in held.items() if matches >= share * sum(counts))


def test_kernel_hashes_as_identity_does() -> None:
    pairs = _random_pairs(500, 20)
    hashes = _query_hashes(20)
    windows = Windows(lows=np.zeros(20, np.uint64), highs=np.full(20, 2**64 - 1, np.uint64))
    below = np.zeros(20, np.int64)
    for mode in ("quota", "coordinated"):
        edges = gather(_batch(pairs), mode_of(mode), seed=-3, query_hashes=hashes, windows=windows, below=below)
        ids = first_64_bits(b"".join(edges["uid"].to_pylist()))
        queries = None if mode == "coordinated" else hashes[edges["query_id"].to_numpy()]
        assert np.array_equal(edges["hash"].to_numpy(), keyed_hash(-3, ids, queries))
    assert not below.any()
