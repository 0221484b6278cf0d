"""What writes of a picture, token by token: BLIP's decoder, or CoCa's.

pictures --look--> what is seen --begin--> state      tokens until here, state --next_logits--> what follows
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy.typing as npt
import torch
from torch import Tensor

from training.errors import ModelError
from training.learning.heads import HEADS
from training.learning.methods.blip.grounding import Grounding
from training.learning.methods.blip.image_tokens import feature_and_tokens
from training.learning.model import Model

__all__ = ["Writer", "grounding_of", "writer_of"]


class Writer(Protocol):
    """A decoder. Shapes: B pictures, L tokens, V words."""

    @property
    def longest(self) -> int:
        """Tokens of a text, its marks among them."""

    def look(self, images_BHWC: npt.NDArray[Any]) -> Tensor:
        """What of pictures, made by `prepare`, it writes of."""

    def begin(self, seen: Tensor) -> Any:
        """What it keeps while a text is written of each of them."""

    def next_logits(self, tokens_BL: Tensor, state: Any) -> Tensor:
        """[B, V]: of the token behind L >= 1 tokens, the first of them the start mark; called for each L in turn."""


def writer_of(model: Model, *, what: str) -> Writer:
    """The decoder of `model`. Raises ModelError, for `what`, where it has none."""
    if (grounding := grounding_of(model)) is not None:
        return _OfBlip(model, grounding)
    if model.has_decoder:
        return _OfCoca(model)
    raise ModelError(f"{what}: has no decoder that writes captions; give a run of method blip, or a CoCa")


def grounding_of(model: Model) -> Grounding | None:
    """BLIP's text tower that looks at pictures, where the model has it."""
    heads: Any = getattr(model.clip, HEADS, {})
    return cast(Grounding, heads["grounding"]) if "grounding" in heads else None


class _OfBlip:
    """Keys and values are kept, so that each token is computed once."""

    def __init__(self, model: Model, grounding: Grounding) -> None:
        self._model, self._grounding = model, grounding
        self._text = cast(Any, model.clip).text
        self.longest = int(self._text.context_length)

    def look(self, images_BHWC: npt.NDArray[Any]) -> Tensor:
        """See Writer."""
        return feature_and_tokens(self._model, torch.from_numpy(images_BHWC).to(self._model.device))[1]

    def begin(self, seen: Tensor) -> Any:
        """See Writer."""
        with self._model.autocast():
            return self._grounding.begin(seen)

    def next_logits(self, tokens_BL: Tensor, state: Any) -> Tensor:
        """See Writer."""
        with self._model.autocast():
            return self._grounding.next_logits(self._text, tokens_BL[:, -1], tokens_BL.shape[1] - 1, state)


class _OfCoca:
    """open_clip's modules keep nothing: all tokens are computed again for each."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.longest = model.tokenizer.context_length

    def look(self, images_BHWC: npt.NDArray[Any]) -> Tensor:
        """See Writer."""
        images = torch.from_numpy(images_BHWC).to(self._model.device)
        return cast(Tensor, self._model.encode_image_tokens(images)[1])

    def begin(self, seen: Tensor) -> Any:
        """See Writer."""
        return seen

    def next_logits(self, tokens_BL: Tensor, state: Any) -> Tensor:
        """See Writer."""
        words_BLW = cast(Tensor, self._model.encode_text_tokens(tokens_BL)[1])
        return self._model.caption_logits(state, words_BLW)[:, -1]
