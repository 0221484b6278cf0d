"""A decoder that writes captions from a picture's tokens, and what it lacks of the true ones: a head.

    tokens of the caption --shifted, or all masked--> self-attention, attention to the picture, MLP (x layers) --> words

A caption is predicted from left to right, or, where it is chosen for it, all at once: every token it sees is a mask,
and none waits for those before it, so that all it knows is the picture's (CapPa, arXiv 2306.07915). Layers, places and
the last matrix are as in `big_vision/models/proj/cappa/cappa.py`: no biases but the words', which begin at zero.

The logits of a vocabulary of 256,000 are never whole: they are made, and made again in the backward pass, for some
tokens at a time.

Shapes: B captions, L tokens, P patches, W = the decoder's width, V words.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.utils.checkpoint import checkpoint

from training.learning.captioning import caption_sum

__all__ = ["IGNORED", "CaptionDecoder", "labels_of"]

IGNORED = -100
"""The label of what is no token of a caption."""
_PIECE = 2**27
"""Logits that are there at a time: 512 MB in float32."""


def labels_of(tokens_BL: Tensor) -> Tensor:
    """int64[B, L]: the tokens to predict, and IGNORED for padding: zeros, or the end mark when it has come before."""
    last_B1 = tokens_BL[:, -1:]
    run_BL = (tokens_BL == last_B1).flip(1).cumprod(1).flip(1).bool()
    is_first_BL = run_BL & ~F.pad(run_BL, (1, 0))[:, :-1]
    return tokens_BL.masked_fill(run_BL & ~(is_first_BL & (last_B1 != 0)), IGNORED)


class CaptionDecoder(nn.Module):
    """See above."""

    def __init__(
        self, *, vocabulary: int, context_length: int, width: int, heads: int, layers: int, image_width: int
    ) -> None:
        """Of captions of at most `context_length` tokens, for pictures whose tokens have `image_width`."""
        super().__init__()
        self._mask, self._start = vocabulary, vocabulary + 1
        self.embedding = nn.Embedding(vocabulary + 2, width)
        self.positions = nn.Parameter(torch.randn(context_length, width) * width**-0.5)
        self.bridge = nn.Identity() if image_width == width else nn.Linear(image_width, width, bias=False)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.words = nn.Linear(width, vocabulary)
        nn.init.zeros_(self.words.weight)
        nn.init.zeros_(self.words.bias)

    def forward(self, image_BPW: Tensor, labels_BL: Tensor, is_parallel_B: Tensor) -> Tensor:
        """Cross-entropy with `labels_BL` (see `labels_of`), summed over all tokens (scalar).

        What is computed for a caption does not depend on others: they may be cut, but L must be the same for all.
        """
        length = labels_BL.shape[1]
        # What follows a caption is never looked at from within it, or is a mask as well.
        shown_BL = F.pad(labels_BL.clamp(min=0), (1, 0), value=self._start)[:, :-1]
        shown_BL = shown_BL.masked_fill(is_parallel_B[:, None], self._mask)
        x_BLW = self.embedding(shown_BL)
        x_BLW = x_BLW + self.positions[:length]
        ahead_LL = torch.ones(length, length, dtype=torch.bool, device=x_BLW.device).triu(1)
        hidden_BLL = ahead_LL & ~is_parallel_B[:, None, None]
        heads = cast(nn.TransformerDecoderLayer, self.layers[0]).self_attn.num_heads
        mask = hidden_BLL.repeat_interleave(heads, dim=0)
        picture_BPW = self.bridge(image_BPW)
        for layer in self.layers:
            x_BLW = layer(x_BLW, picture_BPW, tgt_mask=mask)
        x_NW, labels_N = self.norm(x_BLW).flatten(0, 1), labels_BL.flatten()
        rows = max(1, _PIECE // self.words.out_features)
        if is_fake(labels_N):  # a plan counts what is kept, which is the same of one piece
            rows = len(labels_N)
        elif labels_N.device.type == "cpu":  # on a GPU it would have to be waited for
            is_counted_N = labels_N != IGNORED
            x_NW, labels_N = x_NW[is_counted_N], labels_N[is_counted_N]
        value: Tensor = x_NW.new_zeros((), dtype=torch.promote_types(x_NW.dtype, torch.float32))
        for first in range(0, len(x_NW), rows):
            piece = x_NW[first : first + rows], labels_N[first : first + rows]
            value = value + checkpoint(self._of_piece, *piece, use_reentrant=False, preserve_rng_state=False)
        return value

    def _of_piece(self, x_NW: Tensor, labels_N: Tensor) -> Tensor:
        return caption_sum(self.words(x_NW)[None], labels_N[None], ignore=IGNORED)
