"""CLIP's and SigLIP's losses over tiles of the similarity matrix, of which no part grows with the batch.

    own pictures [n, D] x all texts [N, D] --tile by tile--> log-sum-exp of rows and columns --again--> loss, gradients

A rank has the rows of its own pictures. One matrix serves both directions of CLIP's loss: its rows are the choices of a
picture among the texts, its columns those of a text among the pictures, whose log-sum-exp the ranks put together. So
texts alone are gathered, the gradient of the pictures' features is whole where they are, and a logit is computed twice
(once, where one tile is all) rather than in each direction forwards and backwards. (Inf-CL, arXiv 2410.17243, tiles in
this way, each direction by itself.)

Features may be bf16: a tile is computed in float32, and a rank's gradients are summed in it. They leave here as bf16,
and so go from rank to rank.

Shapes: n own rows of N, D = embedding width, R x C a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.learning.found_gradients import keep, take

__all__ = ["Sums", "sigmoid_loss", "smoothing", "softmax_loss"]


def softmax_loss(
    image_nD: Tensor,
    text_ND: Tensor,
    scale: Tensor,
    *,
    first: int,
    tile: int,
    logsumexp: Callable[[Tensor], Tensor] = lambda own: own,
) -> Tensor:
    """CLIP's loss (arXiv 2103.00020, figure 3): mean over both directions of the cross-entropy over N choices. This
    rank's share (scalar), whose gradient is that of the sum over all ranks.

    `image_nD` belong to the texts `first` to `first` + n; `scale` is the scale itself, not its logarithm; `tile` bounds
    rows and columns of a tile. `logsumexp` puts [N] of all ranks together, element by element.
    """
    value: Tensor = _Softmax.apply(image_nD, text_ND, scale, first, tile, logsumexp)
    return value


def smoothing(image_nD: Tensor, text_ND: Tensor, scale: Tensor, *, first: int) -> Tensor:
    """What a label smoothing of 1 adds to `softmax_loss`: the mean logit of the true pairs less that of all N x N.

    A smoothing of s takes the true pair's logit by 1 - s and that of each pair by s / N (Szegedy et al., arXiv
    1512.00567, section 7), in both directions alike, so it adds s times this; and the mean over all pairs is the
    product of the mean picture and the mean text. This rank's share, as of `softmax_loss`.
    """
    value: Tensor = _Smoothing.apply(image_nD, text_ND, scale, first)
    return value


def sigmoid_loss(
    image_nD: Tensor, text_ND: Tensor, scale: Tensor, bias: Tensor | None, *, first: int, tile: int
) -> Tensor:
    """SigLIP's loss (arXiv 2303.15343, equation 1): each of the N x N pairs is a yes-or-no question. As `softmax_loss`,
    with a `bias` of the logits; None is 0."""
    bias = scale.new_zeros(()) if bias is None else bias
    value: Tensor = _Sigmoid.apply(image_nD, text_ND, scale, bias, first, tile)
    return value


def _wide(features: Tensor) -> torch.dtype:
    """What features are multiplied in."""
    return torch.float32 if features.dtype in (torch.bfloat16, torch.float16) else features.dtype


class Sums:
    """The gradients of a loss by its logits, brought to what the logits are made of, tile by tile."""

    def __init__(self, image_nD: Tensor, text_ND: Tensor, scale: Tensor, first: int, tile: int) -> None:
        self.image_nD, self.text_ND, self.scale = image_nD, text_ND, scale.detach()
        self._first, self._tile = first, tile
        self.dtype = _wide(image_nD)
        self._parts: dict[str, Tensor] = {}

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """(rows, columns) of each tile."""
        for row in range(0, len(self.image_nD), self._tile):
            for column in range(0, len(self.text_ND), self._tile):
                yield slice(row, row + self._tile), slice(column, column + self._tile)

    @property
    def is_one(self) -> bool:
        """Whether one tile is all."""
        return max(len(self.image_nD), len(self.text_ND)) <= self._tile

    def likeness(self, rows: slice, columns: slice) -> Tensor:
        """[R, C]: cosines."""
        return self.image_nD[rows].to(self.dtype) @ self.text_ND[columns].to(self.dtype).T

    def pairs(self, tile_RC: Tensor, rows: slice, columns: slice) -> Tensor:
        """The values of a tile where picture and text belong together, as a view; most tiles have none."""
        return tile_RC.diagonal(self._first + rows.start - columns.start)

    def likeness_of_pairs(self) -> Tensor:
        """[n]: cosines of the pictures and their own texts, of as many at a time as a tile has rows."""
        found_n = torch.empty(len(self.image_nD), dtype=self.dtype, device=self.image_nD.device)
        for start in range(0, len(self.image_nD), self._tile):
            rows = slice(start, start + self._tile)
            own_RD = self.text_ND[self._first : self._first + len(self.image_nD)][rows]
            found_n[rows] = (self.image_nD[rows].to(self.dtype) * own_RD.to(self.dtype)).sum(1)
        return found_n

    def add(self, gradient_RC: Tensor, likeness_RC: Tensor, rows: slice, columns: slice) -> None:
        """Take in d loss / d logit of a tile."""
        parts = self._parts or self._empty()
        parts["scale"] += (gradient_RC * likeness_RC).sum()
        scaled_RC = gradient_RC * self.scale
        parts["image"][rows] += scaled_RC @ self.text_ND[columns].to(self.dtype)
        parts["text"][columns] += scaled_RC.T @ self.image_nD[rows].to(self.dtype)

    def _empty(self) -> dict[str, Tensor]:
        new = {"dtype": self.dtype, "device": self.image_nD.device}
        for name, like in (("image", self.image_nD), ("text", self.text_ND), ("scale", self.scale)):
            self._parts[name] = torch.zeros(like.shape, **new)  # type: ignore[call-overload]  # a dict hides the keywords
        return self._parts

    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """By image, text and scale."""
        parts = self._parts or self._empty()
        return parts["image"], parts["text"], parts["scale"]


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image_nD: Tensor,
        text_ND: Tensor,
        scale: Tensor,
        first: int,
        tile: int,
        logsumexp: Callable[[Tensor], Tensor],
    ) -> Tensor:
        sums = Sums(image_nD, text_ND, scale, first, tile)
        total = len(text_ND)
        new = {"dtype": sums.dtype, "device": image_nD.device}
        row_n = torch.full((len(image_nD),), -torch.inf, **new)  # type: ignore[call-overload]  # as above
        column_N = torch.full((total,), -torch.inf, **new)  # type: ignore[call-overload]  # as above
        likeness_RC = row_n  # of the last tile
        for rows, columns in sums.tiles():
            likeness_RC = sums.likeness(rows, columns)
            logits_RC = likeness_RC * sums.scale
            row_n[rows] = torch.logaddexp(row_n[rows], logits_RC.logsumexp(1))
            column_N[columns] = torch.logaddexp(column_N[columns], logits_RC.logsumexp(0))
        column_N = logsumexp(column_N)
        pairs_n = sums.scale * sums.likeness_of_pairs()
        own_columns_n = column_N[first : first + len(image_nD)]
        value = (row_n.sum() + own_columns_n.sum() - 2 * pairs_n.sum()) / (2 * total)
        if any(ctx.needs_input_grad[:3]):
            for rows, columns in sums.tiles():
                if not sums.is_one:
                    likeness_RC = sums.likeness(rows, columns)
                logits_RC = likeness_RC * sums.scale
                gradient_RC = (logits_RC - row_n[rows, None]).exp_()
                gradient_RC += logits_RC.sub_(column_N[None, columns]).exp_()
                sums.pairs(gradient_RC, rows, columns).sub_(2)
                sums.add(gradient_RC.div_(2 * total), likeness_RC, rows, columns)
            keep(ctx, sums.gradients(), (image_nD, text_ND, scale))
        return value  # type: ignore[no-any-return]  # torch's stub

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (by_value,) = gradients
        return *take(ctx, by_value), None, None, None


class _Smoothing(torch.autograd.Function):
    """By hand, since autograd would hold the texts in float32, and their gradient three times."""

    @staticmethod
    def forward(ctx: Any, image_nD: Tensor, text_ND: Tensor, scale: Tensor, first: int) -> Tensor:
        dtype, total = _wide(image_nD), len(text_ND)
        beyond_nD = text_ND[first : first + len(image_nD)].to(dtype) - text_ND.mean(0, dtype=dtype)
        mean = (image_nD.to(dtype) * beyond_nD).sum() / total
        ctx.save_for_backward(image_nD, beyond_nD, scale, mean)
        ctx.text, ctx.first = (text_ND.shape, text_ND.dtype), first
        return scale * mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (by_value,) = gradients
        image_nD, beyond_nD, scale, mean = ctx.saved_tensors
        shape, dtype = ctx.text
        by_pair = by_value * scale / shape[0]
        by_own_nD = image_nD.to(beyond_nD.dtype) * by_pair
        by_mean_D = -by_own_nD.sum(0) / shape[0]
        text_ND = by_mean_D.to(dtype).expand(shape).contiguous()
        text_ND[ctx.first : ctx.first + len(image_nD)] = by_own_nD.add_(by_mean_D).to(dtype)
        return (beyond_nD * by_pair).to(image_nD.dtype), text_ND, (by_value * mean).to(scale.dtype), None


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image_nD: Tensor, text_ND: Tensor, scale: Tensor, bias: Tensor, first: int, tile: int
    ) -> Tensor:
        sums = Sums(image_nD, text_ND, scale, first, tile)
        total = len(text_ND)
        value = torch.zeros((), dtype=sums.dtype, device=image_nD.device)
        by_bias = torch.zeros_like(value)
        for rows, columns in sums.tiles():
            likeness_RC = sums.likeness(rows, columns)
            logits_RC = likeness_RC * sums.scale + bias
            pairs = sums.pairs(logits_RC, rows, columns)
            value -= F.logsigmoid(-logits_RC).sum() + pairs.sum()  # of a pair: logsigmoid(x), which is x more
            if any(ctx.needs_input_grad[:4]):
                gradient_RC = logits_RC.sigmoid_()
                sums.pairs(gradient_RC, rows, columns).sub_(1)
                gradient_RC.div_(total)
                by_bias += gradient_RC.sum()
                sums.add(gradient_RC, likeness_RC, rows, columns)
        if any(ctx.needs_input_grad[:4]):
            keep(ctx, (*sums.gradients(), by_bias), (image_nD, text_ND, scale, bias))
        return value / total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (by_value,) = gradients
        return *take(ctx, by_value), None, None
