"""Unit features of pictures and texts as users have them: bytes and strings.

bytes --decode, fit--> uint8[B, S, S, 3] --image tower--> [B, D]
strings --tokens------------------------------------ text tower--> [B, D]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.data.batch import trim
from training.data.decode import decode
from training.learning.fitting import fit
from training.learning.model import Model

__all__ = ["image_features", "prepare", "text_features"]


def prepare(data: bytes, model: Model) -> npt.NDArray[np.uint8] | None:
    """RGB uint8[S, S, 3] as `model` wants its pictures, every pixel decoded; None for what is no whole picture."""
    pixels = decode(data)
    if pixels is None:
        return None
    fill = (getattr(model.clip.visual, "preprocess_cfg", None) or {}).get("fill_color", 0)
    return fit(pixels, model.image_size, mode=model.resize_mode, interpolation=model.interpolation, fill=fill)


def image_features(model: Model, images_BHWC: npt.NDArray[np.uint8]) -> Tensor:
    """Unit features [B, D] on the model's device, without a graph, of pictures made by `prepare`."""
    with model.evaluating():
        return model.encode_image(torch.from_numpy(images_BHWC).to(model.device))


def text_features(model: Model, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
    """Unit features [T, D] on the model's device, without a graph."""
    parts = [torch.zeros(0, device=model.device)]
    with model.evaluating():
        for batch in _cut(texts, batch_size):
            tokens_BL = model.tokenizer(batch)
            tokens_BL = trim(tokens_BL) if model.can_trim else tokens_BL
            parts.append(model.encode_text(tokens_BL.to(model.device)))
    return torch.cat(parts)


def _cut(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    for first in range(0, len(texts), size):
        yield list(texts[first : first + size])
