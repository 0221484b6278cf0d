"""Parts of the pictures of a batch, for losses that compare a part with the whole.

They are cut from pictures as the model sees them, on its device, each by its sample's key and its own number; the
batch carries no more than it did. A view cut from the original file would have finer pixels where it is small.

Shapes: B pictures, V views of each, C channels, S = side of a view.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import roi_align

from training.learning.keyed import draws

__all__ = ["local_views"]

_PURPOSE = 1
_ASPECT = 4 / 3
"""Widest view before it is made square (torchvision's RandomResizedCrop, by which DINO cuts)."""


def local_views(
    pixels_BCHW: Tensor, keys_B: Tensor, *, count: int, size: int, min_area: float, max_area: float
) -> Tensor:
    """[B * V, C, S, S], the V = `count` views of a picture one after the other: squares of `size` pixels made of a part
    of the area uniform in [min_area, max_area], its log aspect uniform; bilinear, four points a pixel."""
    batch, _, height, width = pixels_BCHW.shape
    area, aspect, left, top = draws(keys_B, 4 * count, purpose=_PURPOSE).view(batch * count, 4).unbind(1)
    area = min_area + (max_area - min_area) * area
    aspect = ((2 * aspect - 1) * math.log(_ASPECT)).exp()
    across, down = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    left, top = left * (1 - across), top * (1 - down)
    number = torch.arange(batch, device=keys_B.device).repeat_interleave(count)
    boxes = [number, left * width, top * height, (left + across) * width, (top + down) * height]
    places = torch.stack([column.to(pixels_BCHW.dtype) for column in boxes], dim=1)
    views: Tensor = roi_align(pixels_BCHW.contiguous(), places, output_size=size, sampling_ratio=2, aligned=True)
    return views
