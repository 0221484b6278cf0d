"""Formats other than JPEG, by Pillow: the first frame as upright-to-be RGB, on white; and colour profiles."""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from pipeline.stages.check_image.config import Rejected
from pipeline.stages.check_image.geometry import Pixels

__all__ = ["cmyk_to_srgb", "open_still", "png_damage", "profile_to_srgb", "quiet_pillow", "to_rgb"]

_PERCEPTUAL = ImageCms.Intent.PERCEPTUAL


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Run Pillow without its own pixel limit (ours comes first) and without its remarks on odd files."""
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def open_still(body: bytes, form: str) -> Image.Image:
    """Open with the one decoder for `form`; reads headers, decodes no pixels. Raises what Pillow raises."""
    return Image.open(io.BytesIO(body), formats=[form])


def png_damage(body: bytes) -> str | None:
    """What is wrong with a PNG's chunks, or None. Pillow by itself does not check the pixels' checksums."""
    position = 8
    view = memoryview(body)
    while position + 12 <= len(body):
        length, kind = struct.unpack_from(">I4s", body, position)
        end = position + 8 + length
        if end + 4 > len(body):
            return "truncated"
        critical = not kind[0] & 0x20  # an upper-case first letter (PNG specification, section 5.4)
        if critical and zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return f"checksum of {kind.decode('ascii', 'replace')}"
        if kind == b"IEND":
            return None
        position = end + 4
    return "truncated"


def to_rgb(image: Image.Image) -> Pixels | Rejected:
    """Decode the first frame to uint8[h, w, 3] in the file's own RGB, or sRGB where it is not RGB; on white.

    16-bit samples are scaled to 8, transparency is laid on white, CMYK, LAB and gray profiles become sRGB.
    Raises what Pillow raises on damaged data.
    """
    image.load()
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_16_bits(image)
    if mode in ("I", "F"):
        return Rejected(reason="unsupported_format", detail=f"{image.format} with 32-bit samples")
    icc = image.info.get("icc_profile") or b""
    if mode == "CMYK":
        return cmyk_to_srgb(np.asarray(image), icc)
    if mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        turned = ImageCms.profileToProfile(image, lab, _srgb(), _PERCEPTUAL, outputMode="RGB")
        assert turned is not None
        return np.asarray(turned)
    if image.has_transparency_data:
        image = _on_white(image)
    elif mode in ("1", "L"):
        gray = image.convert("L")
        transform = _transform(icc, "L") if icc else None
        if transform is not None:
            return np.asarray(ImageCms.applyTransform(gray, transform))
        return np.repeat(np.asarray(gray)[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _on_white(image: Image.Image) -> Image.Image:
    with_alpha = image.convert("RGBA")
    white = Image.new("RGB", with_alpha.size, (255, 255, 255))
    white.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return white


def _from_16_bits(image: Image.Image) -> Pixels:
    """Gray samples of up to 16 bits: the full scale of the file becomes 0 to 255, rounded."""
    samples = np.asarray(image).astype(np.uint32)
    bits = 16
    if image.format == "TIFF":
        tag = getattr(image, "tag_v2", {}).get(258, 16)  # BitsPerSample: 12-bit files decode to 0..4095
        bits = tag[0] if isinstance(tag, tuple) else tag
    full = (1 << bits) - 1 if isinstance(bits, int) and 8 < bits <= 16 else 65535
    gray = np.minimum((samples * 255 + full // 2) // full, 255).astype(np.uint8)
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 0:  # WhiteIsZero
        gray = np.invert(gray)
    return np.repeat(gray[:, :, None], 3, axis=2)


def cmyk_to_srgb(pixels: Pixels, icc: bytes) -> Pixels:
    """uint8[h, w, 4] with ink as 255 to uint8[h, w, 3]: by the profile, or by Pillow's plain rule without one."""
    height, width = pixels.shape[:2]
    image = Image.frombytes("CMYK", (width, height), np.ascontiguousarray(pixels).tobytes())
    transform = _transform(icc, "CMYK") if icc else None
    if transform is not None:
        return np.asarray(ImageCms.applyTransform(image, transform))
    return np.asarray(image.convert("RGB"))


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
