"""A model for pictures of one size becomes one for another: its weights, and the optimiser's moments of them.

Position embeddings of pictures are interpolated, and so are their moments; all else goes over as it is. Texts need no
new weights: a shorter context is the same tower, fed with less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from configs.load import ConfigError

__all__ = ["carry_over", "fit_weights", "resize_positions"]


def resize_positions(value: Tensor, like: Tensor, *, mode: str) -> Tensor:
    """A picture's position embedding for another grid: [.., P + g * g, W] -> [.., P + G * G, W].

    P tokens that stand for no patch (the class token) are kept. `mode` is F.interpolate's. Raises ConfigError
    where `value` and `like` are not such a pair.
    """
    if value.ndim < 2 or value.shape[:-2] != like.shape[:-2] or value.shape[-1] != like.shape[-1]:
        raise ConfigError(f"a weight of shape {list(value.shape)} cannot become {list(like.shape)}; keep image_size")
    old, new = value.shape[-2], like.shape[-2]
    for extra in (1, 0, 2, 4, 5):
        before, after = math.isqrt(max(old - extra, 0)), math.isqrt(max(new - extra, 0))
        if before and after and before**2 == old - extra and after**2 == new - extra:
            break
    else:
        raise ConfigError(f"a weight of shape {list(value.shape)} cannot become {list(like.shape)}; keep image_size")
    rows = value.reshape(old, -1).float()
    grid = rows[extra:].T.reshape(1, -1, before, before)
    grid = F.interpolate(grid, size=(after, after), mode=mode, antialias=True, align_corners=False)
    resized = torch.cat([rows[:extra], grid.reshape(rows.shape[1], -1).T])
    return resized.reshape(like.shape).to(like.dtype)


def carry_over(
    old: nn.Module, old_optimiser: torch.optim.Optimizer, new: nn.Module, new_optimiser: torch.optim.Optimizer
) -> None:
    """Put weights and moments of `old` into `new`, which differs at most in its picture size."""
    new.load_state_dict(fit_weights(old.state_dict(), new.state_dict()))
    state = old_optimiser.state_dict()
    parameters = [p for group in new_optimiser.param_groups for p in group["params"]]
    state["state"] = {number: _fit_moments(entry, parameters[number]) for number, entry in state["state"].items()}
    new_optimiser.load_state_dict(state)


def fit_weights(old: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`old`, by name, in the shapes that `like` has."""
    return {name: _fit(value, like[name], mode="bicubic") for name, value in old.items()}


def _fit(value: Tensor, like: Tensor, *, mode: str) -> Tensor:
    if value.shape == like.shape:
        return value
    if not isinstance(like, DTensor):
        return resize_positions(value, like, mode=mode)
    whole = resize_positions(cast(DTensor, value).full_tensor(), like, mode=mode)
    return cast(Tensor, distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None))


def _fit_moments(entry: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    # Bilinear: bicubic overshoots, and a squared gradient's mean must not become negative.
    return {
        name: _fit(value, parameter, mode="bilinear") if isinstance(value, Tensor) and value.ndim else value
        for name, value in entry.items()
    }
