"""The most that a loss over tiles holds on a rank (`similarity.py`), by the sum of what it makes.

    rows of own pictures and texts in float32, the texts of all ranks, the gradients of both in float32
    + the tiles that are alive at a time, and what they are multiplied with

Tests hold the sum to what is really made, for one rank and for many.

Shapes: n own samples of N over all ranks, D = embedding width, R x C a tile of similarities.
"""

from __future__ import annotations

import math

from training.config import LossConfig
from training.learning.found_gradients import BLOCK

__all__ = ["TILES", "memory_of_loss"]

TILES = {"softmax": 4, "sigmoid": 6}
"""Tiles that are alive at a time: cosines, logits, their exponential, the gradient; of the sigmoid its argument, its
logarithm and what that keeps beside those of the tile before."""

_TILES_ADDED = {"softmax": 4, "sigmoid": 3}
"""Those of them while a tile's gradient is brought to the features."""


def memory_of_loss(
    loss: LossConfig, *, width: int, samples: int, total: int, ranks: int, micro_batches: int = 1
) -> dict[str, int]:
    """Bytes by kind, of the rank that has most, n = `samples` of N = `total` pairs; `width`: D. Of method contrastive;
    what others compare besides is not in it."""
    is_half = loss.features == "bf16"
    each = 2 if is_half else 4
    own, every = samples * width, total * width
    as_given = 8 * own  # of pictures and texts
    gradients = 4 * (own + every)

    tile_rows, tile_columns = min(loss.chunk_rows, samples), min(loss.chunk_rows, total)
    tile = 4 * tile_rows * tile_columns
    factors = 4 * width * (tile_rows + tile_columns if is_half else max(tile_rows, tile_columns))
    tiles = max(TILES[loss.name] * tile, _TILES_ADDED[loss.name] * tile + factors)
    if loss.name == "softmax":
        tiles += 4 * (2 * samples + total)  # log-sum-exp of rows and columns, cosines of pairs
    multiplied = (4 * own if is_half else 0) + (each * every if ranks > 1 else 0)
    forward = as_given + multiplied + gradients + tiles

    # Backwards gradients are rounded; those of texts go to the ranks that have them, in equal parts.
    rounded = (4 + 2) * min(BLOCK, every) if is_half else 0
    longest = math.ceil(total / ranks) * width
    sent = each * longest * (1 + (ranks if total % ranks else 0)) if ranks > 1 else 0
    then = max(rounded, sent, 4 * own if is_half else 0)  # float32 again, as they were given
    if loss.label_smoothing:  # has gradients of its own, made before and added to the others
        added = each * (own + every)
        then = max(12 * own + each * every + (4 * own if is_half else 0), added + max(rounded, each * every), then)
    backward = as_given + gradients + then
    again = as_given if micro_batches > 1 else 0  # of each micro-batch, and joined
    return {"features": again + max(forward, backward) - tiles, "tiles of the loss": tiles}
