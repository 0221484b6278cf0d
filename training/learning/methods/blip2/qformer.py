"""BLIP-2's Querying Transformer (Li et al. 2023, arXiv 2301.12597, section 3.1): what learnt queries see in a picture.

    queries [Q, W] --\\                       /--> own layers of queries, every other block over the picture's tokens
                      self-attention of both--
    tokens of a text -/                       \\--> own layers of texts

One stack of blocks, whose self-attention queries and texts share; the task says who sees whom (figure 2 there):

    task        given               queries see          texts see              says
    queries     picture             themselves           -                      unit features of the queries
    texts       text                -                    themselves             a unit feature of the text
    captions    picture and text    themselves           queries, and the past  features of the queries, words to come
    pairs       picture and text    all                  all                    whether they belong together
    outputs     picture             themselves           -                      what a language model is told

Shapes are BERT-base's, as are its layer norms behind each part. There is no dropout (BERT's is 0.1): rows are computed
twice with several micro-batches, and by other tasks.

Shapes: B samples, Q queries, L tokens of a text, P tokens of a picture, S = Q + L, W the width, V the vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["QFormer", "Task"]

Task = Literal["queries", "texts", "captions", "pairs", "outputs"]

_EPS = 1e-12
"""Of BERT's layer norms (google-research/bert, modeling.py)."""
_DEVIATION, _ITS_WIDTH = 0.02, 768
"""Of BERT-base's first weights (initializer_range there). A narrower one's are larger, so that a block changes as much
of what it is given."""


class QFormer(nn.Module):
    """See above."""

    def __init__(
        self,
        *,
        queries: int,
        width: int,
        layers: int,
        heads: int,
        cross_every: int,
        picture_width: int,
        embed_dim: int | None = None,
        vocab_size: int = 0,
        context_length: int = 0,
    ) -> None:
        """`cross_every`: the first of so many blocks looks at the picture. `picture_width`: of its tokens.

        `embed_dim`: of unit features; None leaves out all that reads texts, and the task `outputs` alone is left.
        Otherwise `vocab_size` words are known, and one more, which begins a caption in place of the text's first.
        """
        super().__init__()
        reads = embed_dim is not None
        self.queries = nn.Parameter(torch.empty(queries, width))
        self.picture_norm = nn.LayerNorm(picture_width)
        self.input_norm = nn.LayerNorm(width, eps=_EPS)
        self.layers = nn.ModuleList(
            _Block(width, heads, picture_width if number % cross_every == 0 else None, reads=reads)
            for number in range(layers)
        )
        if embed_dim is not None:
            self.words = nn.Embedding(vocab_size + 1, width)
            self.positions = nn.Parameter(torch.empty(context_length, width))
            self.query_projection = nn.Linear(width, embed_dim)
            self.text_projection = nn.Linear(width, embed_dim)
            self.matching = nn.Linear(width, 2)
            # BERT's way to words: a layer, then the embedding's own matrix.
            self.to_words = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=_EPS))
            self.word_bias = nn.Parameter(torch.zeros(vocab_size + 1))
        for parameter in self.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=_DEVIATION * (_ITS_WIDTH / width) ** 0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(
        self,
        task: Task,
        picture_BPU: Tensor | None = None,
        tokens_BL: Tensor | None = None,
        is_text_BL: Tensor | None = None,
        asked_M: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """What `task` asks of B samples; `is_text_BL` (bool) is false where tokens are padding.

        queries: unit [B, Q, D]. texts: unit [B, D]. captions: unit [B, Q, D], and logits [B, L, V + 1] of the token
        behind each, or [M, V + 1] of those that stand at `asked_M` of the B x L alone. pairs: logits [B, 2], of no and
        yes. outputs: [B, Q, W]. Unit features are at least float32.
        """
        parts, unseen = [], []
        num_queries = 0
        if picture_BPU is not None:
            picture_BPU = self.picture_norm(picture_BPU)
            parts.append(self.queries.expand(len(picture_BPU), -1, -1))
            num_queries = len(self.queries)
            unseen.append(torch.zeros(parts[0].shape[:2], dtype=torch.bool, device=picture_BPU.device))
        if tokens_BL is not None and is_text_BL is not None:
            if task == "captions":
                begin_B1 = torch.full_like(tokens_BL[:, :1], self.words.num_embeddings - 1)
                tokens_BL = torch.cat([begin_B1, tokens_BL[:, 1:]], dim=1)
            parts.append(self.words(tokens_BL) + self.positions[: tokens_BL.shape[1]])
            unseen.append(~is_text_BL)
        x_BSW = self.input_norm(torch.cat(parts, dim=1))
        unseen_BS = torch.cat(unseen, dim=1) if tokens_BL is not None else None
        hidden_SS = _of_captions(num_queries, x_BSW) if task == "captions" else None
        for layer in self.layers:
            x_BSW = layer(x_BSW, picture_BPU, num_queries, unseen_BS, hidden_SS)
        queries_BQW, texts_BLW = x_BSW[:, :num_queries], x_BSW[:, num_queries:]
        if task == "outputs":
            return (x_BSW,)
        if task == "texts":
            return (_unit(self.text_projection(texts_BLW[:, 0])),)
        if task == "pairs":
            return (self.matching(queries_BQW).mean(dim=1),)
        features_BQD = _unit(self.query_projection(queries_BQW))
        if task == "queries":
            return (features_BQD,)
        if asked_M is not None:
            texts_BLW = texts_BLW.flatten(0, 1)[asked_M]
        return features_BQD, F.linear(self.to_words(texts_BLW), self.words.weight, self.word_bias)


class _Block(nn.Module):
    """One of the blocks: BERT's, with a look at the picture where `picture_width` is given."""

    def __init__(self, width: int, heads: int, picture_width: int | None, *, reads: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(width, eps=_EPS)
        self.look: nn.MultiheadAttention | None = None
        if picture_width is not None:
            self.look = nn.MultiheadAttention(width, heads, kdim=picture_width, vdim=picture_width, batch_first=True)
            self.look_norm = nn.LayerNorm(width, eps=_EPS)
        self.of_queries = _Feed(width)
        self.of_texts = _Feed(width) if reads else None

    def forward(
        self,
        x_BSW: Tensor,
        picture_BPU: Tensor | None,
        num_queries: int,
        unseen_BS: Tensor | None,
        hidden_SS: Tensor | None,
    ) -> Tensor:
        """`unseen_BS`: whom nobody looks at; `hidden_SS`: whom the one of the row does not see."""
        seen_BSW, _ = self.attention(
            x_BSW, x_BSW, x_BSW, key_padding_mask=unseen_BS, attn_mask=hidden_SS, need_weights=False
        )
        x_BSW = self.attention_norm(x_BSW + seen_BSW)
        queries_BQW, texts_BLW = x_BSW[:, :num_queries], x_BSW[:, num_queries:]
        parts = []
        if num_queries:
            if self.look is not None and picture_BPU is not None:
                seen_BQW, _ = self.look(queries_BQW, picture_BPU, picture_BPU, need_weights=False)
                queries_BQW = self.look_norm(queries_BQW + seen_BQW)
            parts.append(self.of_queries(queries_BQW))
        if self.of_texts is not None and texts_BLW.shape[1]:
            parts.append(self.of_texts(texts_BLW))
        return torch.cat(parts, dim=1)


class _Feed(nn.Module):
    """BERT's feed-forward part, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x_BSW: Tensor) -> Tensor:
        """[B, S, W]."""
        normed: Tensor = self.norm(x_BSW + self.outer(F.gelu(self.inner(x_BSW))))
        return normed


def _of_captions(num_queries: int, x_BSW: Tensor) -> Tensor:
    """bool[S, S]: no query sees the text, and no token what follows it."""
    length = x_BSW.shape[1]
    hidden_SS = torch.ones(length, length, dtype=torch.bool, device=x_BSW.device).triu(1)
    hidden_SS[:num_queries, :num_queries] = False
    return hidden_SS


def _unit(features: Tensor) -> Tensor:
    if features.dtype in (torch.bfloat16, torch.float16):
        features = features.float()
    return F.normalize(features, dim=-1)
