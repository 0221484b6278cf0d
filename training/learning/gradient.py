"""The exact gradient of the global batch, for any number of ranks and micro-batches.

    local batch --(micro-batches, no graph)--> rows, such as unit features
        -> the rank's part of the terms over the whole batch -> gradient of the own rows
        -> (micro-batches again, with graph, same random numbers) -> parameter gradients --sum over ranks (the last
           micro-batch's backward pass has not ended when the first of them are summed)

Contrastive losses couple all samples of a batch, so averaging micro-batch losses would change the
negatives. Features are small: caching their gradients cuts the graph there exactly (GradCache, Gao et
al., arXiv 2101.06983). With one micro-batch the first pass keeps its graph and there is no second. Each micro-batch has
one backward pass, whatever its method asks for, so that sharded gradients are reduced once. An image tower with batch
normalisation, which couples samples too, is computed over the local batch at once and comes last (batch_norm/).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from training.data.batches import Batch
from training.data.stream import share
from training.distributed import World
from training.learning.batch_norm.tower import pictures_at_once
from training.learning.buckets import Buckets
from training.learning.method import Method, Output, Rows
from training.learning.model import Model
from training.learning.sharding import is_sharded
from training.learning.terms import check_counts, check_loss, check_sums

__all__ = ["FlatGradients", "Gradients", "ShardedGradients", "accumulate_gradient", "make_gradients"]


_LEAST_COUNT = 1e-12
"""A sum of which no sample of the whole batch is a part is 0, and so is what it adds to the loss."""


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
    """All gradients in one buffer, so that one norm and one scaling serve all parameters, and few all-reduces.

    Autograd adds into the views, which are the parameters' `.grad`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], world: World) -> None:
        """`parameters`: those to train, at least one, all of one dtype and device."""
        total = sum(p.numel() for p in parameters)
        self.buffer = torch.zeros(total, dtype=parameters[0].dtype, device=parameters[0].device)
        start = 0
        for parameter in parameters:
            parameter.grad = self.buffer[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        self._buckets = Buckets(self.buffer, parameters, world) if world.size > 1 else None

    def zero_(self) -> None:
        """See Gradients."""
        self.buffer.zero_()

    def last_backward(self, is_last: bool) -> None:
        """See Gradients. In the last one sums over ranks are begun."""
        if is_last and self._buckets is not None:
            self._buckets.open()

    def sum_over_ranks(self) -> None:
        """See Gradients."""
        if self._buckets is not None:
            self._buckets.finish()

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
    method: Method,
    batch: Batch,
    gradients: Gradients,
    world: World,
    *,
    global_batch_size: int,
    micro_batches: int = 1,
) -> dict[str, Tensor]:
    """Fill `gradients` with the gradient of the global loss; return its terms by name (scalars, detached).

    `batch` is the rank's part (`World.share`) of the `global_batch_size` samples. Every rank returns the same
    terms and holds the same gradients, or its shard of them. Raises ConfigError for a method whose losses are not told
    in full (`terms.py`).
    """
    cut = [share(len(batch), rank=i, world_size=micro_batches) for i in range(micro_batches)]
    parts = [batch] if micro_batches == 1 else [batch.slice(*bounds) for bounds in cut]
    own_counts = method.counts(batch)
    check_counts(method, own_counts)
    counts = world.sum_each(own_counts)
    gradients.zero_()

    with pictures_at_once(model, batch, cut, world) as pictures:
        # Without a graph, unless there is one micro-batch alone.
        states: list[_RandomState] = []
        outputs: list[Output] = []
        constants: list[Rows] = []
        for part in parts:
            states.append(_RandomState.now(model.device))
            with torch.set_grad_enabled(micro_batches == 1):
                outputs.append(method.forward(model, part, rows_only=micro_batches > 1))
            with torch.no_grad():
                constants.append(method.constants(model, part))

        # The whole batch: what its terms say of the own rows, which are cut out of the graph.
        own = {
            name: rows.detach().requires_grad_() for name, rows in _joined([output.rows for output in outputs]).items()
        }
        coupled = method.coupled(model, own, _joined(constants), world=world, total=global_batch_size)
        if coupled.terms:
            torch.autograd.backward(list(coupled.terms.values()))
        by_rows = {name: rows.grad for name, rows in own.items() if rows.grad is not None}

        # With a graph: what each micro-batch's weights have to do with its rows, and its losses of single samples.
        sums: dict[str, Tensor] = {}
        after = _RandomState.now(model.device)
        for bounds, part, state, output in zip(cut, parts, states, outputs, strict=True):
            gradients.last_backward(bounds[1] == len(batch))
            if micro_batches > 1:
                state.restore(model.device)
                output = method.forward(model, part, known=output.rows)
            found = {name: rows[slice(*bounds)] for name, rows in coupled.found.items()}
            second = method.second(model, part, output, found)
            check_sums(method, forward=output.sums, second=second, counts=counts)
            check_loss(method, coupled.terms, output.sums, second)
            single = {**output.sums, **second}
            losses = {name: value / counts[name].clamp_min(_LEAST_COUNT) for name, value in single.items()}
            ends = [(output.rows[name], gradient[slice(*bounds)]) for name, gradient in by_rows.items()]
            ends += [(value, torch.ones_like(value)) for value in losses.values()]
            ends = [(end, gradient) for end, gradient in ends if end.requires_grad]
            torch.autograd.backward([end for end, _ in ends], [gradient for _, gradient in ends])
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach()
        if pictures is not None:
            pictures.backward()
        after.restore(model.device)

    gradients.sum_over_ranks()
    return world.sum_each({**coupled.terms, **sums})


def _joined(parts: Sequence[Rows]) -> dict[str, Tensor]:
    if len(parts) == 1:
        return dict(parts[0])  # of which torch.cat would make a copy
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
