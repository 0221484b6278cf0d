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

__all__ = ["image_features", "prepare", "prepare_pixels", "text_features"]


def prepare(data: bytes, model: Model) -> npt.NDArray[np.uint8] | None:
    """RGB uint8[S, S, 3] as `model` wants its pictures, every pixel decoded; None for what is no whole picture."""
    pixels = decode(data)
    return None if pixels is None else prepare_pixels(pixels, model)


def prepare_pixels(pixels_HWC: npt.NDArray[np.uint8], model: Model) -> npt.NDArray[np.uint8]:
    """`prepare` of a picture that is decoded, RGB uint8[H, W, 3]."""
    size, mode, filtered = model.image_size, model.resize_mode, model.interpolation
    return fit(pixels_HWC, size, mode=mode, interpolation=filtered, fill=model.fill_color)


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
