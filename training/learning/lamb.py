"""LAMB: Adam's step, for each matrix scaled to the matrix's own length (You et al., arXiv 1904.00962, algorithm 2).

    gradient -> moments -> u = m / (sqrt(v) + eps) + decay * w -> w -= rate * |w| / |u| * u

Gains, biases and scalars, which do not decay, take Adam's step as it is, as in NVIDIA's FusedLAMB, which EVA-CLIP was
trained with. The state has AdamW's names, so that checkpoints hold either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training.learning.sharding import is_sharded, part_of

__all__ = ["Lamb"]


class Lamb(torch.optim.Optimizer):
    """Over whole or sharded parameters.

    Where `found_inf` is set and not 0, a step changes nothing, as in torch's fused AdamW: the device decides, and is
    not waited for.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        sum_: Callable[[Tensor], Tensor],
    ) -> None:
        """`groups` as for torch's optimisers, each with its `weight_decay`. `sum_` adds up over the ranks that share
        the parameters, in place."""
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._sum_ = sum_

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # there is no loss to return
        """One step by the parameters' gradients; what has none stays."""
        steps = [_Step(self, parameter, group) for parameter, group in self._trained()]
        for one in steps:
            one.follow(self.found_inf)
        ratios = self._trust_ratios([one for one in steps if one.decay])
        # The change is computed again rather than kept: all of them are as large as the model.
        for one in steps:
            one.take(ratios.get(one.parameter), self.found_inf)

    def _trained(self) -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
        """Each parameter that has a gradient, with its group."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield parameter, group

    def _trust_ratios(self, steps: list[_Step]) -> dict[nn.Parameter, Tensor]:
        """|w| / |u| of each matrix over all ranks; 1 where one of them is 0."""
        if not steps:
            return {}
        squares = {one.parameter: torch.stack([_square(one.weight), _square(one.change())]) for one in steps}
        shared = [parameter for parameter in squares if is_sharded(parameter)]
        if shared:  # by no list of their numbers, which a GPU would have to be handed each step
            summed_S2 = self._sum_(torch.stack([squares[parameter] for parameter in shared]))
            squares |= zip(shared, summed_S2.unbind(), strict=True)
        weight_P, change_P = torch.stack(list(squares.values())).sqrt().unbind(1)
        ratio_P = torch.where((weight_P > 0) & (change_P > 0), weight_P / change_P, 1.0)
        return {one.parameter: ratio for one, ratio in zip(steps, ratio_P.unbind(), strict=True)}


class _Step:
    """One parameter's step, on this rank's part of it."""

    def __init__(self, optimiser: Lamb, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        self.parameter = parameter
        self.decay = float(group["weight_decay"])
        self._group = group
        state = optimiser.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        self._count = state["step"]
        self.weight, self._first, self._second = map(part_of, (parameter, state["exp_avg"], state["exp_avg_sq"]))

    def follow(self, found_inf: Tensor | None) -> None:
        """The moments follow the gradient, unless it is not finite."""
        assert self.parameter.grad is not None
        gradient = part_of(self.parameter.grad)
        is_good = torch.ones_like(self._count, dtype=torch.bool) if found_inf is None else found_inf == 0
        gradient = torch.where(is_good, gradient, 0.0)
        first, second = self._group["betas"]
        self._first.mul_(1 - (1 - first) * is_good.double()).add_(gradient, alpha=1 - first)
        self._second.mul_(1 - (1 - second) * is_good.double()).addcmul_(gradient, gradient, value=1 - second)
        self._count.add_(is_good)

    def change(self) -> Tensor:
        """u: what is left of the weight, at a rate and a trust ratio of 1."""
        first, second = (1 - beta ** self._count.double() for beta in self._group["betas"])
        denominator = (self._second / second).sqrt_().add_(self._group["eps"])
        change: Tensor = (self._first / first).div_(denominator)
        return change.add_(self.weight, alpha=self.decay)

    def take(self, ratio: Tensor | None, found_inf: Tensor | None) -> None:
        """Take the step; `ratio` None is 1."""
        change = self.change().mul_(self._group["lr"])
        if ratio is not None:
            change.mul_(ratio)
        if found_inf is not None:
            change = torch.where(found_inf == 0, change, 0.0)
        self.weight.sub_(change)


def _square(tensor: Tensor) -> Tensor:
    """The square of its length, in float64."""
    length: Tensor = torch.linalg.vector_norm(tensor)
    return length.double().square()
