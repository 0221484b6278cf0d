"""Gradients that a forward pass finds with its loss, until the backward pass takes them: once, and without a copy.

    forward: [n, D], [N, D] in float32 --keep--> ctx --take: times d loss / d value, rounded, in place--> backward

They are the largest tensors of a loss over tiles: a copy, or one in bf16 beside the one in float32, would be as much as
all else that a huge batch takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["BLOCK", "keep", "take"]

BLOCK = 1 << 18
"""Numbers that are rounded at a time: 1 MB in float32."""


def keep(ctx: Any, gradients: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
    """Leave the `gradients` by `inputs` with the `ctx` of an autograd function. They must be nobody else's."""
    # Not by save_for_backward, which would hold them beside what is made of them.
    ctx.found_gradients = list(gradients)
    ctx.found_dtypes = [each.dtype for each in inputs]


def take(ctx: Any, by_value: Tensor) -> tuple[Tensor, ...]:
    """What was kept times `by_value` (scalar), each in the type of its input; a narrower one lies in the first part of
    the same memory. Raises RuntimeError the second time."""
    gradients, ctx.found_gradients = ctx.found_gradients, None
    if gradients is None:
        raise RuntimeError("the gradient of this loss was taken already; compute the loss again")
    return tuple(_times(found, by_value, dtype) for found, dtype in zip(gradients, ctx.found_dtypes, strict=True))


def _times(found: Tensor, by_value: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype.itemsize >= found.dtype.itemsize:
        return found.mul_(by_value).to(dtype)
    wide = found.view(-1)
    narrow = wide.view(dtype)[: len(wide)]
    for start in range(0, len(wide), BLOCK):  # each block goes where only blocks lie that were read before
        block = slice(start, start + BLOCK)
        narrow[block] = (wide[block] * by_value).to(dtype)
    return narrow.view(found.shape)
