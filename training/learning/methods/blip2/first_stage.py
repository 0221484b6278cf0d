"""BLIP-2, first stage (Li et al. 2023, arXiv 2301.12597, section 3.2): queries learn to see what a text says.

    locked tower --tokens of its last layer but one, once a step--> queries --features--> contrast, by the likest query
                      |                                                |                     | drawn by the logits
                      |                                                |                     v
                      |                                              captions             hard negatives
                      \\--of another rank, where it is the negative (`picking.py`)--> matching: own pair, two others

The Q-Former reads the texts itself: the model's text tower has no part, and is locked as well. Three losses, added up.
Where the paper leaves a figure open it is that of blip2_qformer.py in salesforce/LAVIS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from training.config import LossConfig
from training.data.batch import trim
from training.data.batches import Batch
from training.distributed import World
from training.errors import ModelError
from training.learning.captioning import caption_sum, caption_tokens
from training.learning.coupling import everyone
from training.learning.marks import PADDING, marks_of
from training.learning.method import Coupled, Method, Output, Rows, Terms
from training.learning.methods.blip2.locked_tokens import check_locked, locked_tokens, token_width
from training.learning.methods.blip2.picking import pick_rows
from training.learning.methods.blip2.qformer import QFormer
from training.learning.methods.blip2.query_similarity import hard_negatives, norms_of, query_softmax_loss
from training.learning.model import Model

__all__ = ["QFormerOptions", "QFormerStage", "Queries", "is_text", "lock_unused"]

_WHAT = "method.name: qformer"
_TEMPERATURE = 0.07
_NOTHING = -1
"""The label of a token behind which nothing is to be said."""


@dataclass(frozen=True, kw_only=True)
class QFormerOptions:
    """The shape of the Q-Former: BERT-base's."""

    queries: Annotated[int, Bounds(least=1)] = 32
    """Section 3.1."""
    width: Annotated[int, Bounds(least=1)] = 768
    """Section 3.1, of the queries; BERT-base's."""
    layers: Annotated[int, Bounds(least=1)] = 12
    """Of BERT-base."""
    heads: Annotated[int, Bounds(least=1)] = 12
    """Of BERT-base."""
    cross_every: Annotated[int, Bounds(least=1)] = 2
    """Section 3.1: every other block looks at the picture."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} cannot be shared by {self.heads} heads")


class QFormerStage(Method):
    """`contrast` over the batch, `matching` on hard negatives, `captions`: their sum."""

    @dataclass(frozen=True, kw_only=True)
    class Options(QFormerOptions):
        """The shape, and the width of the features that are compared."""

        embed_dim: Annotated[int, Bounds(least=1)] = 256
        """LAVIS."""

    not_in_towers = "its features are the queries' of a Q-Former, which stands beside the towers"

    def __init__(self, options: Any, loss: LossConfig) -> None:
        super().__init__(options, loss)
        if loss.name != "softmax" or loss.features != "fp32":
            raise ConfigError(f"{_WHAT} contrasts by a softmax of features in fp32; leave loss.name and loss.features")
        self.init_logit_scale = -math.log(loss.init_temperature or _TEMPERATURE)

    def heads(self, clip: nn.Module) -> Mapping[str, nn.Module]:
        """The Q-Former, with the words and the context of the text tower, which is locked. Raises ModelError."""
        width = token_width(cast(nn.Module, clip.visual), what=_WHAT)
        lock_unused(clip)
        text: Any = getattr(clip, "text", clip)
        if not hasattr(text, "token_embedding") or not hasattr(text, "positional_embedding"):
            raise ModelError(
                f"{_WHAT} takes its words and their places from text_cfg; give one of open_clip's own towers"
            )
        o = self.options
        return {
            "qformer": QFormer(
                queries=o.queries, width=o.width, layers=o.layers, heads=o.heads, cross_every=o.cross_every,
                picture_width=width,
                embed_dim=o.embed_dim,
                vocab_size=int(text.token_embedding.num_embeddings),
                context_length=int(text.positional_embedding.shape[0]),
            )
        }  # fmt: skip

    def check(self, model: Model) -> None:
        """A tower that learns, and a tokenizer without marks, are refused. Raises ModelError."""
        check_locked(model, what=_WHAT)
        marks_of(model.tokenizer, model.name)
        model.embedder = Queries(model)

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        """Unit features `image` [B, Q, D] and `text` [B, D]; `tokens` [B, P, U] of the tower; the captions' loss."""
        tokens_BPU = locked_tokens(model, batch.images) if known is None else known["tokens"]
        words_BL = _short(batch.tokens, model)
        is_text_BL, labels = is_text(words_BL), _labels(words_BL)
        asked_M = (labels != _NOTHING).flatten().nonzero()[:, 0] if _may_look(model) else None
        qformer = model.head("qformer")
        with model.autocast():
            (text_BD,) = qformer("texts", None, words_BL, is_text_BL)
            if rows_only:
                (image_BQD,) = qformer("queries", tokens_BPU)
            else:  # no query sees the text, so that they say the same
                image_BQD, logits = qformer("captions", tokens_BPU, words_BL, is_text_BL, asked_M)
        rows = {"image": image_BQD, "text": text_BD, "tokens": tokens_BPU}
        if rows_only:
            return Output(rows=rows)
        labels = labels if asked_M is None else labels.flatten()[asked_M]
        value = caption_sum(logits, labels, ignore=_NOTHING)
        return Output(rows=rows, sums={"captions": value})

    def constants(self, model: Model, batch: Batch) -> Rows:
        """Keys, and the texts as long as they may be: on another rank they may have been cut elsewhere."""
        room = model.tokenizer.context_length - batch.tokens.shape[1]
        return {"key": batch.keys, "words": F.pad(batch.tokens, (0, room), value=PADDING)}

    def coupled(self, model: Model, rows: Rows, constants: Rows, *, world: World, total: int) -> Coupled:
        """Contrast of this rank's pictures with all texts, and the hard negatives of its samples."""
        scale = cast(Any, model.clip).logit_scale.exp()
        first, _ = world.share(total)
        image_nQD, tile = rows["image"], self.loss.chunk_rows
        text_ND = everyone(rows["text"], world, total=total)
        keys_N = world.gather_rows(constants["key"], total=total)
        norms = norms_of(image_nQD, text_ND, scale, tile=tile, world=world)
        value = query_softmax_loss(
            image_nQD, text_ND, scale, norms, first=first, tile=tile, label_smoothing=self.loss.label_smoothing
        )
        text_n, image_N = hard_negatives(image_nQD, text_ND, scale, norms, keys_N, first=first, tile=tile, world=world)
        words_NL = world.gather_rows(constants["words"], total=total)
        return Coupled(
            terms={"contrast": value},
            found={"words": words_NL[text_n], "tokens": pick_rows(rows["tokens"], image_N, world, total=total)},
        )

    def second(self, model: Model, batch: Batch, output: Output, found: Rows) -> Terms:
        """Whether picture and text belong together: of each sample, of its text and a hard picture, of its picture and
        a hard text."""
        tokens_BPU = output.rows["tokens"]
        words_BL = F.pad(batch.tokens, (0, found["words"].shape[1] - batch.tokens.shape[1]), value=PADDING)
        words_ML = _short(torch.cat([words_BL, words_BL, found["words"]]), model)
        pictures_MPU = torch.cat([tokens_BPU, found["tokens"], tokens_BPU])
        with model.autocast():
            (logits_M2,) = model.head("qformer")("pairs", pictures_MPU, words_ML, is_text(words_ML))
        is_pair_M = (torch.arange(len(words_ML), device=logits_M2.device) < len(batch)).long()
        wide = torch.promote_types(logits_M2.dtype, torch.float32)
        return {"matching": F.cross_entropy(logits_M2.to(wide), is_pair_M, reduction="sum")}

    def counts(self, batch: Batch) -> Terms:
        """Three pairs a sample, and the captions' tokens behind their first."""
        pairs = torch.full((), 3.0 * len(batch), dtype=torch.float64, device=batch.tokens.device)
        return {"captions": caption_tokens(_labels(batch.tokens), ignore=_NOTHING), "matching": pairs}

    def rehearse(self, model: Model, batch: Batch) -> None:
        """With the pairs, each sample being its own negative."""
        output = self.forward(model, batch)
        self.second(model, batch, output, {"tokens": output.rows["tokens"], "words": batch.tokens})

    def after_step(self, model: Model, *, samples_seen: int) -> None:
        """The scale stays below its limit, as CLIP's."""
        cast(Any, model.clip).logit_scale.clamp_(0, math.log(self.loss.max_logit_scale))


class Queries:
    """How a model with a Q-Former embeds: a picture by its queries, of which the likest counts."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def encode_image(self, images_BHWC: Tensor) -> Tensor:
        """Unit [B, Q, D]."""
        tokens_BPU = locked_tokens(self._model, images_BHWC)
        with self._model.autocast():
            return cast(Tensor, self._model.head("qformer")("queries", tokens_BPU)[0])

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Unit [B, D]."""
        with self._model.autocast():
            words_BL = _short(tokens_BL, self._model)
            return cast(Tensor, self._model.head("qformer")("texts", None, words_BL, is_text(words_BL))[0])


def lock_unused(clip: nn.Module) -> None:
    """Lock what a Q-Former leaves out: all that is neither the image tower nor the temperature, and the projection
    that open_clip puts above timm's towers, which a locked one would train."""
    for name, parameter in clip.named_parameters():
        if not name.startswith("visual.") and name != "logit_scale":
            parameter.requires_grad_(False)
    visual = cast(Any, clip.visual)
    if hasattr(visual, "trunk"):
        visual.head.requires_grad_(False)


def is_text(tokens_BL: Tensor) -> Tensor:
    """bool[B, L]: false for the padding behind a text. A token of that number within it is a word; the first stands."""
    ends_BL = (tokens_BL != PADDING).flip(1).cumsum(1).flip(1) > 0
    ends_BL[:, 0] = True
    return ends_BL


def _may_look(model: Model) -> bool:
    """Whether padding may be looked for and left out: a GPU would have to be waited for, and a plan has no tokens."""
    return model.can_trim and model.reads_tokens


def _short(tokens_BL: Tensor, model: Model) -> Tensor:
    """Without columns that are padding in every row."""
    return trim(tokens_BL) if _may_look(model) else tokens_BL


def _labels(tokens_BL: Tensor) -> Tensor:
    """int64[B, L]: the token that follows each, `_NOTHING` behind the last one of the text."""
    next_BL = F.pad(tokens_BL[:, 1:], (0, 1), value=PADDING)
    is_next_BL = F.pad(is_text(tokens_BL)[:, 1:], (0, 1), value=False)
    return next_BL.where(is_next_BL, _NOTHING)
