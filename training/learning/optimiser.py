"""AdamW as CLIP uses it, and a learning rate that counts samples.

Counting samples rather than steps keeps the schedule the same when the batch or world size changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.config import OptimiserConfig
from training.learning.sharding import is_sharded

__all__ = [
    "empty_moments",
    "learning_rate",
    "make_optimiser",
    "moments_by_name",
    "named_moments",
    "split_by_decay",
]


def learning_rate(config: OptimiserConfig, *, samples: int, total_samples: int) -> float:
    """The rate for the step that ends at `samples` samples of `total_samples`.

    Linear from 0 to the peak over the warm-up, then half a cosine down to the final rate.
    """
    if samples < config.warmup_samples:
        return config.learning_rate * samples / config.warmup_samples
    done = (samples - config.warmup_samples) / max(1, total_samples - config.warmup_samples)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def split_by_decay(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(decayed, not decayed) trainable parameters: matrices and larger, against gains, biases and scalars."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]


def make_optimiser(module: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over `module`'s trainable parameters."""
    decayed, plain = split_by_decay(module)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [p for p in plain if is_sharded(p) or not is_sharded(decayed[0])], "weight_decay": 0.0},
    ]
    if whole := [p for p in plain if is_sharded(decayed[0]) and not is_sharded(p)]:
        groups.append({"params": whole, "weight_decay": 0.0})  # one fused call takes tensors of one kind only
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def named_moments(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by the names of `module`'s parameters: NAME.step, NAME.exp_avg, NAME.exp_avg_sq; the tensors
    themselves. Empty before the first step."""
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


def moments_by_name(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """`named_moments` of the state dict of an unsharded module's optimiser, which counts parameters by number."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    decayed, plain = split_by_decay(module)
    return {
        f"{names[id(parameter)]}.{key}": value
        for number, parameter in enumerate([*decayed, *plain])
        for key, value in state["state"].get(number, {}).items()
    }
