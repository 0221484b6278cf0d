"""CoCa (arXiv 2205.01917): contrastive, and captions by a decoder that looks at the picture.

picture --tower--> feature, tokens --------------\\
                      |                           decoder --> logits of each caption's next token --> sums
caption --tower--> feature, tokens but the last --/
                      |
                      rows, as `contrastive` has them

The model is open_clip's CoCa. One pass of each tower serves both terms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

from torch import Tensor

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds
from training.data.batch import text_length
from training.data.batches import Batch
from training.distributed import World
from training.errors import ModelError
from training.learning.captioning import caption_sum, caption_tokens
from training.learning.marks import PADDING, marks_of
from training.learning.method import Coupled, Output, Rows, Terms
from training.learning.methods.contrastive import Contrastive
from training.learning.model import Model

__all__ = ["Coca"]


class Coca(Contrastive):
    """`contrastive_weight` times `loss`, and `caption_weight` times the mean cross-entropy of the captions' tokens.

    The mean is over all tokens of the global batch, as open_clip has it over those of a rank; a caption's start mark
    is not predicted, its end mark is.
    """

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Weights of the terms."""

        contrastive_weight: Annotated[float, Bounds(least=0)] = 1.0
        """CoCa, section 4.1; open_clip's default. 0 tunes the captions alone."""
        caption_weight: Annotated[float, Bounds(least=0)] = 2.0
        """As above."""

        def __post_init__(self) -> None:
            check_bounds(self)
            if not self.contrastive_weight and not self.caption_weight:
                raise ConfigError("contrastive_weight and caption_weight are both 0: nothing would be learnt")

    def check(self, model: Model) -> None:
        """See Method."""
        if not model.has_decoder:
            raise ModelError(
                f"{model.name}: has no decoder that could write captions; take coca_ViT-B-32, coca_ViT-L-14, or a "
                "model JSON with a multimodal_cfg, or set --method.name contrastive"
            )
        marks_of(model.tokenizer, model.name)
        clip = cast(Any, model.clip)
        visual, text, decoder = clip.visual, clip.text, clip.text_decoder
        if not (getattr(visual, "output_tokens", False) and getattr(text, "output_tokens", False)):
            raise ModelError(
                f"{model.name}: a tower gives its decoder no tokens; set output_tokens: true in the JSON's vision_cfg "
                "and text_cfg, of towers that are open_clip's own"
            )
        of_image = visual.output_dim if visual.attn_pool is not None else visual.transformer.width
        if not of_image == text.width == decoder.width:
            raise ModelError(
                f"{model.name}: the decoder is {decoder.width} wide, what it gets of pictures {of_image}, of texts "
                f"{text.width}; make them one in the model's JSON (of pictures it is embed_dim with attentional_pool)"
            )
        if (least := model.tokenizer.context_length - 1) > decoder.context_length:
            raise ModelError(
                f"{model.name}: the decoder has room for {decoder.context_length} tokens; set the JSON's "
                f"multimodal_cfg.context_length to at least {least}"
            )

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        """Unit features `image` and `text`, [B, D] each; the captions' cross-entropy, but where rows are all that is
        asked for."""
        image_BD, image_BPW = model.encode_image_tokens(batch.images, batch.keys)
        text_BD, text_BLW = model.encode_text_tokens(batch.tokens)
        rows = {"image": image_BD, "text": text_BD}
        if rows_only or not self.options.caption_weight or image_BPW is None or text_BLW is None:
            return Output(rows=rows)
        labels_BT = _labels(batch)
        # What follows the longest caption is not predicted.
        length = text_length(labels_BT) if model.reads_tokens else labels_BT.shape[1]
        logits_BTV = model.caption_logits(image_BPW, text_BLW[:, :length])
        value = caption_sum(logits_BTV, labels_BT[:, :length], ignore=PADDING)
        return Output(rows=rows, sums={"caption": self.options.caption_weight * value})

    def coupled(self, model: Model, rows: Rows, constants: Rows, *, world: World, total: int) -> Coupled:
        """As of `contrastive`, with its weight."""
        if not self.options.contrastive_weight:
            return Coupled(terms={})
        found = super().coupled(model, rows, constants, world=world, total=total)
        weighted = {name: self.options.contrastive_weight * value for name, value in found.terms.items()}
        return replace(found, terms=weighted)

    def counts(self, batch: Batch) -> Terms:
        """The captions' tokens, but for their start marks."""
        return {"caption": caption_tokens(_labels(batch), ignore=PADDING)}


def _labels(batch: Batch) -> Tensor:
    """int64[B, L - 1]: the token that follows each but the last."""
    return batch.tokens[:, 1:]
