"""A picture that is said by several queries against texts: their likeness is that of the likest query (BLIP-2).

    own queries [n, Q, D] x all texts [N, D] --tile by tile--> maximum over Q --> log-sum-exp of rows and columns
        --again--> loss, gradients         --again--> hard negatives, drawn by the samples' keys

As in `similarity.py`: a rank has the rows of its own pictures, texts alone are gathered, and no part of [N, N, Q] grows
with the batch. A tile is `tile` / Q pictures by `tile` texts.

Shapes: n own pictures of N, Q queries, D = embedding width, R x C a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.distributed import World
from training.learning.found_gradients import keep, take
from training.learning.keyed import GOLDEN, uniform

__all__ = ["Norms", "hard_negatives", "norms_of", "query_softmax_loss"]

_LEAST_WEIGHT = 1e-4
"""What each negative has on top of its probability (blip2_qformer.py of salesforce/LAVIS)."""


@dataclass(frozen=True, kw_only=True)
class Norms:
    """Log-sum-exp of the logits, over the whole batch."""

    of_pictures: Tensor
    """[n]: of each own one, over all texts."""
    of_texts: Tensor
    """[N]: of each, over all pictures."""


@dataclass(frozen=True, kw_only=True)
class _Tile:
    rows: slice
    columns: slice
    best: Tensor
    """[R, C]: the likeness of the likest query."""
    which: Tensor
    """int64[R, C]: that query."""


def norms_of(image_nQD: Tensor, text_ND: Tensor, scale: Tensor, *, tile: int, world: World) -> Norms:
    """The norms of `scale` times the likeness, without a graph. Every rank must call it."""
    with torch.no_grad():
        wide = _wide(image_nQD)
        row_n = torch.full((len(image_nQD),), -torch.inf, dtype=wide, device=image_nQD.device)
        column_N = torch.full((len(text_ND),), -torch.inf, dtype=wide, device=image_nQD.device)
        for part in _tiles(image_nQD, text_ND, tile):
            logits_RC = part.best * scale.to(wide)
            row_n[part.rows] = torch.logaddexp(row_n[part.rows], logits_RC.logsumexp(1))
            column_N[part.columns] = torch.logaddexp(column_N[part.columns], logits_RC.logsumexp(0))
        return Norms(of_pictures=row_n, of_texts=world.logsumexp(column_N))


def query_softmax_loss(
    image_nQD: Tensor,
    text_ND: Tensor,
    scale: Tensor,
    norms: Norms,
    *,
    first: int,
    tile: int,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean over both directions of the cross-entropy over N choices, with smoothed labels as torch's cross_entropy has
    them. This rank's share (scalar), whose gradient is that of the sum over all ranks.

    `image_nQD` (unit along D) belong to the texts `first` to `first` + n; `scale` is the scale itself; `norms` are
    `norms_of` the same.
    """
    value: Tensor = _QuerySoftmax.apply(
        image_nQD, text_ND, scale, norms.of_pictures, norms.of_texts, first, tile, label_smoothing
    )
    return value


def hard_negatives(
    image_nQD: Tensor, text_ND: Tensor, scale: Tensor, norms: Norms, keys_N: Tensor, *, first: int, tile: int,
    world: World,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(int64[n]: another sample's text for each own picture; int64[N]: another sample's picture for each text of all).

    By their number in the batch, drawn with the probability that the logits give them and `_LEAST_WEIGHT` more. Each
    pair's luck goes by the `keys_N` of both (Gumbel's way to draw), so that tiles and ranks do not matter. Every rank
    must call it.
    """
    with torch.no_grad():
        n, total = len(image_nQD), len(text_ND)
        wide, device = _wide(image_nQD), image_nQD.device
        row_n = torch.full((n,), -torch.inf, dtype=wide, device=device)
        column_N = torch.full((total,), -torch.inf, dtype=wide, device=device)
        text_n = torch.zeros(n, dtype=torch.int64, device=device)
        image_N = torch.zeros(total, dtype=torch.int64, device=device)
        for part in _tiles(image_nQD, text_ND, tile):
            logits_RC = part.best * scale.to(wide)
            keys_R = keys_N[first + part.rows.start : first + part.rows.stop]
            keys_C = keys_N[part.columns]
            for direction in (0, 1):
                norm = norms.of_texts[None, part.columns] if direction else norms.of_pictures[part.rows, None]
                weights_RC = (logits_RC - norm).exp() + _LEAST_WEIGHT
                luck_RC = weights_RC.log() + _luck(keys_R, keys_C, direction).to(wide)
                luck_RC[_own(part, first)] = -torch.inf
                best, at = luck_RC.max(dim=1 - direction)
                kept, found, span, begin = (
                    (column_N, image_N, part.columns, first + part.rows.start)
                    if direction
                    else (row_n, text_n, part.rows, part.columns.start)
                )
                is_more = best > kept[span]
                kept[span] = torch.where(is_more, best, kept[span])
                found[span] = torch.where(is_more, at + begin, found[span])
        # A rank knows of its own pictures only: the luckiest of all ranks.
        luck_WN = world.gather_rows(column_N[None], total=world.size)
        image_WN = world.gather_rows(image_N[None], total=world.size)
        return text_n, image_WN.gather(0, luck_WN.argmax(dim=0, keepdim=True))[0]


class _QuerySoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image_nQD: Tensor,
        text_ND: Tensor,
        scale: Tensor,
        row_n: Tensor,
        column_N: Tensor,
        first: int,
        tile: int,
        smoothing: float,
    ) -> Tensor:
        total, wide = len(text_ND), _wide(image_nQD)
        factor = scale.to(wide)
        value = (row_n.sum() + column_N[first : first + len(image_nQD)].sum()) / (2 * total)
        by_image = torch.zeros_like(image_nQD, dtype=wide)
        by_text = torch.zeros_like(text_ND, dtype=wide)
        by_scale = torch.zeros_like(factor)
        for part in _tiles(image_nQD, text_ND, tile):
            logits_RC = part.best * factor
            own = _own(part, first)
            value = value - (1 - smoothing) * logits_RC[own].sum() / total - smoothing * logits_RC.sum() / total**2
            gradient_RC = (logits_RC - row_n[part.rows, None]).exp_()
            gradient_RC += (logits_RC - column_N[None, part.columns]).exp_()
            gradient_RC.div_(2 * total).sub_(smoothing / total**2)
            gradient_RC[own] -= (1 - smoothing) / total
            by_scale += (gradient_RC * part.best).sum()
            # The likest query alone learns of a pair.
            spread_RQC = gradient_RC.new_zeros(len(gradient_RC), image_nQD.shape[1], gradient_RC.shape[1])
            spread_RQC.scatter_(1, part.which[:, None], (gradient_RC * factor)[:, None])
            text_CD, image_RQD = text_ND[part.columns].to(wide), image_nQD[part.rows].to(wide)
            by_image[part.rows] += spread_RQC @ text_CD
            by_text[part.columns] += spread_RQC.flatten(0, 1).T @ image_RQD.flatten(0, 1)
        keep(ctx, (by_image, by_text, by_scale), (image_nQD, text_ND, scale))
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (by_value,) = gradients
        return *take(ctx, by_value), None, None, None, None, None


def _tiles(image_nQD: Tensor, text_ND: Tensor, tile: int) -> Iterator[_Tile]:
    n, num_queries, width = image_nQD.shape
    wide, step = _wide(image_nQD), max(1, tile // num_queries)
    for row in range(0, n, step):
        rows = slice(row, min(row + step, n))
        image_MD = image_nQD[rows].to(wide).reshape(-1, width)
        for column in range(0, len(text_ND), tile):
            columns = slice(column, min(column + tile, len(text_ND)))
            likeness_MC = image_MD @ text_ND[columns].to(wide).T
            best_RC, which_RC = likeness_MC.view(rows.stop - rows.start, num_queries, -1).max(dim=1)
            yield _Tile(rows=rows, columns=columns, best=best_RC, which=which_RC)


def _own(part: _Tile, first: int) -> tuple[Tensor, Tensor]:
    """Where the true pairs stand in a tile: rows and columns."""
    begin = max(first + part.rows.start, part.columns.start)
    end = max(begin, min(first + part.rows.stop, part.columns.stop))
    numbers = torch.arange(begin, end, device=part.best.device)
    return numbers - first - part.rows.start, numbers - part.columns.start


def _luck(keys_R: Tensor, keys_C: Tensor, direction: int) -> Tensor:
    """float64[R, C]: Gumbel's numbers, by both keys."""
    z = keys_R[:, None] * GOLDEN + keys_C[None] + (direction + 1) * 0x2545F4914F6CDD1D
    return -(-(uniform(z) + 2.0**-54).log()).log()


def _wide(features: Tensor) -> torch.dtype:
    return torch.promote_types(features.dtype, torch.float32)
