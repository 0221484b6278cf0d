"""The exact gradient of the global batch, for any number of ranks and micro-batches.

    local batch --(micro-batches, no graph)--> unit features --gather--> features of the global batch
        -> the rank's part of the loss -> gradient of ALL features --sum over ranks--> own rows
        -> (micro-batches again, with graph, same random numbers) -> parameter gradients --sum over ranks

Contrastive losses couple all samples of a batch, so averaging micro-batch losses would change the
negatives. Features are small: caching their gradients cuts the graph there exactly (GradCache, Gao et
al., arXiv 2101.06983), and needs no gradient through a collective. With one micro-batch the first pass
keeps its graph and there is no second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from training.data.batches import Batch
from training.distributed import World
from training.learning.losses import Loss
from training.learning.model import Model, trim
from training.learning.sharding import is_sharded

__all__ = ["FlatGradients", "Gradients", "ShardedGradients", "accumulate_gradient", "make_gradients"]


class Gradients(Protocol):
    """The gradients of all trained parameters, of which every rank has computed its part."""

    def zero_(self) -> None:
        """Forget the last step's gradients."""

    def last_backward(self, is_last: bool) -> None:
        """Say before each backward pass of a step whether it is the last one."""

    def sum_over_ranks(self) -> None:
        """After the last backward pass: make them the gradients of the global loss, if that did not."""

    def norm(self) -> Tensor:
        """L2 norm over all parameters (scalar), the same on every rank."""

    def scale_(self, factor: Tensor) -> None:
        """Multiply all by `factor`."""


class FlatGradients:
    """All gradients in one buffer, so that one all-reduce, one norm and one scaling serve all parameters.

    Autograd adds into the views, which are the parameters' `.grad`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], world: World) -> None:
        """`parameters`: those to train, at least one, all of one dtype and device."""
        self._world = world
        total = sum(p.numel() for p in parameters)
        self.buffer = torch.zeros(total, dtype=parameters[0].dtype, device=parameters[0].device)
        start = 0
        for parameter in parameters:
            parameter.grad = self.buffer[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def zero_(self) -> None:
        """See Gradients."""
        self.buffer.zero_()

    def last_backward(self, is_last: bool) -> None:
        """See Gradients."""

    def sum_over_ranks(self) -> None:
        """See Gradients."""
        self._world.sum_(self.buffer)

    def norm(self) -> Tensor:
        """See Gradients."""
        return cast(Tensor, torch.linalg.vector_norm(self.buffer))

    def scale_(self, factor: Tensor) -> None:
        """See Gradients."""
        self.buffer.mul_(factor)


class ShardedGradients:
    """Each rank's part of the gradients of a sharded model, which FSDP2 sums in the last backward pass alone.

    Until then the gradients of all weights lie whole on each rank: one reduction a step, for that memory.
    """

    def __init__(self, clip: FSDPModule, parameters: Sequence[nn.Parameter], world: World) -> None:
        """`clip`: the sharded model; `parameters`: those of it to train."""
        self._clip = clip
        self._world = world
        self._sharded = [p for p in parameters if is_sharded(p)]
        self._whole = FlatGradients([p for p in parameters if not is_sharded(p)], world)

    def zero_(self) -> None:
        """See Gradients."""
        self._whole.zero_()
        for parameter in self._sharded:
            parameter.grad = None

    def last_backward(self, is_last: bool) -> None:
        """See Gradients."""
        self._clip.set_requires_gradient_sync(is_last)

    def sum_over_ranks(self) -> None:
        """See Gradients."""
        self._whole.sum_over_ranks()

    def norm(self) -> Tensor:
        """See Gradients."""
        squares = self._whole.buffer.new_zeros(())
        for part in self._parts():
            squares += torch.linalg.vector_norm(part) ** 2
        return (self._world.sum_(squares) + self._whole.norm() ** 2).sqrt()

    def scale_(self, factor: Tensor) -> None:
        """See Gradients."""
        self._whole.scale_(factor)
        for part in self._parts():
            part.mul_(factor)

    def _parts(self) -> Iterator[Tensor]:
        """This rank's part of each gradient."""
        for parameter in self._sharded:
            if parameter.grad is not None:
                yield cast(DTensor, parameter.grad).to_local()


def make_gradients(clip: nn.Module, parameters: Sequence[nn.Parameter], world: World) -> Gradients:
    """The gradients of `parameters`, which are those of `clip` to train."""
    if isinstance(clip, FSDPModule):
        return ShardedGradients(clip, parameters, world)
    return FlatGradients(parameters, world)


@dataclass(frozen=True, kw_only=True)
class _RandomState:
    """The generators that a forward pass may draw from."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> _RandomState:
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(cpu=torch.get_rng_state(), cuda=cuda)

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)


def accumulate_gradient(
    model: Model,
    loss: Loss,
    batch: Batch,
    gradients: Gradients,
    world: World,
    *,
    global_batch_size: int,
    micro_batches: int = 1,
    chunk_rows: int = 4096,
) -> Tensor:
    """Fill `gradients` with the gradient of the global loss; return the loss (scalar, detached).

    `batch` is the rank's part (`World.share`) of the `global_batch_size` samples. Every rank returns the same
    loss and holds the same gradients, or its shard of them. `chunk_rows` bounds the similarity matrix held at a time.
    """
    local = len(batch.keys)
    bounds = [(local * i // micro_batches, local * (i + 1) // micro_batches) for i in range(micro_batches)]
    slices = [batch if micro_batches == 1 else batch.slice(*bound) for bound in bounds]
    gradients.zero_()

    states: list[_RandomState] = []
    images: list[Tensor] = []
    texts: list[Tensor] = []
    for part in slices:
        states.append(_RandomState.now(model.device))
        with torch.set_grad_enabled(micro_batches == 1):
            image_bD, text_bD = _features(model, part)
        images.append(image_bD)
        texts.append(text_bD)

    image_grad_nD, text_grad_nD, value = _feature_gradients(
        model, loss, torch.cat([f.detach() for f in images]), torch.cat([f.detach() for f in texts]), world,
        global_batch_size, chunk_rows,
    )  # fmt: skip

    after = _RandomState.now(model.device)
    for (start, stop), part, state, image_bD, text_bD in zip(bounds, slices, states, images, texts, strict=True):
        gradients.last_backward(stop == local)
        if micro_batches > 1:
            state.restore(model.device)
            # A locked tower's features need no graph, and are here already.
            image_bD, text_bD = _features(model, part, image_bD if model.image_is_locked else None)
        pairs = [(f, g[start:stop]) for f, g in ((image_bD, image_grad_nD), (text_bD, text_grad_nD)) if f.requires_grad]
        torch.autograd.backward([f for f, _ in pairs], [g for _, g in pairs])
    after.restore(model.device)

    gradients.sum_over_ranks()
    return value


def _features(model: Model, part: Batch, image_bD: Tensor | None = None) -> tuple[Tensor, Tensor]:
    tokens_bL = trim(part.tokens) if model.can_trim and part.tokens.device.type == "cpu" else part.tokens
    if image_bD is None:
        image_bD = model.encode_image(part.images, part.keys)
    return image_bD, model.encode_text(tokens_bL)


def _feature_gradients(
    model: Model, loss: Loss, image_nD: Tensor, text_nD: Tensor, world: World, total: int, chunk_rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(d loss / d own image features, d loss / d own text features, loss).

    The gradients of scale and bias go into their `.grad`: this rank's part, summed later with the rest.
    """
    clip = cast(Any, model.clip)
    image_ND = world.gather_rows(image_nD, total=total).requires_grad_()
    text_ND = world.gather_rows(text_nD, total=total).requires_grad_()
    value = torch.zeros((), dtype=image_ND.dtype, device=image_ND.device)
    first, last = world.share(total)
    for start in range(first, last, chunk_rows):
        part = loss.part(
            image_ND,
            text_ND,
            start=start,
            stop=min(start + chunk_rows, last),
            logit_scale=clip.logit_scale.exp(),
            logit_bias=clip.logit_bias,
        )
        part.backward()  # type: ignore[no-untyped-call]  # torch's stub
        value += part.detach()
    assert image_ND.grad is not None
    assert text_ND.grad is not None
    both_2ND = torch.stack([image_ND.grad, text_ND.grad])
    world.sum_(both_2ND)
    world.sum_(value)
    own = slice(first, last)
    return both_2ND[0, own], both_2ND[1, own], value
