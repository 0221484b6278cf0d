"""How far a student's similarities are from those of its teachers, tile by tile: no matrix grows with the batch.

    own pictures x all texts, of student and teachers --tile by tile--> log-sum-exp of rows and columns
                                                      --again--> Kullback-Leibler divergences, gradients

As in `similarity.py` a rank has the rows of its own pictures, and the ranks put the log-sum-exp of the columns
together. Which picture belongs to which text plays no part here: the teachers say it, and how much the others do.

Shapes: n own rows of N, D = the student's width, E = a teacher's, R x C a tile, T teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.learning.found_gradients import keep, take
from training.learning.similarity import Sums

__all__ = ["Taught", "distillation_loss"]


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What one teacher says of the same pictures and texts, which nobody learns."""

    image: Tensor
    """[n, E]: unit features of the own pictures, in any floating type."""
    text: Tensor
    """[N, E]: of the texts of all ranks."""
    scale: Tensor
    """What it multiplies similarities by (scalar): the inverse of its temperature."""


def distillation_loss(
    image_nD: Tensor,
    text_ND: Tensor,
    scale: Tensor,
    teachers: Sequence[Taught],
    *,
    tile: int,
    logsumexp: Callable[[Tensor], Tensor] = lambda own: own,
) -> Tensor:
    """MobileCLIP's distillation (arXiv 2311.17049, section 4.2): the mean over teachers, both directions and all N
    samples of KL(teacher || student), between the softmax over a row of similarities, each at its own temperature.

    This rank's share (scalar), whose gradient by the student's features and scale is that of the sum over all ranks.
    `tile` bounds rows and columns of a tile; `logsumexp` puts [T + 1, N] of all ranks together, element by element.
    """
    value: Tensor = _Distillation.apply(image_nD, text_ND, scale, teachers, tile, logsumexp)
    return value


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image_nD: Tensor,
        text_ND: Tensor,
        scale: Tensor,
        teachers: Sequence[Taught],
        tile: int,
        logsumexp: Callable[[Tensor], Tensor],
    ) -> Tensor:
        sums = Sums(image_nD, text_ND, scale, 0, tile)
        count, total = len(teachers), len(text_ND)
        new = {"dtype": sums.dtype, "device": image_nD.device}
        rows_Kn = torch.full((1 + count, len(image_nD)), -torch.inf, **new)  # type: ignore[call-overload]  # a dict hides the keywords
        columns_KN = torch.full((1 + count, total), -torch.inf, **new)  # type: ignore[call-overload]  # as above

        def taught(rows: slice, columns: slice) -> Iterator[Tensor]:
            """[R, C]: the logits of each teacher."""
            for teacher in teachers:
                image_RE, text_CE = teacher.image[rows].to(sums.dtype), teacher.text[columns].to(sums.dtype)
                yield teacher.scale.to(sums.dtype) * (image_RE @ text_CE.T)

        for rows, columns in sums.tiles():
            logits = [sums.likeness(rows, columns) * sums.scale, *taught(rows, columns)]
            for k, logits_RC in enumerate(logits):
                rows_Kn[k, rows] = torch.logaddexp(rows_Kn[k, rows], logits_RC.logsumexp(1))
                columns_KN[k, columns] = torch.logaddexp(columns_KN[k, columns], logits_RC.logsumexp(0))
        columns_KN = logsumexp(columns_KN)

        value = torch.zeros((), **new)  # type: ignore[call-overload]  # as above
        needs_gradient = any(ctx.needs_input_grad[:3])
        for rows, columns in sums.tiles():
            likeness_RC = sums.likeness(rows, columns)
            logits_RC = likeness_RC * sums.scale
            gradient_RC = torch.zeros_like(logits_RC)
            for ends_Kn in (rows_Kn[:, rows, None], columns_KN[:, None, columns]):  # to the texts, to the pictures
                own_RC = logits_RC - ends_Kn[0]
                for k, taught_RC in enumerate(taught(rows, columns)):
                    taught_RC -= ends_Kn[1 + k]
                    share_RC = taught_RC.exp()
                    value += (share_RC * taught_RC.sub_(own_RC)).sum() / count
                    gradient_RC.sub_(share_RC, alpha=1 / count)
                gradient_RC += own_RC.exp_()
            if needs_gradient:
                sums.add(gradient_RC.div_(2 * total), likeness_RC, rows, columns)
        if needs_gradient:
            keep(ctx, sums.gradients(), (image_nD, text_ND, scale))
        return value / (2 * total)  # type: ignore[no-any-return]  # torch's stub

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (by_value,) = gradients
        return *take(ctx, by_value), None, None, None
