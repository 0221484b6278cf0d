"""Weights cut over the ranks (FSDP2, `distributed: fsdp`), for models that do not fit on one device.

    each layer -> its own group -> the towers -> the rest of the model -> (temperature and bias stay whole)

A group's weights are gathered just before its layer runs, as bf16 where that is computed in, and dropped after; its
gradients are summed into each rank's part in the backward pass, in fp32. The temperature and the bias are scalars,
which FSDP2 cannot cut: every rank keeps them, and `gradient.ShardedGradients` sums their gradients.

The model is built whole on every process's CPU first, with the same random numbers as an unsharded one, and goes
to the device layer by layer, so that the device never holds more than its part and one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from training.distributed import World

__all__ = ["is_sharded", "layers_of", "mesh_of", "part_of", "shard_module"]


def mesh_of(world: World) -> DeviceMesh:
    """All ranks in one row. Every rank must ask for it."""
    return init_device_mesh(world.device.type, (world.size,))


def is_sharded(tensor: Tensor) -> bool:
    """Whether each rank holds a part of `tensor` only."""
    return isinstance(tensor, DTensor)


def part_of(tensor: Tensor) -> Tensor:
    """This rank's part of `tensor`, in the memory that `tensor` has; all of one that is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """The repeated layers of `module`: the entries of its outermost lists and sequences of one class of entries."""
    for child in module.children():
        entries = list(child.children())
        is_stack = isinstance(child, (nn.ModuleList, nn.Sequential)) and len({type(entry) for entry in entries}) == 1
        if is_stack:
            yield from entries
        else:
            yield from layers_of(child)


def shard_module(
    clip: nn.Module,
    mesh: DeviceMesh,
    forwards: dict[str, Callable[..., Any]],
    *,
    heads: str,
    compute_dtype: torch.dtype | None,
) -> dict[str, Callable[..., Any]]:
    """Cut the weights of `clip` over `mesh`; return `forwards` as they must be called from now on.

    `forwards` (by name) are the ways in which weights of `clip` are used, other than its own `forward`. What stands
    under the name `heads` is called by itself. Weights are gathered and used as `compute_dtype`, None for their own;
    Gradients are summed over ranks, not averaged, and in the weights' own type.
    """
    own_dtype = next(clip.parameters()).dtype
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=own_dtype if compute_dtype else None)
    parts = [*layers_of(clip)]
    towers = [child for name, child in clip.named_children() if name != heads and any(True for _ in layers_of(child))]
    scalars = {parameter for parameter in clip.parameters() if not parameter.ndim}
    own = list(getattr(clip, heads).children()) if hasattr(clip, heads) else []
    for part in (*parts, *towers, *own):
        if any(True for _ in part.parameters()):
            fully_shard(part, mesh=mesh, mp_policy=precision)
    for name, forward in forwards.items():
        setattr(clip, name, forward)
    fully_shard(clip, mesh=mesh, mp_policy=precision, ignored_params=scalars)
    for name in forwards:
        register_fsdp_forward_method(clip, name)
    for scalar in scalars:
        scalar.data = scalar.data.to(mesh.device_type)
    for module in clip.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # gloo knows sums only.
            module.set_force_sum_reduction_for_comms(True)
            # A weight that took no part has a gradient of zero, as it has without sharding.
            module.set_reduce_scatter_unused_params(True)
    return {name: cast("Callable[..., Any]", getattr(clip, name)) for name in forwards}
