"""What a decoder's logits say of captions: cross-entropy over the tokens, in memory that the vocabulary does not set.

A float32 copy of the logits [B, T, V] is what costs: 15 GB for 1,024 captions of 76 tokens out of 49,408, where the
logits in bf16 are 7.5 GB. They are read in pieces of a few rows instead, forwards and backwards.

Shapes: B captions, T tokens, V words of the vocabulary, N = B * T.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["caption_sum", "caption_tokens"]

_PIECE = 2**23
"""Logits that are held in float32 at a time: 32 MB, and twice that backwards."""


def caption_sum(logits: Tensor, labels: Tensor, *, ignore: int, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of `logits` [B, T, V] with `labels` int64[B, T], summed over the tokens (scalar).

    Tokens whose label is `ignore` add nothing. In float32, or float64 where the logits are. `label_smoothing` is the
    share of the probability that goes evenly to the whole vocabulary, as in torch's cross_entropy. Has no second
    derivative. Logits that are not contiguous are copied: move the labels against them, not them.
    """
    return cast(Tensor, _CaptionSum.apply(logits, labels, ignore, label_smoothing))


def caption_tokens(labels: Tensor, *, ignore: int) -> Tensor:
    """How many tokens of `labels` int64[B, T] are not `ignore`: what divides `caption_sum` (float32 scalar)."""
    return (labels != ignore).sum().float()


class _CaptionSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignore: int, label_smoothing: float) -> Tensor:
        logits_NV, labels_N = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        wide = torch.promote_types(logits.dtype, torch.float32)
        norms_N = torch.empty(len(labels_N), dtype=wide, device=logits.device)
        value = norms_N.new_zeros(())
        for rows in _pieces(logits_NV):
            piece = logits_NV[rows].to(wide)
            norms_N[rows] = norms = piece.logsumexp(dim=1)
            asked = labels_N[rows]
            is_counted = asked != ignore
            chosen = piece.gather(1, asked.where(is_counted, 0)[:, None])[:, 0]
            if label_smoothing:
                chosen = (1 - label_smoothing) * chosen + label_smoothing * piece.mean(dim=1)
            value += (norms - chosen).where(is_counted, 0).sum()
        ctx.save_for_backward(logits, labels, norms_N)
        ctx.ignore, ctx.label_smoothing = ignore, label_smoothing
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        logits, labels, norms_N = ctx.saved_tensors
        logits_NV, labels_N = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        gradient_NV = torch.empty(logits_NV.shape, dtype=logits.dtype, device=logits.device)
        for rows in _pieces(logits_NV):
            piece = logits_NV[rows].to(norms_N.dtype).sub(norms_N[rows, None]).exp_()
            asked = labels_N[rows]
            is_counted = asked != ctx.ignore
            if ctx.label_smoothing:
                piece -= ctx.label_smoothing / piece.shape[1]
            due = torch.full_like(norms_N[rows, None], ctx.label_smoothing - 1)
            piece.scatter_add_(1, asked.where(is_counted, 0)[:, None], due)
            gradient_NV[rows] = piece.mul_((upstream * is_counted)[:, None])
        return gradient_NV.view(logits.shape), None, None, None


def _pieces(logits_NV: Tensor) -> Iterator[slice]:
    """Rows of `_PIECE` logits at most, at least one."""
    count, width = logits_NV.shape
    step = max(1, _PIECE // width)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
