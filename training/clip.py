"""A trained CLIP as a library: features of pictures and texts, and how alike they are, with gradients.

    clip = openwit.load("runs/sample")
    clip.similarity(["cat.jpg"], ["a cat", "a dog"])

Shapes: B pictures, T texts, C = 3 channels, H, W in pixels, D = width of the features.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from pipeline.errors import one_line
from training.config import Precision
from training.errors import DataError
from training.learning.features import prepare, prepare_pixels
from training.learning.model import Model, model_json
from training.learning.pretrained import load_model
from training.learning.writing import Way, check_writes, write

__all__ = ["Clip", "Pictures", "load"]

_PICTURES_AT_A_TIME = 256

Picture = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]
Pictures = Picture | Sequence[Picture] | Tensor
"""A picture or several: paths, bytes of files, PIL's, uint8[H, W, 3]; or a float tensor [B, 3, H, W] (see
`Clip.encode_image`)."""


def load(
    source: str | Path,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Precision = "fp32",
    tokenizer: str | None = None,
    trainable: bool = False,
) -> Clip:
    """The model at `source`: the directory of a run or of an export, here or in a bucket; NAME:FILE, an open_clip
    model's name with weights of its kind; NAME:TAG or hf-hub:ORGANISATION/NAME for published ones.

    It is in evaluation mode, and its weights are constants, unless it is `trainable`: `Clip` says what that means.
    `tokenizer` is ModelConfig's. Published weights are taken from Hugging Face's cache; nothing is downloaded unless
    HF_HUB_OFFLINE=0 asks for it. Raises TrainingError.
    """
    return Clip(load_model(source, device=device, precision=precision, tokenizer=tokenizer), trainable=trainable)


def _file_of(picture: Image.Image) -> bytes:
    """A file with the picture, so that transparency, 16 bits and EXIF's orientation are read as those of files are."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        upright = upright.convert("RGB")
    buffer = io.BytesIO()
    upright.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


class Clip:
    """A model and what it wants of its inputs.

    Gradients flow to what asks for them: to pictures that are tensors with `requires_grad`, and where it is trainable
    to the weights (`module.parameters()`). Where nothing asks, there is no graph.
    """

    def __init__(self, model: Model, *, trainable: bool = False) -> None:
        """`load` makes one."""
        self._model = model
        model.clip.requires_grad_(trainable)

    def __repr__(self) -> str:
        return f"Clip({self._model.name}, {self.image_size} px, {self.device})"

    @property
    def module(self) -> nn.Module:
        """open_clip's module: weights, `train()`, `eval()`, `state_dict()`."""
        return self._model.clip

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the features that come back."""
        return self._model.device

    @property
    def image_size(self) -> int:
        """Side of the model's pictures, in pixels."""
        return self._model.image_size

    @property
    def width(self) -> int:
        """D, of the features."""
        return int(model_json(self._model.name)["embed_dim"])

    @property
    def logit_scale(self) -> Tensor:
        """Scalar: the factor between a cosine and a logit."""
        scale: Tensor = self._clip.logit_scale.exp()
        return scale

    @property
    def logit_bias(self) -> Tensor | None:
        """Scalar that is added to logits; None for a model without (softmax)."""
        bias: Tensor | None = getattr(self._clip, "logit_bias", None)
        return bias

    @property
    def _clip(self) -> Any:
        return self._model.clip

    def encode_image(self, pictures: Pictures) -> Tensor:
        """Unit features float32[B, D].

        Files and PIL pictures are decoded, resized and cut as an evaluation does. A float tensor [B, 3, H, W] is RGB in
        [0, 1], to which the gradient flows; one of another size than the model's is resized to it (bicubic,
        antialiased), whatever its shape. Raises DataError for what is no whole picture, naming which.
        """
        if isinstance(pictures, Tensor):
            return self._model.encode_image(self._pixels(pictures))
        parts = [torch.zeros((0, self.width), device=self.device)]
        parts += [self._model.encode_image(images_BHWC) for images_BHWC in self._batches(pictures)]
        return torch.cat(parts)

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Unit features float32[T, D]; what is longer than the model's context is cut."""
        tokens_TL = self._model.tokenizer([texts] if isinstance(texts, str) else list(texts))
        return self._model.encode_text(tokens_TL.to(self.device))

    def captions(self, pictures: Pictures, *, way: Way = "greedy") -> list[str]:
        """The likeliest caption of each picture, written by the decoder of a CoCa: token by token (greedy), or by
        open_clip's beam search, which needs `pip install 'transformers<5'`.

        Raises ModelError for a model without a decoder, DataError as `encode_image` does.
        """
        check_writes(self._model, way)
        return [text for images_BHWC in self._batches(pictures) for text in write(self._model, images_BHWC, way=way)]

    def similarity(self, pictures: Pictures, texts: str | Sequence[str]) -> Tensor:
        """Cosines float32[B, T], in [-1, 1]. `logits` makes them what the model was trained with."""
        return self.encode_image(pictures) @ self.encode_text(texts).T

    def logits(self, cosines_BT: Tensor) -> Tensor:
        """float32[B, T]: of a softmax over the texts (CLIP), or of a sigmoid each (SigLIP, with `logit_bias`)."""
        scaled = cosines_BT * self.logit_scale
        return scaled if self.logit_bias is None else scaled + self.logit_bias

    def _batches(self, pictures: Pictures) -> Iterator[Tensor]:
        """[B, S, S, 3] on the model's device, in 0..255."""
        if isinstance(pictures, Tensor):
            yield self._pixels(pictures)
            return
        several: Sequence[Picture] = pictures if isinstance(pictures, list | tuple) else [pictures]  # type: ignore[list-item]
        for first in range(0, len(several), _PICTURES_AT_A_TIME):
            few = several[first : first + _PICTURES_AT_A_TIME]
            pixels = [self._prepared(picture, first + number) for number, picture in enumerate(few)]
            yield torch.from_numpy(np.stack(pixels)).to(self.device)

    def _prepared(self, picture: Picture, number: int) -> npt.NDArray[np.uint8]:
        name = str(picture) if isinstance(picture, str | Path) else f"picture {number}"
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
                raise DataError(f"{name}: pixels are uint8[H, W, 3]; these are {picture.dtype}{list(picture.shape)}")
            return prepare_pixels(picture, self._model)
        try:
            if isinstance(picture, Image.Image):
                data = _file_of(picture)
            elif isinstance(picture, bytes):
                data = picture
            elif isinstance(picture, str | Path):
                data = Path(picture).read_bytes()
            else:
                raise DataError(f"{name}: a {type(picture).__name__} is no path, bytes, PIL's or uint8[H, W, 3]")
        except OSError as error:  # PIL's too, of a file that it had not read to its end
            told = error.strerror or one_line(error)
            raise DataError(f"{name}: cannot be read ({told})") from error
        pixels = prepare(data, self._model)
        if pixels is None:
            raise DataError(f"{name}: not a whole picture of a form that is known here")
        return pixels

    def _pixels(self, images_BCHW: Tensor) -> Tensor:
        """Floats in [0, 255], [B, S, S, 3]."""
        if images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3 or not images_BCHW.is_floating_point():
            raise DataError(
                f"a tensor of pictures is float [B, 3, H, W] with RGB in [0, 1]; this is {images_BCHW.dtype} "
                f"{list(images_BCHW.shape)}"
            )
        size = (self.image_size, self.image_size)
        images_BCHW = images_BCHW.to(self.device)
        if images_BCHW.shape[2:] != size:
            images_BCHW = F.interpolate(images_BCHW, size, mode="bicubic", antialias=True)
        return (images_BCHW * 255).permute(0, 2, 3, 1)
