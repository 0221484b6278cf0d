"""Sizes: where a picture goes in each resize mode."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.pictures.jpeg import Pixels
from pipeline.stages.check_image.area import shrink
from pipeline.stages.check_image.config import ImageConfig

__all__ = ["Plan", "crop_or_pad", "plan_size", "scale"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """`scaled` (width, height), upright, before `crop` or `pad` to `side` x `side`."""

    scaled: tuple[int, int]
    crop: bool = False
    pad: bool = False
    side: int = 0

    @property
    def num_pixels(self) -> int:
        """Of the larger of the scaled and the final picture."""
        return max(self.scaled[0] * self.scaled[1], self.side * self.side if self.pad else 0)


def plan_size(width: int, height: int, config: ImageConfig) -> Plan:
    """Where an upright `width` x `height` picture goes in the config's mode."""
    mode, side = config.resize_mode, config.image_size
    if mode == "no" or config.store_original:
        return Plan(scaled=(width, height))
    shorter = mode in ("keep_ratio", "center_crop")
    reference = min(width, height) if shorter else max(width, height)
    if config.resize_only_if_bigger and reference <= side:
        return Plan(scaled=(width, height))
    scaled = (max(1, round(width * side / reference)), max(1, round(height * side / reference)))
    return Plan(scaled=scaled, crop=mode == "center_crop", pad=mode == "border", side=side)


def scale(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize to (width, height): averaging areas when it gets smaller, Lanczos when it gets larger."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    if size[0] <= width and size[1] <= height and (pixels.ndim == 2 or pixels.shape[2] == 3):
        return shrink(pixels, size)
    smaller = size[0] * size[1] < width * height  # one side may grow: a line of 8000 x 2
    how = cv2.INTER_AREA if smaller else cv2.INTER_LANCZOS4
    return cv2.resize(pixels, size, interpolation=how).astype(np.uint8, copy=False)


def crop_or_pad(pixels: Pixels, plan: Plan) -> Pixels:
    """The middle of an upright scaled picture, or the picture in the middle of white."""
    height, width = pixels.shape[:2]
    side = plan.side
    if plan.crop:
        left, top = (width - side) // 2, (height - side) // 2
        return pixels[top : top + side, left : left + side]
    if plan.pad:
        left, top = (side - width) // 2, (side - height) // 2
        canvas = np.full((side, side, *pixels.shape[2:]), 255, np.uint8)
        canvas[top : top + height, left : left + width] = pixels
        return canvas
    return pixels
