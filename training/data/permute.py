"""Keyed permutations that need no memory: balanced Feistel networks, walked until they land inside.

Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002), section 4.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pipeline.records.identity import keyed_hash

__all__ = ["permute", "permute_each"]

_ROUNDS = 6
_PERMUTATION_KEY = 0x6F72646572  # "order": keeps these draws apart from those of augmentation


def permute(places: npt.NDArray[np.int64], *, num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """int64[K] samples at `places` int64[K], both in [0, num_samples): a bijection keyed by (seed, epoch).

    The order of 10^10 samples needs no memory.
    """
    ids = np.arange(_ROUNDS, dtype=np.uint64) + np.uint64(epoch * _ROUNDS)
    round_keys = keyed_hash(seed ^ _PERMUTATION_KEY, ids)
    values = places.astype(np.uint64)
    return _walk(values, np.uint64(num_samples), round_keys, seed=seed, half_bits=_half_bits(num_samples))


def permute_each(
    places: npt.NDArray[np.int64],
    *,
    sizes: npt.NDArray[np.int64],
    keys: npt.NDArray[np.uint64],
    seed: int,
) -> npt.NDArray[np.int64]:
    """int64[K]: each of `places` int64[K] within its own domain of `sizes` int64[K], permuted by its own one of `keys`
    uint64[K]. Places of one domain have one size and one key."""
    found = np.empty_like(places)
    distinct = np.unique(sizes)
    halves = np.array([_half_bits(int(size)) for size in distinct])
    half_of = halves[np.searchsorted(distinct, sizes)]
    for half_bits in np.unique(halves):
        here = half_of == half_bits
        round_keys = [keyed_hash(number, keys[here]) for number in range(_ROUNDS)]
        found[here] = _walk(
            places[here].astype(np.uint64),
            sizes[here].astype(np.uint64),
            round_keys,
            seed=seed,
            half_bits=int(half_bits),
        )
    return found


def _half_bits(size: int) -> int:
    """Half of the smallest even number of bits that holds `size` values."""
    return max(1, (max(size - 1, 1).bit_length() + 1) // 2)


def _walk(
    values: npt.NDArray[np.uint64],
    sizes: np.uint64 | npt.NDArray[np.uint64],
    round_keys: Iterable[np.uint64] | Iterable[npt.NDArray[np.uint64]],
    *,
    seed: int,
    half_bits: int,
) -> npt.NDArray[np.int64]:
    """`values`, each permuted until it lies below its size; keys are for all, or one for each value."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    keys, bounds = [np.broadcast_to(key, values.shape) for key in round_keys], np.broadcast_to(sizes, values.shape)

    def once(x: npt.NDArray[np.uint64], which: npt.NDArray[np.int64] | slice) -> npt.NDArray[np.uint64]:
        left, right = x >> shift, x & mask
        for key in keys:
            # keyed_hash mixes its seed and each id; XOR with the round's key selects the function.
            left, right = right, left ^ (keyed_hash(seed, right ^ key[which]) & mask)
        return (left << shift) | right

    values = once(values, slice(None))
    outside = np.flatnonzero(values >= bounds)
    while outside.size:
        values[outside] = once(values[outside], outside)
        outside = outside[values[outside] >= bounds[outside]]
    return values.astype(np.int64)
