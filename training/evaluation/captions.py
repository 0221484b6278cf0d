"""How well a model with a decoder tells a set's captions, word by word, given the picture and the true words before.

parts --> pictures --tower--> tokens --\
          captions --tower--> tokens --decoder--> likelihood of each true token, and whether it came first
          a grey picture --tower--> tokens --^    what is guessed without looking: the chance

What it writes by itself is another matter: `learning/writing.py` writes, and judges nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.batch import text_length
from training.distributed import World
from training.evaluation.encode import in_step, pictures_of
from training.evaluation.metrics import Metric
from training.evaluation.sets.form import Part
from training.learning.captioning import caption_sum, caption_tokens
from training.learning.marks import PADDING
from training.learning.model import Model

__all__ = ["caption_metrics"]

_CAPTIONS = 32
"""At a time: their logits take 480 MB where they have 76 tokens of 49,408."""


def caption_metrics(parts: Sequence[Part], model: Model, *, batch_size: int, world: World) -> list[Metric]:
    """`caption_likelihood`, the geometric mean over the captions' tokens of what the decoder gives each (its inverse is
    the perplexity), and `caption_token_accuracy`, the share of them that come first; the same on every rank.

    End marks count, start marks and padding do not. The chance of both is what the same captions get with a picture of
    the mean colour. `model` has a decoder, and the set has captions. Raises EvaluationError.
    """
    found = {name: torch.zeros((), dtype=torch.float64, device=model.device) for name in _COUNTED}

    def count() -> None:
        for batch, images_BHWC in pictures_of(parts, model, batch_size=batch_size, world=world):
            tokens_BPW = _tokens_of(model, images_BHWC)
            captions = [(row, text) for row, (_, example) in enumerate(batch) for text in example.captions]
            for pairs in in_step(iter(captions), _CAPTIONS, model, world):
                rows, texts = [row for row, _ in pairs] or [0], [text for _, text in pairs]
                _add(found, model, tokens_BPW[rows], grey_1PW.expand(len(rows), -1, -1), texts)

    with model.evaluating():
        grey_1PW = _tokens_of(
            model,
            (model.mean_C11.view(1, 1, 1, 3)).round().to(torch.uint8).expand(1, model.image_size, model.image_size, 3),
        )
        if model.is_sharded:  # as `encode_parts` has it
            count()
        else:
            world.together(count)
    total = {name: float(value) for name, value in world.sum_each(found).items()}
    tokens = total["tokens"]
    return [
        Metric(
            name="caption_likelihood",
            value=math.exp(-total["loss"] / tokens),
            chance=math.exp(-total["loss of grey"] / tokens),
        ),
        Metric(name="caption_token_accuracy", value=total["right"] / tokens, chance=total["right of grey"] / tokens),
    ]


_COUNTED = ("tokens", "loss", "right", "loss of grey", "right of grey")


def _tokens_of(model: Model, images_BHWC: Tensor) -> Tensor:
    tokens_BPW = model.encode_image_tokens(images_BHWC)[1]
    assert tokens_BPW is not None  # of a model with a decoder
    return tokens_BPW


def _add(found: dict[str, Tensor], model: Model, own_BPW: Tensor, grey_BPW: Tensor, texts: Sequence[str]) -> None:
    """Count the tokens of `texts`, which belong to the pictures of the same places; none where there are none."""
    tokens_BL = model.tokenizer(list(texts) or [""])
    length = text_length(tokens_BL)
    text_BLW = model.encode_text_tokens(tokens_BL.to(model.device))[1]
    assert text_BLW is not None
    labels_BT = tokens_BL[:, 1:length].to(model.device)
    if not texts:
        labels_BT = torch.full_like(labels_BT, PADDING)
    found["tokens"] += caption_tokens(labels_BT, ignore=PADDING)
    for image_BPW, whose in ((own_BPW, ""), (grey_BPW, " of grey")):
        logits_BTV = model.caption_logits(image_BPW, text_BLW[:, : length - 1])
        found[f"loss{whose}"] += caption_sum(logits_BTV, labels_BT, ignore=PADDING)
        found[f"right{whose}"] += ((logits_BTV.argmax(dim=2) == labels_BT) & (labels_BT != PADDING)).sum()
