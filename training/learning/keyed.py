"""Draws that follow from samples' keys, made where the batch lies: the same for any ranks and micro-batches.

A key follows from (seed, epoch, uid), so every epoch draws anew; what is drawn for one purpose says nothing of another.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["GOLDEN", "draws", "spread", "uniform"]

GOLDEN = -0x61C8864680B583EB
"""splitmix64's step (Steele et al. 2014): 2^64 over the golden ratio, as int64."""


def draws(keys_B: Tensor, count: int, *, purpose: int) -> Tensor:
    """float64[B, count], uniform in [0, 1), of int64[B] keys; `purpose` tells uses apart (1 to 2^30).

    splitmix64 over (key, purpose, column).
    """
    column = torch.arange(1, count + 1, device=keys_B.device) + (purpose << 32)
    return uniform(keys_B[:, None] + column * GOLDEN)


def uniform(z: Tensor) -> Tensor:
    """float64 in [0, 1) of int64 of any shape: splitmix64's finish, as 53 bits."""
    z = spread(z)
    z = z ^ ((z >> 31) & 0x1FFFFFFFF)
    return ((z >> 11) & 0x1FFFFFFFFFFFFF).double() * 2.0**-53


def spread(z: Tensor) -> Tensor:
    """splitmix64's two multiplications: int64 of any shape, in an order that says nothing of the old one."""
    # int64 arithmetic wraps; shifts are masked to be logical.
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    return (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
