"""check_image(): one body to a Picture or a Rejected, in this process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from pipeline.stages.check_image.config import ImageConfig, Picture, Rejected
from pipeline.stages.check_image.facts import exif_json, exif_of, orientation_of, perceptual_hash
from pipeline.stages.check_image.geometry import Pixels, Plan, crop_or_pad, plan_size, scale, upright
from pipeline.stages.check_image.identify import identify
from pipeline.stages.check_image.jpeg import decode_jpeg, read_jpeg_header
from pipeline.stages.check_image.still import (
    cmyk_to_srgb,
    open_still,
    png_damage,
    profile_to_srgb,
    quiet_pillow,
    to_rgb,
)

__all__ = ["check_image"]

_EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "AVIF": "avif",
    "GIF": "gif",
    "TIFF": "tif",
    "BMP": "bmp",
    "JPEG2000": "jp2",
}
cv2.setNumThreads(1)  # a task has one core; its neighbours have theirs


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decoded:
    """Pixels as stored (not yet upright), perhaps already smaller, and what is known beside them."""

    pixels: Pixels
    icc: bytes  # still to be applied; empty if none
    plan: Plan
    orientation: int
    size: tuple[int, int]  # (width, height) upright, as served
    exif: Image.Exif | None


def check_image(body: bytes, config: ImageConfig) -> Picture | Rejected:
    """Check, decode, set upright, resize and encode one picture. Pure: the same bytes for the same input.

    Never raises for what is in `body`; a decoder that kills its process is the business of IsolatedChecker.
    """
    identity = identify(body)
    if identity.format is None:
        return Rejected(reason="not_an_image", detail=_shown(body))
    if not identity.decodable:
        return Rejected(reason="unsupported_format", detail=identity.format)
    if identity.size is not None:
        refusal = _refuse_size(*identity.size, config, may_turn=True)
        if refusal is not None:
            return refusal
    try:
        with quiet_pillow():
            is_jpeg = identity.format == "JPEG"
            decoded = _jpeg(body, config) if is_jpeg else _still(body, identity.format, config)
            if isinstance(decoded, Rejected):
                return decoded
            return _finish(body, identity.format, decoded, config)
    except MemoryError:
        return Rejected(reason="crashed_decoder", detail="out of memory")
    except Exception as error:  # noqa: BLE001 - on hostile bytes decoders raise almost anything
        return Rejected(reason="broken_image", detail=f"{identity.format}: {type(error).__name__}")


def _jpeg(body: bytes, config: ImageConfig) -> _Decoded | Rejected:
    header = read_jpeg_header(body)
    if header is None:
        return Rejected(reason="broken_image", detail="JPEG: no frame")
    if not header.decodable:
        kind = f"JPEG with {header.num_components} components of {header.precision} bits"
        return Rejected(reason="unsupported_format", detail=kind)
    exif = exif_of(header.exif) if header.exif else None
    orientation = orientation_of(exif)
    turned = orientation >= 5
    width, height = (header.height, header.width) if turned else (header.width, header.height)
    refusal = _refuse_size(width, height, config)
    if refusal is not None:
        return refusal
    plan = plan_size(width, height, config)
    at_least = None
    if config.scaled_decoding == "fast" and plan.scaled[0] < width:
        scaled = plan.scaled[::-1] if turned else plan.scaled
        at_least = (round(scaled[0] * config.scaled_oversampling), round(scaled[1] * config.scaled_oversampling))
    try:
        pixels = decode_jpeg(body, header, at_least)
    except ValueError:
        return Rejected(reason="broken_image", detail="JPEG: truncated or damaged")
    icc = header.icc
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels, icc = cmyk_to_srgb(pixels, icc), b""
    return _Decoded(pixels=pixels, icc=icc, plan=plan, orientation=orientation, size=(width, height), exif=exif)


def _still(body: bytes, form: str, config: ImageConfig) -> _Decoded | Rejected:
    """Every format but JPEG. Raises what Pillow raises on damaged data."""
    if form == "PNG":
        damage = png_damage(body)
        if damage is not None:
            return Rejected(reason="broken_image", detail=f"PNG: {damage}")
    with open_still(body, form) as image:
        refusal = _refuse_size(*image.size, config, may_turn=True)
        if refusal is not None:
            return refusal
        image.load()
        exif = _pillow_exif(image)
        orientation = orientation_of(exif)
        width, height = image.size[::-1] if orientation >= 5 else image.size
        refusal = _refuse_size(width, height, config)
        if refusal is not None:
            return refusal
        icc = image.info.get("icc_profile") or b""
        was_rgb = image.mode not in ("1", "L", "LA", "CMYK", "LAB") and not image.mode.startswith("I")
        pixels = to_rgb(image)
    if isinstance(pixels, Rejected):
        return pixels
    return _Decoded(
        pixels=pixels,
        icc=icc if was_rgb and isinstance(icc, bytes) else b"",
        plan=plan_size(width, height, config),
        orientation=orientation,
        size=(width, height),
        exif=exif,
    )


def _pillow_exif(image: Image.Image) -> Image.Exif | None:
    try:
        return image.getexif()
    except Exception:  # noqa: BLE001 - hostile bytes again; a picture without its EXIF is still a picture
        return None


def _finish(body: bytes, form: str, decoded: _Decoded, config: ImageConfig) -> Picture:
    plan, turned = decoded.plan, decoded.orientation >= 5
    pixels = scale(decoded.pixels, plan.scaled[::-1] if turned else plan.scaled)
    pixels = upright(profile_to_srgb(pixels, decoded.icc), decoded.orientation)
    phash = perceptual_hash(pixels)
    if config.store_original:
        encoded, extension = body, _EXTENSIONS[form]
        width, height = decoded.size
    else:
        pixels = crop_or_pad(pixels, plan)
        height, width = pixels.shape[:2]
        encoded, extension = _encode(pixels, config), config.encode_format
    return Picture(
        encoded=encoded,
        extension=extension,
        width=width,
        height=height,
        original_width=decoded.size[0],
        original_height=decoded.size[1],
        original_format=form,
        original_bytes=len(body),
        exif=exif_json(decoded.exif, config.exif_tags),
        sha256=hashlib.sha256(body).hexdigest(),
        phash=phash,
    )


def _encode(pixels: Pixels, config: ImageConfig) -> bytes:
    """Three channels always: gray pictures too, so that readers need no special case."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    pixels = np.ascontiguousarray(pixels)
    if config.encode_format == "jpg":
        jpeg: bytes = simplejpeg.encode_jpeg(
            pixels, quality=config.encode_quality, colorspace="RGB", colorsubsampling="420"
        )
        return jpeg
    option = cv2.IMWRITE_PNG_COMPRESSION if config.encode_format == "png" else cv2.IMWRITE_WEBP_QUALITY
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(f".{config.encode_format}", bgr, [option, config.encode_quality])
    if not done:
        raise ValueError("the picture cannot be encoded")
    return bytes(data)


def _refuse_size(width: int, height: int, config: ImageConfig, *, may_turn: bool = False) -> Rejected | None:
    """What is wrong with an upright size, or None. `may_turn`: the sides may yet be exchanged."""
    if width < 1 or height < 1:
        return Rejected(reason="broken_image", detail=f"{width} x {height} pixels")
    if width * height > config.max_pixels:
        return Rejected(reason="too_many_pixels", detail=f"{width} x {height}")
    shorter, longer = sorted((width, height))
    if shorter < config.min_side:
        return Rejected(reason="too_small", detail=f"{width} x {height}")
    if config.max_aspect_ratio and longer > shorter * config.max_aspect_ratio:
        return Rejected(reason="aspect_ratio", detail=f"{width} x {height}")
    if plan_size(width, height, config).num_pixels > config.max_pixels:
        return Rejected(reason="aspect_ratio", detail=f"{width} x {height}: too many pixels after resizing")
    return None


def _shown(body: bytes) -> str:
    """The first bytes, for people."""
    return ascii(body[:24].decode("latin-1"))[1:-1]
