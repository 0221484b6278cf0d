"""Near-duplicate search against brute force; who is kept; the steps over files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pictures import hamming
from pipeline.pictures.hamming import band_keys, band_masks, find_matches, find_pairs, pairs_in_band, resolve

Pair = set[tuple[int, int]]


def some_hashes(seed: int, centres: int, copies: int, flips: int) -> np.ndarray:
    """Clusters of hashes: each centre with copies of up to `flips` changed bits."""
    draw = np.random.default_rng(seed)
    values = [int(v) for v in draw.integers(0, 2**64, centres, np.uint64)]
    for value in list(values):
        for _ in range(copies):
            for bit in draw.choice(64, draw.integers(0, flips + 1), replace=False):
                value ^= 1 << int(bit)
            values.append(value)
    return np.array(values, np.uint64)


def brute_force(left: np.ndarray, right: np.ndarray, distance: int) -> Pair:
    return {
        (i, j)
        for i, a in enumerate(left.tolist())
        for j, b in enumerate(right.tolist())
        if (a ^ b).bit_count() <= distance
    }


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 5), st.integers(0, 9), st.integers(0, 12))
def test_pairs_equal_brute_force(seed: int, centres: int, copies: int, flips: int, distance: int) -> None:
    hashes = some_hashes(seed, centres, copies, flips)
    left, right = find_pairs(hashes, distance)
    found = [(min(p), max(p)) for p in zip(left.tolist(), right.tolist(), strict=True)]
    assert len(found) == len(set(found)), "a pair was reported twice"
    assert set(found) == {(i, j) for i, j in brute_force(hashes, hashes, distance) if i < j}


def test_long_runs_are_cut_again_and_nothing_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    hashes = np.unique(draw.integers(0, 2**11, 300, np.uint64) << np.uint64(20))  # most bands are equal everywhere
    expected = {(i, j) for i, j in brute_force(hashes, hashes, 3) if i < j}
    monkeypatch.setattr(hamming, "_SMALL_RUN", 16)
    left, right = find_pairs(hashes, 3)
    found = [(min(p), max(p)) for p in zip(left.tolist(), right.tolist(), strict=True)]
    assert len(found) == len(expected)
    assert set(found) == expected


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(0, 12))
def test_matches_equal_brute_force(seed: int, distance: int) -> None:
    left, right = some_hashes(seed, 12, 3, 6), some_hashes(seed, 9, 4, 8)
    found = list(zip(*(side.tolist() for side in find_matches(left, right, distance)), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == brute_force(left, right, distance)


def test_matches_in_small_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = some_hashes(1, 30, 3, 4), some_hashes(1, 20, 3, 4)
    whole = find_matches(left, right, 8)
    monkeypatch.setattr(hamming, "_BLOCK", 7)
    parts = find_matches(left, right, 8)
    assert set(zip(*map(list, whole), strict=True)) == set(zip(*map(list, parts), strict=True))


def test_bands_cut_by_key_ranges_give_every_pair_once() -> None:
    hashes = some_hashes(5, 40, 6, 4)
    expected = {frozenset(p) for p in zip(*(s.tolist() for s in find_pairs(hashes, 4)), strict=True)}
    found = []
    for band, mask in enumerate(band_masks(4)):
        keys = band_keys(hashes, band, 4)
        middle = 1 << (int(mask).bit_count() - 1)
        for part in (keys < middle, keys >= middle):
            index = np.flatnonzero(part)
            left, right = pairs_in_band(hashes[index], band, 4)
            found += [frozenset(p) for p in zip(index[left].tolist(), index[right].tolist(), strict=True)]
    assert len(found) == len(expected)
    assert set(found) == expected


def greedy(pairs: Pair, rank: list[int]) -> list[int]:
    """The rule, word for word: best first, kept unless a kept one looks like it."""
    kept_by = list(range(len(rank)))
    kept: list[int] = []
    for node in sorted(range(len(rank)), key=rank.__getitem__):
        like = [k for k in kept if (k, node) in pairs or (node, k) in pairs]
        if like:
            kept_by[node] = min(like, key=rank.__getitem__)
        else:
            kept.append(node)
    return kept_by


@settings(max_examples=60)
@given(st.integers(2, 12).flatmap(lambda n: st.tuples(
    st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda p: p[0] < p[1])),
    st.permutations(range(n)),
)))  # fmt: skip
def test_resolve_keeps_best_first_and_names_the_kept_one(case: tuple[Pair, list[int]]) -> None:
    pairs, rank = case
    left, right = np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.int64)
    assert resolve(left, right, np.array(rank)).tolist() == greedy(pairs, rank)
    assert resolve(right, left, np.array(rank)).tolist() == greedy(pairs, rank)
