"""The optimiser of a config, by its name: AdamW as CLIP uses it, or LAMB."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.config import OptimiserConfig
from training.learning.lamb import Lamb
from training.learning.rates import rate_shares
from training.learning.sharding import is_sharded

__all__ = ["make_optimiser", "set_rate", "split_by_decay"]


def split_by_decay(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(decayed, not decayed) trainable parameters: matrices and larger, against gains, biases and scalars."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]


def make_optimiser(
    module: nn.Module, config: OptimiserConfig, *, sum_: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> torch.optim.Optimizer:
    """That of `config` over `module`'s trainable parameters; `sum_` adds up over ranks that share them, in place.

    Its groups are those that decay, then those that do not, each from the lowest rate to the highest. Raises
    ModelError.
    """
    shares = rate_shares(module, config)
    decayed, plain = split_by_decay(module)
    groups = _by_share(decayed, shares, config.weight_decay)
    # One fused call takes tensors of one kind only.
    parts_whole = bool(decayed) and is_sharded(decayed[0])
    groups += _by_share([p for p in plain if is_sharded(p) or not parts_whole], shares, 0.0)
    groups += _by_share([p for p in plain if parts_whole and not is_sharded(p)], shares, 0.0)
    betas = (config.beta1, config.beta2)
    if config.name == "lamb":
        return Lamb(groups, lr=config.learning_rate, betas=betas, eps=config.eps, sum_=sum_)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.eps, fused=True)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Have the next step taken at `rate`, in each group at its share of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate_share"]


def _by_share(
    parameters: list[nn.Parameter], shares: dict[nn.Parameter, float], decay: float
) -> list[dict[str, object]]:
    """A group for each share of the rate."""
    found = sorted({shares[parameter] for parameter in parameters})
    return [
        {"params": [p for p in parameters if shares[p] == share], "weight_decay": decay, "rate_share": share}
        for share in found
    ]
