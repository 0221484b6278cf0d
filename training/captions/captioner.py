"""A captioner: pictures in, captions out, drawn by nucleus sampling (Holtzman et al., arXiv 1904.09751).

A draw hangs on (seed, uid), the number of the caption and the token's place, never on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.records.identity import first_64_bits, keyed_hash
from training.captions.config import CaptionConfig
from training.captions.writers import writer_of
from training.learning.keyed import GOLDEN
from training.learning.marks import PADDING, marks_of
from training.learning.methods.blip.hard_pairs import keyed_uniform
from training.learning.model import Captioner, Model

__all__ = ["SamplingCaptioner", "captioner_of", "keys_of", "nucleus"]

_PLACES = 4096
"""More than a text has tokens: keeps the draws of captions apart."""
_LEAST = 2.0**-54
"""Whose logarithm is a number."""
_LIKELY = 512
"""Tokens among which the nucleus mostly is: to sort a whole vocabulary costs more than to find it."""


def keys_of(uids: Sequence[bytes], *, seed: int) -> list[int]:
    """int64 of each uid of 16 bytes: what draws of its sample go by."""
    found: list[int] = keyed_hash(seed, first_64_bits(b"".join(uids))).view(np.int64).tolist()
    return found


def captioner_of(model: Model, config: CaptionConfig) -> Captioner:
    """How `model` writes captions: by itself where it does (BLIP-2), else drawn from its decoder. Raises ModelError."""
    return model.captioner or SamplingCaptioner(model, config)


class SamplingCaptioner:
    """A model's decoder, by nucleus sampling."""

    beside = ""

    def __init__(self, model: Model, config: CaptionConfig) -> None:
        """Raises ModelError where `model` has no decoder, or a tokenizer that it cannot learn with."""
        self._writer = writer_of(model, what=config.model)
        self._marks = marks_of(model.tokenizer, config.model)
        self._model, self._config = model, config
        self._most = min(config.max_tokens, self._writer.longest - 2)

    def captions(self, images_BHWC: npt.NDArray[np.uint8], keys: Sequence[int]) -> list[list[str]]:
        """See Captioner; some may be the same, or empty."""
        with self._model.evaluating():
            seen = self._writer.look(images_BHWC)
            keys_B = torch.tensor(keys, dtype=torch.int64, device=seen.device)
            drawn = [self._tokens(seen, keys_B, number).tolist() for number in range(self._config.captions)]
        return [[self._text(tokens) for tokens in of_picture] for of_picture in zip(*drawn, strict=True)]

    def _tokens(self, seen: Tensor, keys_B: Tensor, number: int) -> Tensor:
        """int64[B, L]: the start mark and what was drawn; behind an end mark nothing counts."""
        config, marks = self._config, self._marks
        state = self._writer.begin(seen)
        tokens_BL = torch.full_like(keys_B[:, None], marks.start)
        is_done_B = torch.zeros_like(keys_B, dtype=torch.bool)
        for place in range(self._most):
            logits_BV = self._writer.next_logits(tokens_BL, state).float() / config.temperature
            logits_BV[:, [PADDING, marks.start]] = -torch.inf
            if place < min(config.min_tokens, self._most):
                logits_BV[:, marks.end] = -torch.inf
            chosen_B = nucleus(logits_BV, keys_B, top_p=config.top_p, salt=number * _PLACES + place)
            tokens_BL = torch.cat([tokens_BL, chosen_B.where(~is_done_B, marks.end)[:, None]], dim=1)
            is_done_B = is_done_B | (chosen_B == marks.end)
            if bool(is_done_B.all()):
                break
        return tokens_BL

    def _text(self, tokens: Sequence[int]) -> str:
        words = list(tokens[1:])
        if self._marks.end in words:
            words = words[: words.index(self._marks.end)]
        return " ".join(_decoded(self._model.tokenizer, words).split())


def nucleus(logits_BV: Tensor, keys_B: Tensor, *, top_p: float, salt: int) -> Tensor:
    """int64[B]: a token of each row, drawn by its key among the likeliest ones whose probabilities reach `top_p`."""
    norms_B1 = logits_BV.logsumexp(1, keepdim=True).double()
    highest_BK, order_BK = logits_BV.topk(min(_LIKELY, logits_BV.shape[1]), dim=1)
    likely_BK = (highest_BK - norms_B1).exp()
    chosen_B = _drawn(likely_BK, order_BK, keys_B, top_p, salt)
    flat = (likely_BK.sum(1) < top_p).nonzero()[:, 0]  # row by row, so that no row hangs on another
    if len(flat):
        sorted_, order = logits_BV[flat].sort(dim=1, descending=True, stable=True)
        chosen_B[flat] = _drawn((sorted_ - norms_B1[flat]).exp(), order, keys_B[flat], top_p, salt)
    return chosen_B


def _drawn(likely_BK: Tensor, order_BK: Tensor, keys_B: Tensor, top_p: float, salt: int) -> Tensor:
    before_BK = likely_BK.cumsum(1) - likely_BK
    weights_BK = likely_BK.where(before_BK < top_p, 0)
    # The Gumbel trick, with a number of each token's own: where logits are rounded otherwise, neighbours in the order
    # change places, and the same token is drawn all the same.
    own_BK = keyed_uniform(keys_B[:, None] ^ (order_BK * GOLDEN), salt=salt).clamp_min(_LEAST)
    chosen_B = (weights_BK.log() - (-own_BK.log()).log()).argmax(1)
    return order_BK.gather(1, chosen_B[:, None])[:, 0]


def _decoded(tokenizer: Any, tokens: list[int]) -> str:
    inner = getattr(tokenizer, "tokenizer", None)  # open_clip's wrapper of one of transformers
    if inner is not None:
        return str(inner.decode(tokens, skip_special_tokens=True))
    return str(tokenizer.decode(tokens))
