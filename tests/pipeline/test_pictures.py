"""The decoder, on files that other decoders take otherwise: samples beside 8 bits, too few pixels, too much text."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from pipeline.pictures.decode import decode_upright
from pipeline.pictures.rejected import Rejected

Pixels = npt.NDArray[np.uint8]
WHITE = [255, 255, 255]


def decoded(body: bytes) -> Pixels:
    pixels = decode_upright(body, max_pixels=1_000_000, at_least=lambda _: None)
    assert not isinstance(pixels, Rejected), pixels
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    return pixels


def rejected(body: bytes) -> str:
    result = decode_upright(body, max_pixels=1_000_000, at_least=lambda _: None)
    assert isinstance(result, Rejected)
    return result.reason


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def scene(width: int = 40, height: int = 30) -> Image.Image:
    """Random colours, none of them 0."""
    return Image.fromarray(np.random.default_rng(0).integers(1, 255, (height, width, 3), np.uint8))


# --- CMYK ----------------------------------------------------------------------------------------


def without_adobe(jpeg: bytes) -> bytes:
    """Cut the APP14 segment out."""
    start = jpeg.index(b"\xff\xee")
    assert jpeg[start + 4 : start + 9] == b"Adobe"
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def test_cmyk_jpegs_are_inverted_with_and_without_adobes_marker() -> None:
    ink = Image.new("CMYK", (32, 32), (0, 200, 200, 0))
    marked = encode(ink, "JPEG")
    for body in (marked, without_adobe(marked)):
        assert np.abs(decoded(body)[16, 16].astype(int) - [255, 55, 55]).max() <= 1


def test_four_components_are_ycck_only_where_the_marker_says_so() -> None:
    marked = bytearray(encode(Image.new("CMYK", (32, 32), (0, 200, 200, 0)), "JPEG"))
    transform = marked.index(b"Adobe") + 11
    assert marked[transform] == 0
    marked[transform] = 2
    for body in (bytes(marked), without_adobe(bytes(marked))):
        with Image.open(io.BytesIO(body)) as image:
            expected = np.asarray(image.convert("RGB"))
        assert np.abs(decoded(body).astype(int) - expected).max() <= 1


# --- PNG: transparent samples at every depth ------------------------------------------------------


def chunk(kind: bytes, content: bytes, *, damage: int = 0) -> bytes:
    checksum = zlib.crc32(kind + content) ^ damage
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(
    width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: bytes, interlaced: bool = False
) -> bytes:
    """`rows`: the unpacked pixel data; `chunks` stand before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def halves(depth: int, left: tuple[int, ...], right: tuple[int, ...]) -> bytes:
    """16 rows of 16 pixels, the left half of one colour, the right of another, packed at `depth` bits a sample."""
    bits = "".join(format(sample, f"0{depth}b") for sample in left * 8 + right * 8)
    return (b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")) * 16


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_gray_level_is_white_at_every_depth(depth: int) -> None:
    full = (1 << depth) - 1
    key, other = (full // 3, full - full // 4) if depth > 1 else (1, 0)
    body = png(16, 16, depth, 0, halves(depth, (key,), (other,)), chunk(b"tRNS", struct.pack(">H", key)))
    pixels = decoded(body)
    assert (pixels[:, :8] == 255).all()
    assert np.abs(pixels[:, 8:].astype(int) - round(other * 255 / full)).max() <= 1


@pytest.mark.parametrize("key", [0, 1])
def test_black_and_white_may_be_transparent(key: int) -> None:
    body = png(16, 16, 1, 0, halves(1, (key,), (1 - key,)), chunk(b"tRNS", struct.pack(">H", key)))
    assert (decoded(body)[:, :8] == 255).all()
    assert (decoded(body)[:, 8:] == 255 * (1 - key)).all()


@pytest.mark.parametrize(("depth", "other"), [(8, (0x12, 0x34, 0x57)), (16, (0x1234, 0x5678, 0x9ABD))])
def test_a_transparent_colour_is_compared_to_its_last_bit(depth: int, other: tuple[int, ...]) -> None:
    key = (*other[:2], other[2] - 1)
    body = png(16, 16, depth, 2, halves(depth, key, other), chunk(b"tRNS", struct.pack(">3H", *key)))
    pixels = decoded(body)
    assert (pixels[:, :8] == 255).all()
    assert pixels[0, 8].tolist() == [sample >> (depth - 8) for sample in other]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_palette_entries_are_white_at_every_depth(depth: int) -> None:
    palette = chunk(b"PLTE", bytes([200, 10, 20, 30, 40, 50]))
    for alphas, mixed in ((b"\0", WHITE), (b"\x80", [227, 132, 137])):
        pixels = decoded(png(16, 16, depth, 3, halves(depth, (0,), (1,)), palette, chunk(b"tRNS", alphas)))
        assert np.abs(pixels[8, 4].astype(int) - mixed).max() <= 1
        assert pixels[8, 12].tolist() == [30, 40, 50]


def test_16_bit_gray_is_scaled_through_its_whole_range() -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    assert np.array_equal(decoded(encode(Image.fromarray(levels), "PNG"))[:, :, 1], np.rint(levels / 257))


# --- PNG: ancillary chunks ------------------------------------------------------------------------

GRAY = halves(8, (100, 101, 102), (100, 101, 102))
LONG = b"x" * (2 << 20)
BOMB = zlib.compress(bytes(80 << 20), 9)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LONG)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG)),
        chunk(b"tEXt", b"parameters\0" + LONG),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(LONG)),
        chunk(b"iCCP", b"profile\0\0" + BOMB),
        chunk(b"zTXt", b"Comment\0\0" + BOMB) * 2,
        chunk(b"tEXt", b"Comment\0text", damage=1),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"profile"), damage=1),
        chunk(b"tRNS", struct.pack(">3H", 100, 101, 102), damage=1),
        chunk(b"tRNS", b"\0"),
        chunk(b"gAMA", b""),
        chunk(b"pHYs", b"\0"),
        chunk(b"acTL", b"\0"),
    ],
)
def test_what_no_pixel_depends_on_is_no_reason_to_refuse_a_png(extra: bytes) -> None:
    assert (decoded(png(16, 16, 8, 2, GRAY, extra)) == [100, 101, 102]).all()


def test_damage_in_a_critical_chunk_is_one() -> None:
    palette = chunk(b"PLTE", bytes([200, 10, 20, 30, 40, 50]), damage=1)
    assert rejected(png(16, 16, 8, 3, halves(8, (0,), (1,)), palette)) == "broken_image"


# --- fewer pixels than the header says -------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "colour_type"), [(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (8, 4), (8, 6)])
@pytest.mark.parametrize("height", [1, 15, 16])
def test_pngs_with_too_few_rows_are_broken(interlaced: bool, depth: int, colour_type: int, height: int) -> None:
    """The rows that are there are black as well, or the last missing ones could be told by their colour."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = []
    for x, y, dx, dy in passes if interlaced else [(0, 0, 1, 1)]:
        rows += [bytes(1 + (len(range(x, 16, dx)) * bits + 7) // 8)] * len(range(y, height, dy))
    palette = chunk(b"PLTE", bytes([200, 10, 20])) if colour_type == 3 else b""
    whole, short = (
        png(16, height, depth, colour_type, b"".join(data), palette, interlaced=interlaced)
        for data in (rows, rows[:-1])
    )
    assert decoded(whole).shape == (height, 16, 3)
    assert rejected(short) == "broken_image"


def gif(*, size: tuple[int, int], at: tuple[int, int] = (0, 0), lacks: int = 0, **options: Any) -> bytes:
    """A GIF of one red frame of 32 x 32 on a canvas of `size`; its descriptor claims `lacks` rows more than it has."""
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    body = bytearray(encode(image, "GIF", optimize=False, **options))
    struct.pack_into("<HH", body, 6, *size)
    body.index(b",", 13)
    frame = body.index(b",\0\0\0\0\x20\0\x20\0")
    struct.pack_into("<HHHH", body, frame + 1, *at, 32, 32 + lacks)
    return bytes(body)


@pytest.mark.parametrize("options", [{}, {"interlace": 0}, {"interlace": 1}, {"transparency": 1}, {"transparency": 0}])
@pytest.mark.parametrize("lacks", [1, 2, 9])
def test_gifs_with_too_few_rows_are_broken(options: dict[str, int], lacks: int) -> None:
    assert decoded(gif(size=(32, 32), **options)).shape == (32, 32, 3)
    assert rejected(gif(size=(32, 32 + lacks), lacks=lacks, **options)) == "broken_image"


def test_gifs_that_use_every_entry_of_the_palette_are_whole() -> None:
    for last in (254, 255):
        image = Image.new("P", (16, 16), last)
        image.putpalette(bytes(range(256)) * 3)
        with Image.open(io.BytesIO(encode(image, "GIF"))) as opened:
            expected = np.asarray(opened.convert("RGB"))
        assert np.array_equal(decoded(encode(image, "GIF")), expected)


@pytest.mark.parametrize("missing", ["count", "place"])
def test_tiffs_without_one_of_their_strips_are_broken(missing: str) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[278] = 10  # rows a strip
    body = bytearray(encode(scene(), "TIFF", tiffinfo=info))
    assert np.array_equal(decoded(bytes(body)), np.asarray(scene()))
    first = struct.unpack_from("<I", body, 4)[0]
    entries = range(first + 2, first + 2 + 12 * struct.unpack_from("<H", body, first)[0], 12)
    places = {struct.unpack_from("<H", body, entry)[0]: entry for entry in entries}
    if missing == "count":
        for tag in (273, 279):
            struct.pack_into("<I", body, places[tag] + 4, 2)
    else:
        struct.pack_into("<I", body, struct.unpack_from("<I", body, places[273] + 8)[0] + 8, 0)
    assert rejected(bytes(body)) == "broken_image"


def test_bmps_whose_run_lengths_end_early_are_broken() -> None:
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    row, end = b"\x08\xc8\0\0", b"\0\1"

    def bmp(data: bytes) -> bytes:
        head = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, len(data), 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078) + head + palette + data

    assert (decoded(bmp(row * 8 + end)) == 200).all()
    assert rejected(bmp(row * 6 + end)) == "broken_image"


# --- frames smaller than their canvas --------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"transparency": 0}])
def test_around_a_gifs_first_frame_is_white(options: dict[str, int]) -> None:
    pixels = decoded(gif(size=(64, 64), at=(16, 16), **options))
    expected = np.full((64, 64, 3), 255, np.uint8)
    expected[16:48, 16:48] = (255, 0, 0)
    assert np.array_equal(pixels, expected)


def test_a_gifs_transparent_entry_lets_white_through() -> None:
    assert (decoded(gif(size=(40, 40), at=(4, 4), transparency=1)) == 255).all()


@pytest.mark.parametrize("alpha", [0, 0x10])
@pytest.mark.parametrize("background", [b"\0\0\0\0", b"\xff\0\0\xff"])
def test_around_a_webps_first_frame_is_white(alpha: int, background: bytes) -> None:
    """Browsers ignore the background colour that an animation names, as its specification allows."""

    def webp_chunk(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)

    def u24(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(3, "little") for number in numbers)

    still = encode(Image.new("RGB", (32, 32), (255, 0, 0)), "WEBP", lossless=True)[12:]
    frame = webp_chunk(b"ANMF", u24(8, 4, 31, 31, 100) + b"\0" + still)
    body = b"WEBP" + webp_chunk(b"VP8X", bytes([2 | alpha, 0, 0, 0]) + u24(63, 63))
    body += webp_chunk(b"ANIM", background + b"\0\0") + frame * 2
    expected = np.full((64, 64, 3), 255, np.uint8)
    expected[8:40, 16:48] = (255, 0, 0)
    assert np.array_equal(decoded(b"RIFF" + struct.pack("<I", len(body)) + body), expected)


def test_an_animated_png_gives_the_picture_of_viewers_without_animation() -> None:
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    for default in (False, True):
        body = encode(red, "PNG", save_all=True, append_images=[blue, blue], default_image=default)
        assert b"acTL" in body
        assert (decoded(body) == [255, 0, 0]).all()


# --- the whole way ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_come_upright(form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    body = encode(scene(), form, exif=exif, **options)
    with Image.open(io.BytesIO(body)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.abs(decoded(body).astype(int) - expected).mean() < 1


def test_too_many_pixels_are_not_decoded() -> None:
    body = encode(scene(), "JPEG")
    result = decode_upright(body, max_pixels=1199, at_least=lambda _: None)
    assert isinstance(result, Rejected)
    assert result.reason == "too_many_pixels"
