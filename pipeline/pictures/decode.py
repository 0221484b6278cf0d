"""decode(): one body to pixels; decode_upright() for who wants no more than those."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.pictures.colour import cmyk_to_srgb, profile_to_srgb
from pipeline.pictures.identify import identify
from pipeline.pictures.jpeg import Pixels, decode_jpeg, read_jpeg_header
from pipeline.pictures.orientation import exif_of, orientation_of, upright
from pipeline.pictures.rejected import Rejected
from pipeline.pictures.still import open_still

__all__ = ["Admit", "AtLeast", "Decoded", "decode", "decode_upright", "quiet_pillow"]

Size = tuple[int, int]
"""(width, height)."""
Admit = Callable[[Size, bool], Rejected | None]
"""What is wrong with an upright size, or None. The second argument: the sides may yet be exchanged."""
AtLeast = Callable[[Size], Size | None]
"""The smallest size that will do for a picture of this upright size, upright too; None for all of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """Pixels as stored (not yet upright), perhaps already smaller, and what is known beside them."""

    form: str
    """JPEG, PNG, WEBP, AVIF, GIF, TIFF, BMP or JPEG2000."""
    pixels: Pixels
    icc: bytes
    """The profile that is still to be applied; empty if none."""
    orientation: int
    """EXIF's, 1 to 8, still to be applied."""
    size: Size
    """Upright, as served."""
    exif: Image.Exif | None


def decode(body: bytes, *, admit: Admit, at_least: AtLeast) -> Decoded | Rejected:
    """Decode the first frame. The same pixels for the same bytes.

    `admit` is asked whenever more is known of the size, always before pixels are decoded. JPEGs may come smaller,
    as `at_least` allows. Never raises for what is in `body`; some decoders may kill or hang the process.
    """
    identity = identify(body)
    if identity.format is None:
        return Rejected(reason="not_an_image", detail=_shown(body))
    if not identity.decodable:
        return Rejected(reason="unsupported_format", detail=identity.format)
    if identity.size is not None:
        refusal = admit(identity.size, True)
        if refusal is not None:
            return refusal
    try:
        with quiet_pillow():
            if identity.format == "JPEG":
                return _jpeg(body, admit, at_least)
            return _still(body, identity.format, admit)
    except MemoryError:
        return Rejected(reason="crashed_decoder", detail="out of memory")
    except Exception as error:  # noqa: BLE001 - on hostile bytes decoders raise almost anything
        return Rejected(reason="broken_image", detail=f"{identity.format}: {type(error).__name__}")


def decode_upright(body: bytes, *, max_pixels: int, at_least: AtLeast) -> Pixels | Rejected:
    """The whole way: uint8[h, w, 3], sRGB, on white, upright. As `decode` otherwise."""

    def admit(size: Size, may_turn: bool) -> Rejected | None:
        width, height = size
        if width < 1 or height < 1:
            return Rejected(reason="broken_image", detail=f"{width} x {height} pixels")
        too_many = width * height > max_pixels
        return Rejected(reason="too_many_pixels", detail=f"{width} x {height}") if too_many else None

    decoded = decode(body, admit=admit, at_least=at_least)
    if isinstance(decoded, Rejected):
        return decoded
    pixels = upright(profile_to_srgb(decoded.pixels, decoded.icc), decoded.orientation)
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


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


def _jpeg(body: bytes, admit: Admit, at_least: AtLeast) -> Decoded | Rejected:
    header = read_jpeg_header(body)
    if header is None:
        return Rejected(reason="broken_image", detail="JPEG: no frame")
    if not header.decodable:
        kind = f"JPEG with {header.num_components} components of {header.precision} bits"
        return Rejected(reason="unsupported_format", detail=kind)
    exif = exif_of(header.exif) if header.exif else None
    orientation = orientation_of(exif)
    turned = orientation >= 5
    size = (header.height, header.width) if turned else (header.width, header.height)
    refusal = admit(size, False)
    if refusal is not None:
        return refusal
    smallest = at_least(size)
    if smallest is not None and turned:
        smallest = smallest[::-1]
    try:
        pixels = decode_jpeg(body, header, smallest)
    except ValueError:
        return Rejected(reason="broken_image", detail="JPEG: truncated or damaged")
    icc = header.icc
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels, icc = cmyk_to_srgb(pixels, icc), b""
    return Decoded(form="JPEG", pixels=pixels, icc=icc, orientation=orientation, size=size, exif=exif)


def _still(body: bytes, form: str, admit: Admit) -> Decoded | Rejected:
    """Every format but JPEG. Raises what Pillow raises on damaged data."""
    still = open_still(body, form)
    if isinstance(still, Rejected):
        return still
    with closing(still.image) as image:
        refusal = admit(image.size, True)
        if refusal is not None:
            return refusal
        pixels = still.decode()
        if isinstance(pixels, Rejected):
            return pixels
        exif = _pillow_exif(image)  # it may stand behind the pixels
        orientation = orientation_of(exif)
        size = image.size[::-1] if orientation >= 5 else image.size
        refusal = admit(size, False)
        if refusal is not None:
            return refusal
        is_srgb = image.mode in ("1", "L", "LA", "CMYK", "LAB") or image.mode.startswith("I")
    icc = b"" if is_srgb else still.icc
    return Decoded(form=form, pixels=pixels, icc=icc, orientation=orientation, size=size, exif=exif)


def _pillow_exif(image: Image.Image) -> Image.Exif | None:
    try:
        return image.getexif()
    except Exception:  # noqa: BLE001 - hostile bytes again; a picture without its EXIF is still a picture
        return None


def _shown(body: bytes) -> str:
    """The first bytes, for people."""
    return ascii(body[:24].decode("latin-1"))[1:-1]
