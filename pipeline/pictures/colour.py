"""Colour profiles and CMYK to sRGB."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from pipeline.pictures.jpeg import Pixels

__all__ = ["cmyk_to_srgb", "gray_to_srgb", "lab_to_srgb", "profile_to_srgb"]

_PERCEPTUAL = ImageCms.Intent.PERCEPTUAL


def cmyk_to_srgb(pixels: Pixels, icc: bytes) -> Pixels:
    """uint8[h, w, 4] with ink as 255 to uint8[h, w, 3]: by the profile, or by Pillow's plain rule without one."""
    height, width = pixels.shape[:2]
    image = Image.frombytes("CMYK", (width, height), np.ascontiguousarray(pixels).tobytes())
    transform = _transform(icc, "CMYK") if icc else None
    if transform is not None:
        return np.asarray(ImageCms.applyTransform(image, transform))
    return np.asarray(image.convert("RGB"))


def gray_to_srgb(pixels: Pixels, icc: bytes) -> Pixels:
    """uint8[h, w] to uint8[h, w, 3], by the profile where it is one of gray."""
    transform = _transform(icc, "L") if icc else None
    if transform is not None:
        return np.asarray(ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(pixels)), transform))
    return np.repeat(pixels[:, :, None], 3, axis=2)


def lab_to_srgb(image: Image.Image) -> Pixels:
    """A picture of Pillow's mode LAB to uint8[h, w, 3]."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    turned = ImageCms.profileToProfile(image, lab, _srgb(), _PERCEPTUAL, outputMode="RGB")
    assert turned is not None
    return np.asarray(turned)


def profile_to_srgb(pixels: Pixels, icc: bytes) -> Pixels:
    """uint8[h, w, 3] or gray uint8[h, w] through the profile; unchanged if that is sRGB already or unreadable."""
    if not icc or b"sRGB" in icc or b"s\0R\0G\0B" in icc:  # its description: ASCII, or UTF-16 in version 4
        return pixels
    transform = _transform(icc, "RGB" if pixels.ndim == 3 else "L")
    if transform is None:
        return pixels
    return np.asarray(ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(pixels)), transform))


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@functools.lru_cache(maxsize=16)  # building one costs milliseconds; cameras and tools share few profiles
def _transform(icc: bytes, mode: str) -> Any:
    """From the profile to sRGB, or None if the profile is damaged or of another colour space than `mode`."""
    space = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}[mode]
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if profile.profile.xcolor_space.strip() != space:
            return None
        return ImageCms.buildTransform(profile, _srgb(), mode, "RGB", _PERCEPTUAL)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
