"""An exponential moving average of the weights: `optimiser.ema_decay`.

    step --> weights --follow--> average --> evaluation, export (the weights themselves go on being trained)

It is part of a checkpoint beside the weights, so a resumed run has the same to the bit. Of sharded weights each rank
averages its part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from training.learning.sharding import part_of

__all__ = ["Average"]


class Average:
    """Of the trained weights of one module."""

    def __init__(self, clip: nn.Module, decay: float) -> None:
        """It begins as the weights are now."""
        self._clip = clip
        self._decay = decay
        self._trained = {name: p for name, p in clip.named_parameters() if p.requires_grad}
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._trained.items()}
        """By the names that they have in the module."""

    @torch.no_grad()
    def follow(self, *, steps: int, is_finite: Tensor) -> None:
        """After the `steps`th step of the run, which was left out where `is_finite` is false: the device decides.

        Of the average stays `decay`, in the first steps (1 + steps) / (10 + steps), so that a run need not be long to
        forget what it began with (TensorFlow's ExponentialMovingAverage with `num_updates`).
        """
        share = 1 - min(self._decay, (1 + steps) / (10 + steps))
        for name, weight in self._trained.items():
            average = part_of(self.weights[name])
            average.lerp_(part_of(weight), (is_finite * share).to(average))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the average for as long; then its own weights, to the bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for module in self._clip.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # after a pass without gradient the outermost weights are still gathered
        for name, weight in self._trained.items():
            own, average = part_of(weight), part_of(self.weights[name])
            kept = own.clone()
            own.copy_(average)
            average.copy_(kept)
