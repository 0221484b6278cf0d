"""AdamW's moments by the names of the parameters, as checkpoints hold them whatever the optimiser's groups are.

NAME.step, NAME.exp_avg, NAME.exp_avg_sq
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["empty_moments", "moments_by_name", "named_moments"]


def named_moments(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of `module`'s optimiser: the tensors themselves. Empty before the first step."""
    return {
        f"{name}.{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def empty_moments(optimiser: torch.optim.Optimizer) -> None:
    """Give AdamW the state that it makes in its first step, all zero, for a checkpoint to be read into."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            optimiser.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }


def moments_by_name(module: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """`named_moments` of `state`, the state dict of an unsharded module's optimiser, which counts parameters by number.

    `optimiser` is one of `module`: whether sharded or not, its first group holds the parameters that decay.
    """
    decays = {id(parameter) for parameter in optimiser.param_groups[0]["params"]}
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    # Those that decay come first, and both kinds in the module's order.
    numbered = sorted(trained, key=lambda entry: id(entry[1]) not in decays)
    return {
        f"{name}.{key}": value
        for number, (name, _) in enumerate(numbered)
        for key, value in state["state"].get(number, {}).items()
    }
