"""CLIP, ALIGN, MetaCLIP (softmax) and SigLIP (sigmoid): pictures and texts of a batch, told apart by their likeness."""

from __future__ import annotations

import math
from typing import Any, cast

import torch

from training.config import LossConfig
from training.data.batches import Batch
from training.distributed import World
from training.learning.coupling import everyone
from training.learning.method import Coupled, Method, Output, Rows
from training.learning.model import Model
from training.learning.similarity import sigmoid_loss, smoothing, softmax_loss

__all__ = ["Contrastive"]

_TEMPERATURES = {"softmax": 0.07, "sigmoid": 0.1}
"""CLIP (arXiv 2103.00020, section 2.5), SigLIP (arXiv 2303.15343, section 3.2)."""
_SIGMOID_BIAS = -10.0
"""SigLIP, section 3.2."""


class Contrastive(Method):
    """`loss.name` over the unit features of pictures and texts."""

    def __init__(self, options: Any, loss: LossConfig) -> None:
        super().__init__(options, loss)
        temperature = _TEMPERATURES[loss.name] if loss.init_temperature is None else loss.init_temperature
        self.init_logit_scale = -math.log(temperature)
        bias = _SIGMOID_BIAS if loss.init_bias is None else loss.init_bias
        self.init_logit_bias = bias if loss.name == "sigmoid" else None

    def forward(self, model: Model, batch: Batch, *, rows_only: bool = False, known: Rows | None = None) -> Output:
        """Unit features: `image` and `text`, [B, D] each."""
        if known is not None and model.image_is_locked:
            image_BD = known["image"]
        else:
            image_BD = model.encode_image(batch.images, batch.keys)
        return Output(rows={"image": image_BD, "text": model.encode_text(batch.tokens)})

    def coupled(self, model: Model, rows: Rows, constants: Rows, *, world: World, total: int) -> Coupled:
        """This rank's pictures against the texts of all."""
        clip = cast(Any, model.clip)
        scale, bias = clip.logit_scale.exp(), clip.logit_bias
        first, _ = world.share(total)
        image_nD, text_nD = rows["image"], rows["text"]
        if self.loss.features == "bf16":
            image_nD, text_nD = image_nD.bfloat16(), text_nD.bfloat16()
        text_ND = everyone(text_nD, world, total=total)
        if self.loss.name == "softmax":
            value = softmax_loss(
                image_nD, text_ND, scale, first=first, tile=self.loss.chunk_rows, logsumexp=world.logsumexp
            )
            if self.loss.label_smoothing:
                value = value + self.loss.label_smoothing * smoothing(image_nD, text_ND, scale, first=first)
        else:
            value = sigmoid_loss(image_nD, text_ND, scale, bias, first=first, tile=self.loss.chunk_rows)
        return Coupled(terms={"contrastive": value})

    def after_step(self, model: Model, *, samples_seen: int) -> None:
        """The scale stays below its limit (CLIP, section 2.5)."""
        with torch.no_grad():
            cast(Any, model.clip).logit_scale.clamp_(0, math.log(self.loss.max_logit_scale))
