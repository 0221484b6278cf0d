"""Draws that follow from samples' keys, made where the batch lies: the same for any ranks and micro-batches.

A key follows from (seed, epoch, uid), so every epoch draws anew; what is drawn for one purpose says nothing of another.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draws"]


def draws(keys_B: Tensor, count: int, *, purpose: int) -> Tensor:
    """float64[B, count], uniform in [0, 1), of int64[B] keys; `purpose` tells uses apart (1 to 2^30).

    splitmix64 over (key, purpose, column); int64 arithmetic wraps, and shifts are masked to be logical.
    """
    column = torch.arange(1, count + 1, device=keys_B.device) + (purpose << 32)
    z = keys_B[:, None] + column * -0x61C8864680B583EB
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    z = z ^ ((z >> 31) & 0x1FFFFFFFF)
    return ((z >> 11) & 0x1FFFFFFFFFFFFF).double() * 2.0**-53
