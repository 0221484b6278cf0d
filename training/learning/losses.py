"""Losses over the global batch, as small objects that the step sums.

A loss sees the unit features of the whole global batch, and a range of rows: it returns the part of
the global loss that belongs to those rows. Parts over all rows add up to the loss, so ranks and
chunks of rows each compute their own part, and their gradients add up to the exact one.

To add a loss: write a class with `part`, and name it in `make_loss`.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import LossConfig

__all__ = ["ContrastiveLoss", "Loss", "SigmoidLoss", "make_loss"]


class Loss(Protocol):
    """A term of the objective."""

    init_logit_scale: float
    """Logarithm of the initial scale."""
    init_logit_bias: float | None
    """Initial bias of the logits; None where the model shall have none."""

    def part(
        self,
        image_ND: Tensor,
        text_ND: Tensor,
        *,
        start: int,
        stop: int,
        logit_scale: Tensor,
        logit_bias: Tensor | None,
    ) -> Tensor:
        """The loss's share (scalar) of rows `start` to `stop` of the N pairs of the global batch.

        `logit_scale` is the scale itself, not its logarithm.
        """


class ContrastiveLoss:
    """CLIP's loss (arXiv 2103.00020, figure 3): mean of both directions' cross-entropy over N choices."""

    init_logit_bias: float | None = None

    def __init__(self, *, init_temperature: float | None = None) -> None:
        """`init_temperature` defaults to the paper's 0.07."""
        self.init_logit_scale = -math.log(0.07 if init_temperature is None else init_temperature)

    def part(
        self,
        image_ND: Tensor,
        text_ND: Tensor,
        *,
        start: int,
        stop: int,
        logit_scale: Tensor,
        logit_bias: Tensor | None,
    ) -> Tensor:
        """See Loss."""
        n = len(image_ND)
        labels = torch.arange(start, stop, device=image_ND.device)
        image_to_text = logit_scale * image_ND[start:stop] @ text_ND.T
        text_to_image = logit_scale * text_ND[start:stop] @ image_ND.T
        both = F.cross_entropy(image_to_text, labels, reduction="sum") + F.cross_entropy(
            text_to_image, labels, reduction="sum"
        )
        return both / (2 * n)


class SigmoidLoss:
    """SigLIP's loss (arXiv 2303.15343, equation 1): each of the N x N pairs is a yes-or-no question."""

    init_logit_bias: float | None = -10.0

    def __init__(self, *, init_temperature: float | None = None) -> None:
        """`init_temperature` defaults to the paper's 0.1, that is a scale of 10."""
        self.init_logit_scale = -math.log(0.1 if init_temperature is None else init_temperature)

    def part(
        self,
        image_ND: Tensor,
        text_ND: Tensor,
        *,
        start: int,
        stop: int,
        logit_scale: Tensor,
        logit_bias: Tensor | None,
    ) -> Tensor:
        """See Loss."""
        n = len(image_ND)
        logits = logit_scale * image_ND[start:stop] @ text_ND.T
        if logit_bias is not None:
            logits = logits + logit_bias
        signs = -torch.ones_like(logits)
        rows = torch.arange(stop - start, device=logits.device)
        signs[rows, rows + start] = 1
        return -F.logsigmoid(signs * logits).sum() / n


def make_loss(config: LossConfig) -> Loss:
    """The loss that `config` names."""
    if config.name == "softmax":
        return ContrastiveLoss(init_temperature=config.init_temperature)
    return SigmoidLoss(init_temperature=config.init_temperature)
