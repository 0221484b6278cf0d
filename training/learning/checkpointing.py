"""Activations that are computed again in the backward pass rather than kept: `model.gradient_checkpointing`.

open_clip does it for transformers, and timm for its towers. CLIP's ResNets, for which open_clip does nothing, are done
here: stem and blocks keep their inputs alone. Batch normalisation stays exact, since no batch is cut: a block is
computed again over the same samples, on all ranks, and its running statistics follow a batch once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from open_clip.modified_resnet import Bottleneck, ModifiedResNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["set_checkpointing", "stems_of"]


def set_checkpointing(clip: Any, enable: bool) -> None:
    """Have the towers of open_clip's module compute their activations again, or keep them."""
    clip.set_grad_checkpointing(enable)
    for module in clip.modules():
        if isinstance(module, ModifiedResNet):
            cast(Any, module).__class__ = _CheckpointedResNet if enable else ModifiedResNet
        elif isinstance(module, Bottleneck):
            cast(Any, module).__class__ = _CheckpointedBottleneck if enable else Bottleneck


def stems_of(clip: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """(the first module, the last one) of what a ResNet computes before its layers."""
    for module in clip.modules():
        if isinstance(module, ModifiedResNet):
            yield module.conv1, module.avgpool


class _CheckpointedResNet(ModifiedResNet):  # type: ignore[misc]  # open_clip has no types
    def stem(self, x: Tensor) -> Tensor:
        return _again(super().stem, x, list(self.children()))


class _CheckpointedBottleneck(Bottleneck):  # type: ignore[misc]  # open_clip has no types
    def forward(self, x: Tensor) -> Tensor:
        return _again(super().forward, x, list(self.modules()))


def _again(forward: Callable[[Tensor], Tensor], x: Tensor, modules: Sequence[nn.Module]) -> Tensor:
    """`forward` of `x`, of which nothing is kept but `x`; the batch normalisations in it are among `modules`."""
    if not torch.is_grad_enabled():
        return forward(x)
    norms = [module for module in modules if isinstance(module, _BatchNorm) and module.training]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _still(norms)

    value: Tensor = checkpoint(forward, x, use_reentrant=False, context_fn=contexts)
    return value


@contextmanager
def _still(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """The running statistics of `norms` stay as they are, whatever they see."""
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
