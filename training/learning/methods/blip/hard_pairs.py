"""Hard negatives: for each sample another one of the whole batch, likely one that is taken for its pair.

    similarities [n, N] --softmax, + a little, own pair 0--> weights --a number by the sample's key--> int64[n]

A draw hangs on the sample's key and its weights alone, so it is the same for any number of ranks and micro-batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.learning.keyed import GOLDEN, uniform

__all__ = ["keyed_choice", "keyed_uniform", "negative_weights"]

_LEAST_WEIGHT = 1e-4
"""Of every other sample, beside its share of the softmax (`blip_pretrain.py` of salesforce/BLIP)."""


def negative_weights(logits_nN: Tensor, *, first: int) -> Tensor:
    """[n, N]: how likely each other sample is to be drawn; 0 for the own one, `first + i` of the N."""
    weights_nN = logits_nN.softmax(1) + _LEAST_WEIGHT
    own = torch.arange(len(weights_nN), device=weights_nN.device)
    weights_nN[own, first + own] = 0
    return weights_nN


def keyed_choice(weights_nN: Tensor, keys_n: Tensor, *, salt: int) -> Tensor:
    """int64[n]: of each row one column, with a probability that is its share of the row's weights.

    `keys_n` int64[n] and `salt` decide, not torch's generator. A column of weight 0 is never drawn where any other has
    some.
    """
    sums_nN = weights_nN.double().cumsum(1)
    reached_n = keyed_uniform(keys_n, salt=salt) * sums_nN[:, -1]
    chosen_n = torch.searchsorted(sums_nN, reached_n[:, None], right=True)[:, 0]
    # Rounding may reach the sum itself: the last column that has some weight stands for it.
    columns = torch.arange(weights_nN.shape[1], device=weights_nN.device)
    last_n = columns.expand_as(weights_nN).where(weights_nN > 0, -1).amax(1)
    return torch.minimum(chosen_n, last_n.clamp_min(0))


def keyed_uniform(keys_n: Tensor, *, salt: int) -> Tensor:
    """float64[n] in [0, 1): of each key, int64[n], and `salt`."""
    return uniform(keys_n + torch.full_like(keys_n, salt + 1) * GOLDEN)
