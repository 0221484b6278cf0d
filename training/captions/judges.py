"""How well texts fit a picture: the cosine of any CLIP, or the probability of BLIP's matching head (CapFilt's filter).

pictures [B], texts of each --> float32 of each text, in order
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from training.captions.writers import grounding_of
from training.data.batch import trim
from training.errors import ModelError
from training.learning.features import image_features, text_features
from training.learning.methods.blip.grounding import Grounding
from training.learning.methods.blip.image_tokens import feature_and_tokens
from training.learning.model import Model
from training.scores.cosine import clip_score

__all__ = ["TextJudge", "judge_of"]

_TEXTS = 256
"""That go through the model at a time."""


class TextJudge(Protocol):
    """Whatever scores texts by their pictures."""

    by: str
    """cosine or match."""

    def scores(self, images_BHWC: npt.NDArray[np.uint8], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Of each picture, made by `prepare`, the scores of its texts: higher fits better."""


def judge_of(model: Model, by: Literal["auto", "cosine", "match"], *, what: str) -> TextJudge:
    """The judge in `model`. Raises ModelError, for `what`, where it has no matching head and is asked for one."""
    grounding = grounding_of(model)
    if by == "match" and grounding is None:
        raise ModelError(f"{what}: has no matching head; give a run of method blip, or set --by cosine")
    return _Cosine(model) if by == "cosine" or grounding is None else _Match(model, grounding)


class _Cosine:
    by = "cosine"

    def __init__(self, model: Model) -> None:
        self._model = model

    def scores(self, images_BHWC: npt.NDArray[np.uint8], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """See TextJudge."""
        flat, owners = _flat(texts)
        image_BD = image_features(self._model, images_BHWC).float().cpu().numpy()
        text_TD = text_features(self._model, flat, batch_size=_TEXTS).float().cpu().numpy()
        if not flat:
            return [[] for _ in texts]
        return _by_owner(clip_score(image_BD[owners], text_TD).tolist(), texts)


class _Match:
    by = "match"

    def __init__(self, model: Model, grounding: Grounding) -> None:
        self._model, self._grounding = model, grounding

    def scores(self, images_BHWC: npt.NDArray[np.uint8], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """See TextJudge."""
        model = self._model
        flat, owners = _flat(texts)
        found: list[float] = []
        with model.evaluating(), model.autocast():
            _, picture_BPI = feature_and_tokens(model, torch.from_numpy(images_BHWC).to(model.device))
            for first in range(0, len(flat), _TEXTS):
                tokens_TL = trim(model.tokenizer(flat[first : first + _TEXTS])).to(model.device)
                seen = picture_BPI[torch.tensor(owners[first : first + _TEXTS], device=model.device)]
                hidden = self._grounding.encode(cast(torch.nn.Module, model.clip.text), tokens_TL, seen)
                found += self._grounding.match(hidden).float().softmax(1)[:, 1].tolist()
        return _by_owner(found, texts)


def _flat(texts: Sequence[Sequence[str]]) -> tuple[list[str], list[int]]:
    """(all texts, the number of the picture of each)."""
    return [text for some in texts for text in some], [i for i, some in enumerate(texts) for _ in some]


def _by_owner(scores: list[float], texts: Sequence[Sequence[str]]) -> list[list[float]]:
    rest = iter(scores)
    return [[next(rest) for _ in some] for some in texts]
