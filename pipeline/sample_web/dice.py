"""The sample web's only randomness: draws from a seed and a path of keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

__all__ = ["Dice"]

T = TypeVar("T")

_MASK = 0xFFFFFFFFFFFFFFFF


class Dice:
    """A stream of draws that depends on (seed, keys) alone, on any machine and Python version.

    The state starts from BLAKE2b of the seed and keys; the generator is SplitMix64 (Steele, Lea and
    Flood, "Fast splittable pseudorandom number generators", 2014).
    """

    def __init__(self, seed: int, *keys: str | int) -> None:
        text = "\0".join([str(seed), *map(str, keys)])
        self._state = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def bits(self) -> int:
        """64 uniform bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * (self.bits() >> 11) / (1 << 53)

    def below(self, limit: int) -> int:
        """A whole number in 0..limit-1; the bias of the remainder is below 2^-50 for our limits."""
        return self.bits() % limit

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.between(0.0, 1.0) < probability

    def choice(self, items: Sequence[T]) -> T:
        """One of `items`, all equally likely."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[tuple[T, float]]) -> T:
        """One of (item, weight), likely in proportion to the weight."""
        mark = self.between(0.0, sum(weight for _, weight in items))
        for item, weight in items:
            mark -= weight
            if mark < 0:
                return item
        return items[-1][0]

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """A copy in random order (Fisher-Yates)."""
        copy = list(items)
        for i in range(len(copy) - 1, 0, -1):
            j = self.below(i + 1)
            copy[i], copy[j] = copy[j], copy[i]
        return copy

    def data(self, size: int) -> bytes:
        """`size` random bytes."""
        words = [self.bits().to_bytes(8, "big") for _ in range((size + 7) // 8)]
        return b"".join(words)[:size]
