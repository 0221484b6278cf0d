"""Formats other than JPEG, by Pillow: the first frame as upright-to-be RGB, on white.

What a file leaves open is white (a frame smaller than its canvas) or damage (pixels that the data do not reach):
Pillow shows both as black, or as the first colour of the palette.
"""

from __future__ import annotations

import io
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.pictures.colour import cmyk_to_srgb, gray_to_srgb, lab_to_srgb
from pipeline.pictures.gif import Gif, read_gif
from pipeline.pictures.jpeg import Pixels
from pipeline.pictures.png import Png, has_all_rows, read_png
from pipeline.pictures.rejected import Rejected
from pipeline.pictures.webp import first_frame

__all__ = ["Still", "open_still"]

_FILLS = (255, 254)  # few GIFs use both of these entries of the palette in one place
Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Still:
    """A picture whose header is read, and what is known of its file beside."""

    image: Image.Image
    icc: bytes
    png: Png | None = None
    gif: Gif | None = None
    box: Box | None = None
    """Where the first frame lies on its canvas; None for all of it."""

    def decode(self) -> Pixels | Rejected:
        """uint8[h, w, 3] in the file's own RGB, or in sRGB where the file has other colours; on white.

        16-bit samples are scaled to 8, transparency is laid on white, CMYK, LAB and gray become sRGB. Raises what
        Pillow raises on damaged data.
        """
        if self.gif is not None:
            return _gif(self.image, self.gif)
        image = self.image
        covered = _covers(image)
        image.load()
        if not covered or (self.png is not None and _is_short(image, self.png)):
            return Rejected(reason="broken_image", detail=f"{image.format}: fewer pixels than its header says")
        pixels = _to_rgb(image, self.icc)
        if isinstance(pixels, Rejected):
            return pixels
        if self.png is not None and self.png.transparent is not None:
            pixels = _white_where(pixels, _is_transparent(image, self.png))
        return pixels if self.box is None else _on_canvas(pixels, self.box)


def open_still(body: bytes, form: str) -> Still | Rejected:
    """Open with the one decoder for `form`; reads headers, decodes no pixels. Raises what Pillow raises."""
    if form == "PNG":
        png = read_png(body)
        if isinstance(png, str):
            return Rejected(reason="broken_image", detail=f"PNG: {png}")
        return Still(image=_open(png.body, form), icc=png.icc, png=png)
    if form == "GIF":
        gif = read_gif(body)
        if gif is None:
            return Rejected(reason="broken_image", detail="GIF: no frame")
        return Still(image=_open(gif.filled_with(_FILLS[0]), form), icc=b"", gif=gif)
    image = _open(body, form)
    return Still(
        image=image, icc=image.info.get("icc_profile") or b"", box=first_frame(body) if form == "WEBP" else None
    )


def _open(body: bytes, form: str) -> Image.Image:
    return Image.open(io.BytesIO(body), formats=[form])


def _to_rgb(image: Image.Image, icc: bytes) -> Pixels | Rejected:
    mode = image.mode
    if mode.startswith("I;16"):
        return gray_to_srgb(_from_16_bits(image), icc)
    if mode in ("I", "F"):
        return Rejected(reason="unsupported_format", detail=f"{image.format} with 32-bit samples")
    if mode == "CMYK":
        return cmyk_to_srgb(np.asarray(image), icc)
    if mode == "LAB":
        return lab_to_srgb(image)
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGB", with_alpha.size, (255, 255, 255))
        white.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return np.asarray(white)
    if mode in ("1", "L"):
        return gray_to_srgb(np.asarray(image.convert("L")), icc)
    return np.asarray(image.convert("RGB"))


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
    return gray


# --- what is not there ----------------------------------------------------------------------------


def _covers(image: Image.Image) -> bool:
    """Whether what Pillow will decode reaches over the whole picture: a TIFF may lack strips, or place them at 0."""
    if image.format != "TIFF":
        return True
    tiles = [t for t in image.tile if t.codec_name != "raw" or t.offset > 0]  # type: ignore[attr-defined]  # as in _gif
    areas: list[int] = [(t.extents[2] - t.extents[0]) * (t.extents[3] - t.extents[1]) for t in tiles]
    return sum(areas) >= image.width * image.height


def _is_short(image: Image.Image, png: Png) -> bool:
    """Whether pixels are missing. Pillow leaves them 0, so only then they are counted, by unpacking once more."""
    if png.height > 1:
        last = png.height - 1 - (png.interlaced and png.height % 2)  # the last pass has every second row, from 1
        if image.crop((0, last, png.width, last + 1)).tobytes().strip(b"\0"):
            return False
    return not has_all_rows(png)


def _gif(image: Image.Image, gif: Gif) -> Pixels | Rejected:
    box: Box = image.tile[0].extents  # type: ignore[attr-defined]  # of ImageFile, which open() returns
    image.load()
    left, top, right, bottom = box
    entries = np.asarray(image)
    last = gif.last_row(top, bottom), right - 1
    if entries[last] == _FILLS[0]:
        with closing(_open(gif.filled_with(_FILLS[1]), "GIF")) as again:
            again.load()
            if np.asarray(again)[last] == _FILLS[1]:
                return Rejected(reason="broken_image", detail="GIF: fewer pixels than its header says")
    image.info.pop("transparency", None)
    pixels = np.asarray(image.convert("RGB"))
    if gif.transparent is not None:
        pixels = _white_where(pixels, entries == gif.transparent)
    return pixels if (left, top, right, bottom) == (0, 0, *image.size) else _on_canvas(pixels, box)


def _on_canvas(pixels: Pixels, box: Box) -> Pixels:
    left, top, right, bottom = box
    canvas = np.full_like(pixels, 255)
    canvas[top:bottom, left:right] = pixels[top:bottom, left:right]
    return canvas


def _white_where(pixels: Pixels, mask: npt.NDArray[np.bool_]) -> Pixels:
    return np.where(mask[:, :, None], np.uint8(255), pixels)


def _is_transparent(image: Image.Image, png: Png) -> npt.NDArray[np.bool_]:
    """bool[h, w]: where the samples, in the file's depth, are those of its tRNS chunk."""
    assert png.transparent is not None
    if png.colour_type == 0:
        (level,) = png.transparent
        samples = np.asarray(image)
        if png.depth < 8:  # Pillow scales them to 8 bits
            return np.asarray(samples == (level * 255 // ((1 << png.depth) - 1) if png.depth > 1 else bool(level)))
        return np.asarray(samples == level)
    samples = np.asarray(image).astype(np.uint16)
    if png.depth == 16:
        with closing(_open(png.body, "PNG")) as low:
            # Pillow keeps the high byte of each sample; told that they are little-endian, it keeps the other.
            low.tile = [low.tile[0]._replace(args="RGB;16L")]  # type: ignore[attr-defined]  # as in _gif
            low.load()
            samples = samples << 8 | np.asarray(low)
    return np.asarray((samples == png.transparent).all(axis=2))
