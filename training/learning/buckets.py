"""Gradients that are summed over the ranks while the backward pass still makes others.

    a weight's gradient is there -> all of its bucket's are -> those of all buckets before it -> its sum is begun

The gradients lie in one buffer, which is cut into buckets as DistributedDataParallel cuts them (Li et al., "PyTorch
Distributed", arXiv 2006.15704, section 3.2.3). A collective meets those of the other ranks by when it is begun, so all
ranks begin them in one order, however each one's backward pass goes: at first from the last matrix to the first, and
once a step has shown rank 0 in which order buckets become whole, in that one. Where the buffer is cut follows from the
weights alone. So a resumed run, which learns the order anew, has the same sums to the bit. (Batch normalisation over
ranks has collectives of its own in the backward pass, which needs one order for them on all ranks anyway.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.distributed import World
from training.errors import ModelError

__all__ = ["Buckets", "cut"]

MAX_BYTES = 25 * 2**20
"""DistributedDataParallel's `bucket_cap_mb`."""


def cut(parameters: Sequence[nn.Parameter], max_bytes: int) -> list[range]:
    """Which of `parameters` each bucket has. One of more than `max_bytes` is alone in its bucket.

    The optimiser has matrices first, then gains and biases, of which the first layers' come last of all: no bucket has
    both, since it would have to wait for them.
    """
    bounds, size = [0], 0
    for number, parameter in enumerate(parameters):
        own = parameter.numel() * parameter.element_size()
        is_other = number > 0 and (parameter.ndim < 2) != (parameters[number - 1].ndim < 2)
        if number > bounds[-1] and (size + own > max_bytes or is_other):
            bounds.append(number)
            size = 0
        size += own
    return [range(*bound) for bound in pairwise([*bounds, len(parameters)])]


class Buckets:
    """The parts of a buffer of gradients, each of which is summed by itself."""

    def __init__(self, buffer: Tensor, parameters: Sequence[nn.Parameter], world: World) -> None:
        """`buffer` [P] holds the gradients of `parameters`, in their order."""
        self._world = world
        self._weights = cut(parameters, MAX_BYTES)
        sizes = [sum(parameters[weight].numel() for weight in weights) for weights in self._weights]
        self._parts = torch.split(buffer, sizes)
        for bucket, weights in enumerate(self._weights):
            for weight in weights:
                take = partial(self._take, bucket, weight)
                parameters[weight].register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]  # torch's stub
        small = {bucket for bucket, weights in enumerate(self._weights) if parameters[weights[0]].ndim < 2}
        self._order = sorted(range(len(sizes)), key=lambda bucket: (bucket in small, -bucket))
        self._is_order_learnt = False
        self._missing: list[set[int]] | None = None
        """Of each bucket the weights that have no gradient yet; None outside of the last backward pass."""
        self._whole: list[int] = []
        """Buckets that miss nothing, in the order in which they came to it."""
        self._begun: list[dist.Work] = []
        """Sums of the first buckets of `_order`."""

    def open(self) -> None:
        """Before a step's last backward pass: sums are begun from now on."""
        self._missing = [set(weights) for weights in self._weights]

    def finish(self) -> None:
        """After it: begin what is left, and wait for all. On a GPU its stream waits, and the host does not.

        Weights without a gradient in this pass (the temperature, which has its own before, or a head that took no part)
        keep their bucket till now.
        """
        for bucket in self._order[len(self._begun) :]:
            self._begun.append(self._world.begin_sum_(self._parts[bucket]))
        for sum_ in self._begun:
            sum_.wait()
        if self._missing is not None and not self._is_order_learnt:
            last = [bucket for bucket in self._order if bucket not in self._whole]
            self._order = self._world.from_first(self._whole + last)
            self._is_order_learnt = True
        self._missing, self._whole, self._begun = None, [], []

    def _take(self, bucket: int, weight: int, _: Tensor) -> None:
        """The gradient of `weight` is whole: autograd calls this. Raises ModelError where it was called so before."""
        if self._missing is None:
            return
        missing = self._missing[bucket]
        if weight not in missing:
            raise ModelError(
                "a weight that several layers share gets its gradient in parts, since each layer's checkpoint has a "
                "backward pass of its own; with several processes set --model.gradient_checkpointing false"
            )
        missing.remove(weight)
        if not missing:
            self._whole.append(bucket)
            for following in self._order[len(self._begun) :]:
                if self._missing[following]:
                    break
                self._begun.append(self._world.begin_sum_(self._parts[following]))
