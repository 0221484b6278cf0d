"""Rows of the whole batch, with a gradient: what each rank learns of a row goes back to the rank that has it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from training.distributed import World

__all__ = ["everyone"]


def everyone(own_nD: Tensor, world: World, *, total: int) -> Tensor:
    """[N, D]: every rank's rows, N = `total`, in rank order. In the backward pass their gradients are summed over the
    ranks, each rank receiving those of its own rows: all ranks must come through here, in the same order."""
    if world.size == 1:
        return own_nD
    return cast(Tensor, _Everyone.apply(own_nD, world, total))


class _Everyone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own_nD: Tensor, world: World, total: int) -> Tensor:
        ctx.world, ctx.total = world, total
        return world.gather_rows(own_nD, total=total)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient_ND,) = gradients
        return ctx.world.reduce_scatter_rows(gradient_ND, total=ctx.total), None, None
