"""AdamW as CLIP uses it, and a learning rate that counts samples.

Counting samples rather than steps keeps the schedule the same when the batch or world size changes.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from training.config import OptimiserConfig
from training.learning.sharding import is_sharded

__all__ = ["learning_rate", "make_optimiser", "split_by_decay"]


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
    """AdamW over `module`'s trainable parameters.

    Those that decay are its first group, by which `checkpoints/moments.py` knows them.
    """
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
