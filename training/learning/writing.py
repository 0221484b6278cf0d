"""The likeliest caption of a picture, which an open_clip CoCa writes.

pictures --tower, once--> tokens --------------\
start mark, and what is written by now --tower--> decoder --> the next token of each --> ... --> end marks --> texts

Greedy is ours and needs nothing. Beam search is open_clip's `CoCa.generate`, which wants the package transformers, of a
version that still has BeamSearchScorer.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from open_clip import coca_model
from torch import Tensor

from training.errors import ModelError
from training.learning.marks import PADDING, Marks, marks_of
from training.learning.model import Model

__all__ = ["Way", "check_writes", "write"]

Way = Literal["greedy", "beam_search"]
"""greedy: the likest token each time. beam_search: six beams in three groups, as open_clip has it."""

_LEAST, _MOST = 5, 30
"""Tokens of a caption, with its start mark: those of `CoCa.generate`."""


def check_writes(model: Model, way: Way) -> Marks:
    """The marks of its texts. Raises ModelError where `model` cannot write so: it has no decoder, a tokenizer that
    bounds no text, or open_clip no beam search."""
    if not model.has_decoder:
        raise ModelError(
            f"{model.name}: has no decoder that could write captions; take a run of method coca, or a CoCa "
            "(coca_ViT-L-14:mscoco_finetuned_laion2b_s13b_b90k)"
        )
    if way == "beam_search" and not coca_model._has_transformers:
        raise ModelError(
            "beam search is open_clip's, and wants the package transformers below version 5; pip install "
            "'transformers<5', or take greedy"
        )
    return marks_of(model.tokenizer, model.name)


def write(
    model: Model, images_BHWC: Tensor, *, way: Way = "greedy", least_tokens: int = _LEAST, most_tokens: int = _MOST
) -> list[str]:
    """A caption of each picture of uint8[B, H, W, 3] on the model's device, as `features.prepare` makes them; of at
    most the tokens that the model has room for. Raises ModelError, see `check_writes`."""
    marks = check_writes(model, way)
    most_tokens = min(most_tokens, model.tokenizer.context_length)
    least_tokens = min(least_tokens, most_tokens)
    with model.evaluating():
        if way == "greedy":
            tokens_BT = _greedy(model, images_BHWC, marks, least_tokens, most_tokens)
        else:
            tokens_BT = cast(Any, model.clip).generate(
                model.pixels(images_BHWC),
                generation_type=way,
                seq_len=most_tokens,
                min_seq_len=least_tokens,
                sot_token_id=marks.start,
                eos_token_id=marks.end,
                pad_token_id=PADDING,
            )
    return [_text(model, row, marks) for row in tokens_BT.tolist()]


def _greedy(model: Model, images_BHWC: Tensor, marks: Marks, least: int, most: int) -> Tensor:
    """int64[B, T] with both marks, then padding."""
    image_BPW = model.encode_image_tokens(images_BHWC)[1]
    assert image_BPW is not None  # of a model with a decoder
    tokens_BT = torch.full((len(image_BPW), most), PADDING, device=image_BPW.device)
    tokens_BT[:, 0] = marks.start
    open_n = torch.arange(len(image_BPW), device=image_BPW.device)
    for place in range(1, most):
        if not len(open_n):
            break
        text_nTW = model.encode_text_tokens(tokens_BT[open_n, :place])[1]
        assert text_nTW is not None
        logits_nV = model.caption_logits(image_BPW[open_n], text_nTW)[:, -1].float()
        logits_nV[:, [marks.start, PADDING]] = -torch.inf  # which are no words
        if place < least:
            logits_nV[:, marks.end] = -torch.inf
        chosen_n = logits_nV.argmax(dim=1) if place < most - 1 else torch.full_like(open_n, marks.end)
        tokens_BT[open_n, place] = chosen_n
        open_n = open_n[chosen_n != marks.end]
    return tokens_BT


def _text(model: Model, tokens: list[int], marks: Marks) -> str:
    words = [token for token in tokens if token not in (marks.start, marks.end, PADDING)]
    tokenizer = cast(Any, model.tokenizer)
    decode = getattr(tokenizer, "decode", None) or tokenizer.tokenizer.decode
    return " ".join(str(decode(words)).split())
