"""A text tower that looks at pictures: BLIP's multimodal mixture of encoder and decoder (arXiv 2201.12086, 3.1).

    a layer of   the text tower            image-grounded encoder       image-grounded decoder
                 self-attention, both ways the same weights             its own weights, backwards alone
                                           cross-attention on image tokens, the same weights in both
                 feed-forward              the same weights             the same weights

    [Encode] + text --encoder--> first token --> matches, or not      [Decode] + text --decoder--> next tokens

Embeddings, feed-forwards and the last norm are the text tower's own, which is open_clip's.

Shapes: B texts, L tokens, P tokens of a picture, W and I the widths of the towers, V words, H heads of d numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["Grounding", "Recollection"]

_ENCODE, _DECODE = 0, 1
_STD = 0.02
"""Of new matrices: BERT's initializer_range."""


@dataclass(eq=False)
class Recollection:
    """Keys and values of one layer while texts are written, [B, H, *, d]: the picture's, and those of the tokens."""

    of_picture: tuple[Tensor, Tensor]
    of_tokens: tuple[Tensor, Tensor] | None = None


class Grounding(nn.Module):
    """What open_clip's text tower has to be given for it; the tower itself comes with each call."""

    def __init__(self, text: Any, image_width: int) -> None:
        """`text`: an open_clip TextTransformer that sees whole texts; `image_width`: I."""
        super().__init__()
        width, heads = text.transformer.width, text.heads
        self.tasks = nn.Embedding(2, width)
        """In place of a text's first token: BLIP's [Encode], [Decode]."""
        layers: Sequence[Any] = list(text.transformer.resblocks)
        self.decoder = nn.ModuleList(
            nn.ModuleDict({"norm": copy.deepcopy(layer.ln_1), "attention": copy.deepcopy(layer.attn)})
            for layer in layers
        )
        self.cross = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": copy.deepcopy(layer.ln_1),
                    "attention": nn.MultiheadAttention(
                        width, heads, kdim=image_width, vdim=image_width, batch_first=True
                    ),
                }
            )
            for layer in layers
        )
        self.match = nn.Linear(width, 2)
        self.words = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.word_bias = nn.Parameter(torch.zeros(text.token_embedding.num_embeddings))
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and not name.startswith("decoder"):
                nn.init.normal_(parameter, std=_STD)

    def encode(self, text: Any, tokens_BL: Tensor, picture_BPI: Tensor) -> Tensor:
        """[B, W]: what is at the first token's place, by which `match` tells pairs from others."""
        x_BLW = self._embedded(text, tokens_BL, _ENCODE)
        padding_BL = tokens_BL == text.pad_id
        for layer, cross in zip(text.transformer.resblocks, self.cross, strict=True):

            def run(x_BLW: Tensor, picture_BPI: Tensor, layer: Any = layer, cross: Any = cross) -> Tensor:
                x_BLW = x_BLW + layer.ls_1(_attend(layer.attn, layer.ln_1(x_BLW), padding_BL=padding_BL))
                return _onwards(layer, cross, x_BLW, picture_BPI)

            x_BLW = _run(text, run, x_BLW, picture_BPI)
        return cast(Tensor, text.ln_final(x_BLW[:, 0]))

    def decode(self, text: Any, tokens_BL: Tensor, picture_BPI: Tensor) -> Tensor:
        """Logits [B, L, V] of the token after each."""
        x_BLW = self._embedded(text, tokens_BL, _DECODE)
        length = tokens_BL.shape[1]
        ahead_LL = torch.ones(length, length, dtype=torch.bool, device=x_BLW.device).triu(1)
        for layer, own, cross in zip(text.transformer.resblocks, self.decoder, self.cross, strict=True):

            def run(
                x_BLW: Tensor, picture_BPI: Tensor, layer: Any = layer, own: Any = own, cross: Any = cross
            ) -> Tensor:
                x_BLW = x_BLW + layer.ls_1(_attend(own["attention"], own["norm"](x_BLW), ahead_LL=ahead_LL))
                return _onwards(layer, cross, x_BLW, picture_BPI)

            x_BLW = _run(text, run, x_BLW, picture_BPI)
        return self._logits(text, x_BLW)

    def begin(self, picture_BPI: Tensor) -> list[Recollection]:
        """Of each layer what it keeps of pictures, for `next_logits`."""
        found = []
        for cross in self.cross:
            attention = cast(Any, cross)["attention"]
            _, (key, value), (key_bias, value_bias) = _matrices(attention)
            heads = attention.num_heads
            found.append(
                Recollection(
                    of_picture=(
                        _heads(F.linear(picture_BPI, key, key_bias), heads),
                        _heads(F.linear(picture_BPI, value, value_bias), heads),
                    )
                )
            )
        return found

    def next_logits(self, text: Any, tokens_B: Tensor, place: int, kept: Sequence[Recollection]) -> Tensor:
        """Logits [B, V] of what follows `tokens_B`, int64[B], the tokens at `place`; the first one's are not looked at.

        `kept` comes from `begin` and grows with each place. The same as `decode` over all tokens until here.
        """
        if place == 0:
            x_B1W = self.tasks.weight[_DECODE].expand(len(tokens_B), 1, -1)
        else:
            x_B1W = text.token_embedding(tokens_B[:, None])
        x_B1W = x_B1W + text.positional_embedding[place]
        for layer, own, cross, before in zip(text.transformer.resblocks, self.decoder, self.cross, kept, strict=True):
            attention = cast(Any, own)["attention"]
            inner_B1W = cast(Any, own)["norm"](x_B1W)
            _, (key, value), (key_bias, value_bias) = _matrices(attention)
            new = [
                _heads(F.linear(inner_B1W, matrix, bias), attention.num_heads)
                for matrix, bias in ((key, key_bias), (value, value_bias))
            ]
            if before.of_tokens is not None:
                new = [torch.cat([old, one], dim=2) for old, one in zip(before.of_tokens, new, strict=True)]
            before.of_tokens = (new[0], new[1])
            x_B1W = x_B1W + layer.ls_1(_recollect(attention, inner_B1W, before.of_tokens))
            of_cross = cast(Any, cross)
            x_B1W = x_B1W + _recollect(of_cross["attention"], of_cross["norm"](x_B1W), before.of_picture)
            x_B1W = x_B1W + layer.ls_2(layer.mlp(layer.ln_2(x_B1W)))
        return self._logits(text, x_B1W)[:, 0]

    def _embedded(self, text: Any, tokens_BL: Tensor, task: int) -> Tensor:
        first_B1W = self.tasks.weight[task].expand(len(tokens_BL), 1, -1)
        x_BLW = torch.cat([first_B1W, text.token_embedding(tokens_BL[:, 1:])], dim=1)
        return cast(Tensor, x_BLW + text.positional_embedding[: tokens_BL.shape[1]])

    def _logits(self, text: Any, x_BLW: Tensor) -> Tensor:
        return F.linear(self.words(text.ln_final(x_BLW)), text.token_embedding.weight, self.word_bias)


def _run(text: Any, layer: Any, x_BLW: Tensor, picture_BPI: Tensor) -> Tensor:
    """A layer, computed again backwards where the text tower's are."""
    if text.transformer.grad_checkpointing and torch.is_grad_enabled():
        return cast(Tensor, checkpoint(layer, x_BLW, picture_BPI, use_reentrant=False))
    return cast(Tensor, layer(x_BLW, picture_BPI))


def _onwards(layer: Any, cross: Any, x_BLW: Tensor, picture_BPI: Tensor) -> Tensor:
    """What encoder and decoder share."""
    x_BLW = x_BLW + _attend(cross["attention"], cross["norm"](x_BLW), picture_BPI)
    return cast(Tensor, x_BLW + layer.ls_2(layer.mlp(layer.ln_2(x_BLW))))


def _attend(
    attention: nn.MultiheadAttention,
    x_BLW: Tensor,
    picture_BPI: Tensor | None = None,
    *,
    padding_BL: Tensor | None = None,
    ahead_LL: Tensor | None = None,
) -> Tensor:
    seen = x_BLW if picture_BPI is None else picture_BPI
    found: Tensor = attention(
        x_BLW, seen, seen, need_weights=False, key_padding_mask=padding_BL, attn_mask=ahead_LL,
        is_causal=ahead_LL is not None,
    )[0]  # fmt: skip
    return found


# --- one token at a time ----------------------------------------------------------------------------


def _matrices(
    attention: nn.MultiheadAttention,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """((query, its bias), (key, value), (their biases)) of torch's module, which keeps them in one matrix or three."""
    of_query, of_key, of_value = cast(Tensor, attention.in_proj_bias).chunk(3)
    if attention._qkv_same_embed_dim:
        query, key, value = attention.in_proj_weight.chunk(3)
    else:
        query, key, value = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    return (query, of_query), (key, value), (of_key, of_value)


def _recollect(attention: nn.MultiheadAttention, x_B1W: Tensor, kept: tuple[Tensor, Tensor]) -> Tensor:
    """What one token takes from keys and values that are there."""
    (query, bias), *_ = _matrices(attention)
    found = F.scaled_dot_product_attention(_heads(F.linear(x_B1W, query, bias), attention.num_heads), *kept)
    return cast(Tensor, attention.out_proj(found.transpose(1, 2).flatten(2)))


def _heads(x_BLW: Tensor, heads: int) -> Tensor:
    """[B, H, L, d]."""
    return x_BLW.view(*x_BLW.shape[:2], heads, -1).transpose(1, 2)
