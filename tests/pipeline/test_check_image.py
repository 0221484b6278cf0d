"""check_image: what becomes of every kind of picture, and of what is none."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from configs.load import ConfigError
from pipeline.pages import is_reason
from pipeline.pictures.rejected import Rejected
from pipeline.stages.check_image.check import check_image
from pipeline.stages.check_image.config import ImageConfig, Picture

Pixels = npt.NDArray[np.uint8]
EXACT = ImageConfig(encode_format="png", encode_quality=1, resize_mode="no", scaled_decoding="exact")


def scene(width: int, height: int, seed: int = 0) -> Pixels:
    """A smooth colourful picture without symmetry: uint8[height, width, 3], RGB."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    large: Pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    large[: height // 4, : width // 4] = (255, 0, 0)
    return large


def encode(pixels: Pixels | Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def kept(body: bytes, config: ImageConfig = EXACT) -> Picture:
    result = check_image(body, config)
    assert isinstance(result, Picture), result
    return result


def rejected(body: bytes, config: ImageConfig = EXACT) -> Rejected:
    result = check_image(body, config)
    assert isinstance(result, Rejected), result
    assert is_reason("check_image", result.reason)
    return result


def stored(picture: Picture) -> Pixels:
    with Image.open(io.BytesIO(picture.encoded)) as image:
        assert image.mode == "RGB"
        assert image.size == (picture.width, picture.height)
        return np.asarray(image)


def difference(a: Pixels, b: Pixels) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def png(width: int, height: int, *, depth: int = 8, kind: int = 2, data: bytes = b"") -> bytes:
    """A PNG by hand, for headers that no encoder would write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# --- formats ------------------------------------------------------------------------------------

LOSSLESS = {"PNG": "png", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp", "JPEG2000": "jp2"}


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_keep_every_pixel(form: str) -> None:
    pixels = scene(60, 40)
    options = {"WEBP": {"lossless": True}, "JPEG2000": {"irreversible": False}}.get(form, {})
    body = encode(pixels, form, **options)
    picture = kept(body)
    assert np.array_equal(stored(picture), pixels)
    assert (picture.original_format, picture.original_bytes) == (form, len(body))
    assert picture.sha256 == hashlib.sha256(body).hexdigest()
    assert kept(body, replace(EXACT, store_original=True)).extension == LOSSLESS[form]


@pytest.mark.parametrize(("form", "options"), [("JPEG", {"quality": 95}), ("AVIF", {"quality": 90}), ("WEBP", {})])
def test_lossy_formats_come_close(form: str, options: dict[str, Any]) -> None:
    pixels = scene(60, 40)
    picture = kept(encode(pixels, form, **options))
    assert picture.original_format == form
    assert difference(stored(picture), pixels) < 8


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpegs_decode_as_pillow_decodes_them(progressive: bool, subsampling: str) -> None:
    body = encode(scene(61, 43), "JPEG", progressive=progressive, subsampling=subsampling)
    with Image.open(io.BytesIO(body)) as image:
        assert difference(stored(kept(body)), np.asarray(image)) < 1


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF"])
def test_animations_give_their_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ((200, 30, 30), (30, 200, 30), (30, 30, 200))]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:], duration=100)
    assert difference(stored(kept(buffer.getvalue())), np.asarray(frames[0])) < 8


def test_gray_becomes_three_channels() -> None:
    gray = scene(40, 30)[:, :, 0]
    for body in (encode(gray, "PNG"), encode(Image.fromarray(gray).convert("1"), "PNG")):
        pixels = stored(kept(body))
        assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])
    jpeg = stored(kept(encode(gray, "JPEG", quality=95)))
    assert difference(jpeg, np.repeat(gray[:, :, None], 3, axis=2)) < 5
    assert len(cv2.imdecode(np.frombuffer(kept(encode(gray, "JPEG"), ImageConfig()).encoded, np.uint8), -1).shape) == 3


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000"])
def test_16_bit_gray_is_scaled(form: str) -> None:
    ramp = np.linspace(0, 65535, 64 * 32).reshape(32, 64).astype(np.uint16)
    pixels = stored(kept(encode(Image.fromarray(ramp), form)))
    expected = np.rint(ramp / 257).astype(np.uint8)
    assert np.abs(pixels[:, :, 0].astype(int) - expected).max() <= 1


def test_16_bit_colour_is_scaled() -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 65535, 32768, 0) * 4 for _ in range(4))
    pixels = stored(kept(png(4, 4, depth=16, data=rows)))
    assert np.abs(pixels.astype(int) - [255, 128, 0]).max() <= 1


def test_transparency_is_laid_on_white() -> None:
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[:, 10:] = (10, 20, 30, 255)
    rgba[:10, :10] = (200, 100, 0, 128)
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        pixels = stored(kept(encode(rgba, form, **options)))
        assert tuple(pixels[15, 5]) == (255, 255, 255)
        assert tuple(pixels[15, 15]) == (10, 20, 30)
        assert np.abs(pixels[5, 5].astype(int) - [227, 177, 127]).max() <= 1


def test_transparent_palettes_are_laid_on_white() -> None:
    image = Image.new("P", (10, 10), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(1, (5, 0, 10, 10))
    for form in ("GIF", "PNG"):
        pixels = stored(kept(encode(image, form, transparency=0)))
        assert tuple(pixels[5, 2]) == (255, 255, 255)
        assert tuple(pixels[5, 7]) == (255, 0, 0)


def test_gray_with_a_transparent_level_is_laid_on_white() -> None:
    image = Image.new("L", (10, 10), 7)
    image.paste(100, (5, 0, 10, 10))
    pixels = stored(kept(encode(image, "PNG", transparency=7)))
    assert tuple(pixels[5, 2]) == (255, 255, 255)
    assert tuple(pixels[5, 7]) == (100, 100, 100)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(form: str) -> None:
    pixels = scene(64, 48)
    body = encode(Image.fromarray(pixels).convert("CMYK"), form)
    assert difference(stored(kept(body)), pixels) < 8


def _wide_gamut_profile() -> bytes:
    """A linear-light profile: what it means differs much from sRGB, so that ignoring it shows."""
    lab = ImageCms.createProfile("LAB")
    return ImageCms.ImageCmsProfile(lab).tobytes()


def _swapped_profile() -> bytes:
    """sRGB with its red and blue primaries exchanged and another name: (255, 0, 0) means blue."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data = data.replace(b"s\0R\0G\0B", b"t\0e\0s\0t").replace(b"sRGB", b"test")
    count = int.from_bytes(data[128:132], "big")
    entries = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, blue = entries[b"rXYZ"], entries[b"bXYZ"]
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_colour_profiles_are_applied(form: str) -> None:
    red = Image.new("RGB", (32, 32), (255, 0, 0))
    plain, tagged = (
        stored(kept(encode(red, form, **options)))[16, 16].astype(int)
        for options in ({}, {"icc_profile": _swapped_profile()})
    )
    assert plain[0] > 240
    assert plain[2] < 15
    assert tagged[0] < 15
    assert tagged[2] > 240


@pytest.mark.parametrize("profile", [b"not a profile", _wide_gamut_profile(), b""])
def test_a_profile_that_does_not_fit_is_ignored(profile: bytes) -> None:
    red = Image.new("RGB", (32, 32), (255, 0, 0))
    assert tuple(stored(kept(encode(red, "PNG", icc_profile=profile)))[16, 16]) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_as_pillow_does(form: str, orientation: int) -> None:
    image = Image.fromarray(scene(60, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    body = encode(image, form, exif=exif, **options)
    picture = kept(body)
    with Image.open(io.BytesIO(body)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert difference(stored(picture), expected) < 1
    assert (picture.original_width, picture.original_height) == ((40, 60) if orientation >= 5 else (60, 40))
    small = replace(EXACT, resize_mode="keep_ratio", image_size=20)
    assert (kept(body, small).width, kept(body, small).height) == ((20, 30) if orientation >= 5 else (30, 20))


# --- what is refused ----------------------------------------------------------------------------

SVG = b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_an_image"),
        (b"<!DOCTYPE html><html><body>not found</body></html>", "not_an_image"),
        (b'{"error": "not found"}', "not_an_image"),
        (b"\x00" * 100, "not_an_image"),
        (SVG, "unsupported_format"),
        (b"\xef\xbb\xbf  <svg>", "unsupported_format"),
        (b"%PDF-1.7", "unsupported_format"),
        (b"8BPS\x00\x01", "unsupported_format"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "unsupported_format"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp41isom", "not_an_image"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "unsupported_format"),
        (b"P6\n1 1\n255\nxyz", "unsupported_format"),
        (b"\xff\xd8\xff", "broken_image"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "broken_image"),
        (b"\x89PNG\r\n\x1a\n", "broken_image"),
        (b"GIF89a", "broken_image"),
        (b"RIFF\x00\x00\x00\x00WEBP", "broken_image"),
        (b"II*\x00", "broken_image"),
        (png(0, 5), "broken_image"),
        (png(5, 5), "broken_image"),
        (encode(Image.new("F", (4, 4)), "TIFF"), "unsupported_format"),
        (encode(Image.new("I", (4, 4)), "TIFF"), "unsupported_format"),
    ],
)
def test_what_is_no_picture_has_its_reason(body: bytes, reason: str) -> None:
    assert rejected(body).reason == reason


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_files_are_rejected(form: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    body = encode(noise, form)
    assert isinstance(check_image(body, EXACT), Picture)
    assert rejected(body[: int(len(body) * share)]).reason == "broken_image"


def test_jpegs_that_are_corrupt_in_the_middle_are_rejected_when_the_code_shows_it() -> None:
    """JPEG has no checksum: what decodes to as many blocks as it should cannot be told from the real thing."""
    whole = encode(scene(200, 200), "JPEG", quality=95)
    noise = np.random.default_rng(0).integers(0, 256, 40, np.uint8).tobytes()
    results = []
    for position in range(len(whole) // 3, len(whole) - 100, len(whole) // 60):
        result = check_image(whole[:position] + noise + whole[position + 40 :], EXACT)
        results.append(isinstance(result, Rejected))
        assert isinstance(result, Picture) or result.reason == "broken_image"
    assert any(results)


def test_pngs_that_are_corrupt_in_the_middle_are_rejected() -> None:
    whole = encode(scene(200, 200), "PNG")
    for position in range(60, len(whole) - 20, len(whole) // 7):
        body = bytearray(whole)
        body[position] ^= 1
        assert rejected(bytes(body)).reason == "broken_image"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000"])
def test_too_many_pixels_are_seen_in_the_header(form: str) -> None:
    body = encode(Image.new("RGB", (101, 100)), form)
    result = rejected(body, replace(EXACT, max_pixels=10_000))
    assert (result.reason, result.detail) == ("too_many_pixels", "101 x 100")
    assert isinstance(check_image(body, replace(EXACT, max_pixels=10_100)), Picture)


def test_sides_and_aspect_ratio_have_limits() -> None:
    body = encode(scene(90, 30), "PNG")
    assert rejected(body, replace(EXACT, min_side=31)).reason == "too_small"
    assert rejected(body, replace(EXACT, max_aspect_ratio=2.9)).reason == "aspect_ratio"
    assert kept(body, replace(EXACT, min_side=30, max_aspect_ratio=3.0))


def test_a_line_that_would_grow_beyond_the_pixel_limit_is_rejected() -> None:
    config = ImageConfig(resize_only_if_bigger=False)
    body = png(8000, 2, kind=0, data=(b"\0" + bytes(8000)) * 2)
    assert len(body) < 200
    assert rejected(body, config).reason == "aspect_ratio"
    assert kept(body, replace(config, resize_only_if_bigger=True)).width == 8000


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM"])
)
def test_any_bytes_get_an_answer(tail: bytes, magic: bytes) -> None:
    rejected(magic + tail)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP"]))
def test_damaged_pictures_get_an_answer(data: st.DataObject, form: str) -> None:
    body = bytearray(encode(scene(40, 30), form))
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    result = check_image(bytes(body), replace(EXACT, max_pixels=1_000_000))
    assert isinstance(result, (Picture, Rejected))


# --- sizes and encoding -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "size", "bigger", "smaller"),
    [
        # of 300 x 200, and of 60 x 40 with resize_only_if_bigger
        ("no", 100, (300, 200), (60, 40)),
        ("keep_ratio", 100, (150, 100), (60, 40)),
        ("keep_ratio_largest", 100, (100, 67), (60, 40)),
        ("center_crop", 100, (100, 100), (60, 40)),
        ("border", 100, (100, 100), (60, 40)),
    ],
)
def test_resize_modes(mode: Any, size: int, bigger: tuple[int, int], smaller: tuple[int, int]) -> None:
    config = replace(EXACT, resize_mode=mode, image_size=size)
    for shape, expected in (((300, 200), bigger), ((60, 40), smaller)):
        picture = kept(encode(scene(*shape), "PNG"), config)
        assert (picture.width, picture.height) == expected
        assert (picture.original_width, picture.original_height) == shape
    grown = kept(encode(scene(60, 40), "PNG"), replace(config, resize_only_if_bigger=False))
    assert mode == "no" or (grown.width, grown.height) == bigger


def test_the_crop_is_the_middle_and_the_border_is_white() -> None:
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = (0, 255, 0)
    body = encode(pixels, "PNG")
    crop = stored(kept(body, replace(EXACT, resize_mode="center_crop", image_size=50)))
    assert (crop == (0, 255, 0)).all()
    border = stored(kept(body, replace(EXACT, resize_mode="border", image_size=90)))
    assert (border[:30] == 255).all()
    assert (border[60:] == 255).all()
    assert tuple(border[45, 45]) == (0, 255, 0)


@given(st.integers(1, 500), st.integers(1, 500), st.sampled_from(["keep_ratio", "keep_ratio_largest"]))
def test_ratios_are_kept_to_half_a_pixel(width: int, height: int, mode: Any) -> None:
    from pipeline.stages.check_image.geometry import plan_size

    config = ImageConfig(resize_mode=mode, image_size=64, resize_only_if_bigger=False)
    scaled = plan_size(width, height, config).scaled
    assert 64 in scaled
    factor = 64 / (min if mode == "keep_ratio" else max)(width, height)
    assert abs(scaled[0] - width * factor) <= 0.5 or scaled[0] == 1
    assert abs(scaled[1] - height * factor) <= 0.5 or scaled[1] == 1


@pytest.mark.parametrize(("form", "magic"), [("jpg", b"\xff\xd8\xff"), ("png", b"\x89PNG"), ("webp", b"RIFF")])
def test_encodings(form: Any, magic: bytes) -> None:
    config = ImageConfig(encode_format=form, encode_quality=9)
    picture = kept(encode(scene(300, 300), "PNG"), config)
    assert picture.encoded.startswith(magic)
    assert picture.extension == form
    assert kept(encode(scene(300, 300), "PNG"), config) == picture


def test_original_bytes_can_be_stored() -> None:
    body = encode(scene(300, 200), "JPEG")
    picture = kept(body, ImageConfig(store_original=True))
    assert (picture.encoded, picture.extension, picture.width, picture.height) == (body, "jpg", 300, 200)
    assert rejected(body[:-100], ImageConfig(store_original=True)).reason == "broken_image"


def test_scaled_decoding_comes_close_to_exact_decoding() -> None:
    body = encode(scene(1600, 1200), "JPEG", quality=90)
    exact, fast = (kept(body, ImageConfig(scaled_decoding=mode)) for mode in ("exact", "fast"))
    assert (exact.width, exact.height) == (fast.width, fast.height) == (341, 256)
    assert difference(stored(exact), stored(fast)) < 2


@pytest.mark.parametrize(
    "change",
    [
        {"encode_quality": 101},
        {"encode_format": "png", "encode_quality": 10},
        {"image_size": 0},
        {"max_aspect_ratio": 0.5},
        {"scaled_oversampling": 0.5},
        {"time_limit_s": 0.0},
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ImageConfig(**change)


# --- facts --------------------------------------------------------------------------------------


def test_exif_keeps_the_configured_tags() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x8298] = "Maker", "Model 1", "someone"
    exif.get_ifd(0x8825)[1] = "N"
    body = encode(scene(20, 20), "JPEG", exif=exif)
    assert json.loads(kept(body).exif or "") == {"Copyright": "someone", "Make": "Maker", "Model": "Model 1"}
    assert json.loads(kept(body, replace(EXACT, exif_tags=("Make",))).exif or "") == {"Make": "Maker"}
    assert json.loads(kept(body, replace(EXACT, exif_tags=("all",))).exif or "")["GPSLatitudeRef"] == "N"
    assert kept(body, replace(EXACT, exif_tags=())).exif is None
    assert kept(encode(scene(20, 20), "PNG")).exif is None


def distance(a: Picture, b: Picture) -> int:
    return (a.phash ^ b.phash).bit_count()


def test_perceptual_hashes_are_near_for_the_same_picture_and_far_for_others() -> None:
    config = ImageConfig()
    pixels = scene(400, 300, seed=3)
    original = kept(encode(pixels, "PNG"), config)
    copies = [
        kept(encode(pixels, "JPEG", quality=40), config),
        kept(encode(Image.fromarray(pixels).resize((200, 150)), "WEBP"), config),
        kept(encode(Image.fromarray(pixels).resize((800, 600)), "JPEG"), replace(config, image_size=128)),
        kept(encode(pixels, "PNG"), replace(config, resize_mode="center_crop")),
        kept(encode(pixels, "PNG"), replace(config, resize_mode="border")),
    ]
    assert max(distance(original, copy) for copy in copies) <= 4
    others = [kept(encode(scene(400, 300, seed=seed), "PNG"), config) for seed in range(10, 40)]
    assert min(distance(original, other) for other in others) >= 10
    assert 0 <= original.phash < 2**64


def test_flat_pictures_hash_to_zero() -> None:
    for colour in ((0, 0, 0), (255, 255, 255), (120, 7, 90)):
        for form in ("PNG", "JPEG"):
            assert kept(encode(Image.new("RGB", (300, 200), colour), form), ImageConfig()).phash == 0
