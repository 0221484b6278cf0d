"""An optimiser's moments by the names of the parameters, as checkpoints hold them whatever the optimiser's groups are.

NAME.step, NAME.exp_avg, NAME.exp_avg_sq      of AdamW and of LAMB
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["empty_moments", "moments_by_name", "named_moments", "numbered_names"]


def named_moments(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of `module`'s optimiser: the tensors themselves. Empty before the first step."""
    return {
        f"{name}.{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def empty_moments(optimiser: torch.optim.Optimizer) -> None:
    """Give the optimiser the state that it makes in its first step, all zero, for a checkpoint to be read into."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            optimiser.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }


def numbered_names(module: nn.Module, optimiser: torch.optim.Optimizer) -> list[str]:
    """The names of the parameters of `module`, in the order in which its optimiser's state dict counts them."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [names[parameter] for group in optimiser.param_groups for parameter in group["params"]]


def moments_by_name(module: nn.Module, state: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Tensor]:
    """`named_moments` of `state`, the state dict of the optimiser of `module`, or of one like it that is not sharded.

    `names` are `numbered_names` of then. Earlier versions kept none: they had the parameters that decay first, and both
    kinds in the module's order.
    """
    if names is None:
        trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        names = [name for name, _ in sorted(trained, key=lambda entry: entry[1].ndim < 2)]
    return {
        f"{name}.{key}": value
        for number, name in enumerate(names)
        for key, value in state["state"].get(number, {}).items()
    }
