"""check_image(): one body to a Picture or a Rejected, in this process."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import simplejpeg

from pipeline.pictures.colour import profile_to_srgb
from pipeline.pictures.decode import Decoded, decode, quiet_pillow
from pipeline.pictures.jpeg import Pixels
from pipeline.pictures.orientation import upright
from pipeline.pictures.pdq import pdq_of
from pipeline.pictures.pdq_record import Pdq
from pipeline.pictures.rejected import Rejected
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.stages.check_image.facts import exif_json, gray_32, perceptual_hash, thumbnail
from pipeline.stages.check_image.geometry import crop_or_pad, plan_size, scale

__all__ = ["check_image", "encode"]

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


def check_image(body: bytes, config: ImageConfig, *, with_pdq: bool = False) -> Picture | Rejected:
    """Check, decode, set upright, resize and encode one picture. Pure: the same bytes for the same input.

    `with_pdq` takes the PDQ of the picture too, as it was decoded.

    Never raises for what is in `body`; a decoder that kills its process is the business of IsolatedChecker.
    """

    def admit(size: tuple[int, int], may_turn: bool) -> Rejected | None:
        return _refuse_size(*size, config, may_turn=may_turn)

    def at_least(size: tuple[int, int]) -> tuple[int, int] | None:
        plan = plan_size(*size, config)
        if config.scaled_decoding == "exact" or plan.scaled[0] >= size[0]:
            return None
        return round(plan.scaled[0] * config.scaled_oversampling), round(plan.scaled[1] * config.scaled_oversampling)

    decoded = decode(body, admit=admit, at_least=at_least)
    if isinstance(decoded, Rejected):
        return decoded
    try:
        with quiet_pillow():
            return _finish(body, decoded, config, pdq_of(decoded.pixels) if with_pdq else None)
    except MemoryError:
        return Rejected(reason="crashed_decoder", detail="out of memory")
    except Exception as error:  # noqa: BLE001 - the libraries that apply profiles and encode raise almost anything
        return Rejected(reason="broken_image", detail=f"{decoded.form}: {type(error).__name__}")


def _finish(body: bytes, decoded: Decoded, config: ImageConfig, pdq: Pdq | None) -> Picture:
    plan, turned = plan_size(*decoded.size, config), decoded.orientation >= 5
    pixels = scale(decoded.pixels, plan.scaled[::-1] if turned else plan.scaled)
    pixels = np.ascontiguousarray(upright(profile_to_srgb(pixels, decoded.icc), decoded.orientation))
    gray = gray_32(pixels)
    phash, small = perceptual_hash(gray), thumbnail(pixels, gray)
    if config.store_original:
        encoded, extension = body, _EXTENSIONS[decoded.form]
        width, height = decoded.size
    else:
        pixels = crop_or_pad(pixels, plan)
        height, width = pixels.shape[:2]
        encoded, extension = encode(pixels, config), config.encode_format
    return Picture(
        encoded=encoded,
        extension=extension,
        width=width,
        height=height,
        original_width=decoded.size[0],
        original_height=decoded.size[1],
        original_format=decoded.form,
        original_bytes=len(body),
        exif=exif_json(decoded.exif, config.exif_tags),
        sha256=hashlib.sha256(body).hexdigest(),
        phash=phash,
        thumbnail=small,
        pdq=pdq,
    )


def encode(pixels: Pixels, config: ImageConfig) -> bytes:
    """The file of a picture as the config has it. Three channels always: gray pictures too, so that readers need no
    special case. Raises ValueError where it cannot be encoded."""
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
