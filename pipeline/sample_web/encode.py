"""Pictures into bytes: every form that the sample web serves."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.render import render
from pipeline.sample_web.scene import Scene
from pipeline.sample_web.trouble import HUGE_BYTES

__all__ = ["encode", "encode_drawn"]

_PAGE = b"<!DOCTYPE html><html><head><title>Not here</title></head><body><p>This is a page.</p></body></html>\n"
_BOMB_SIDE = 30_000
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,  # a viewer turns it clockwise to make it upright
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> how to turn an upright picture so that the orientation sets it right (EXIF 2.3)."""


def encode(seed: int, key: str, form: str, scene: Scene) -> bytes:
    """The bytes of `scene` in one of the forms of `trouble.py`, or of `scaled-N` and `quality-N`."""
    if form == "svg":
        return _svg(scene)
    return encode_drawn(seed, key, form, lambda: render(seed, scene))


def encode_drawn(seed: int, key: str, form: str, drawn: Callable[[], Image.Image]) -> bytes:
    """The same of any picture, which is drawn only where the form shows it; all forms but `svg`."""
    dice = Dice(seed, "encode", key)
    match form:
        case "empty":
            return b""
        case "html":
            return _PAGE
        case "text":
            return b"The picture that was here has moved.\n"
        case "gzip_bomb":
            return gzip.compress(bytes(2 * HUGE_BYTES), 9, mtime=0)
        case "pixel_bomb":
            return _pixel_bomb()
        case "pixel_gif":
            return _saved(Image.new("RGB", (1, 1), (255, 255, 255)), "GIF")
    image = drawn()
    quality = 82 + dice.below(12)
    if form.startswith("scaled-"):
        percent = int(form.removeprefix("scaled-"))
        size = (max(40, image.width * percent // 100), max(40, image.height * percent // 100))
        return _saved(image.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=88)
    if form.startswith("quality-"):
        return _saved(image, "JPEG", quality=int(form.removeprefix("quality-")))
    match form:
        case "jpeg":
            return _saved(image, "JPEG", quality=quality)
        case "gzipped":
            return gzip.compress(_saved(image, "JPEG", quality=quality), 6, mtime=0)
        case "progressive":
            return _saved(image, "JPEG", quality=quality, progressive=True)
        case "truncated_jpeg":
            data = _saved(image, "JPEG", quality=quality)
            return data[: len(data) * 6 // 10]
        case "corrupt_jpeg":
            return _corrupt_jpeg(dice, _saved(image, "JPEG", quality=quality))
        case "exif_rotated":
            orientation = dice.choice(tuple(_TURNS))
            exif = Image.Exif()
            exif[_EXIF_ORIENTATION] = orientation
            return _saved(image.transpose(_TURNS[orientation]), "JPEG", quality=quality, exif=exif)
        case "cmyk":
            return _saved(image.convert("CMYK"), "JPEG", quality=quality)
        case "png":
            return _saved(image, "PNG")
        case "truncated_png":
            data = _saved(image, "PNG")
            return data[: len(data) // 2]
        case "corrupt_png":
            bent = bytearray(_saved(image, "PNG"))
            for i in range(len(bent) // 2, len(bent) // 2 + 16):
                bent[i] ^= 0x5A
            return bytes(bent)
        case "png16":
            return _png16(image)
        case "palette":
            return _saved(image.quantize(64), "PNG")
        case "alpha":
            return _saved(_with_alpha(image), "PNG")
        case "gif":
            return _saved(image.quantize(128), "GIF")
        case "animated_gif":
            frames = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image]
            return _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)
        case "webp":
            return _saved(image, "WEBP", quality=85, method=2)
        case "avif":
            # One thread: the encoder's tiles, and so its bytes, must not depend on the machine.
            return _saved(image, "AVIF", quality=80, speed=9, max_threads=1)
        case "bmp":
            return _saved(image, "BMP")
        case "tiff":
            return _saved(image, "TIFF", compression="tiff_lzw")
        case "icon":
            return _saved(image.resize((16, 16), Image.Resampling.BOX), "PNG")
        case "banner":
            return _saved(image.resize((600, 80), Image.Resampling.BICUBIC), "JPEG", quality=quality)
        case "skyscraper":
            return _saved(image.resize((64, 420), Image.Resampling.BICUBIC), "JPEG", quality=quality)
        case _:
            raise AssertionError(f"no such form: {form}")


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _corrupt_jpeg(dice: Dice, data: bytes) -> bytes:
    """Noise over the middle of the compressed pixels: the header and the end are whole."""
    start = data.index(b"\xff\xda") + 64
    middle = start + (len(data) - start) // 3
    length = min(400, (len(data) - middle) // 2)
    noise = dice.data(length).replace(b"\xff", b"\x7f")
    # A restart marker where none belongs: every decoder must notice, even if the noise is valid code.
    return data[:middle] + noise + b"\xff\xd3" + data[middle + length + 2 :]


def _with_alpha(image: Image.Image) -> Image.Image:
    """The picture, fading out towards the corners."""
    width, height = image.size
    x = np.abs(np.arange(width) * 2 - width) * 255 // width
    y = np.abs(np.arange(height) * 2 - height) * 255 // height
    alpha = np.clip(700 - (x[None, :] + y[:, None]) * 3 // 2, 0, 255).astype(np.uint8)
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(alpha))
    return image


def _png16(image: Image.Image) -> bytes:
    """16 bits a channel, which Pillow reads but does not write."""
    pixels = np.asarray(image).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return _png(image.width, image.height, 16, 2, zlib.compress(rows, 6))


def _pixel_bomb() -> bytes:
    """A few hundred bytes that announce 30,000 x 30,000 pixels."""
    return _png(_BOMB_SIDE, _BOMB_SIDE, 8, 2, zlib.compress(bytes(100_000), 9))


def _png(width: int, height: int, bits: int, colour_type: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _svg(scene: Scene) -> bytes:
    size = f'width="{scene.width}" height="{scene.height}"'
    return (
        f'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" {size}>'
        f'<title>{scene.label}</title><circle cx="50%" cy="50%" r="30%" fill="{scene.colour}"/></svg>\n'
    ).encode()
