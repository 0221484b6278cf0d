"""Thumbnails keep copies together and hold drawings apart that a perceptual hash takes for one."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from pipeline.pictures.thumbnail import NUM_BYTES, look_alike
from pipeline.stages.check_image.check import check_image
from pipeline.stages.check_image.config import ImageConfig, Picture

Size = tuple[int, int]


def seen(body: bytes, **options: Any) -> Picture:
    picture = check_image(body, ImageConfig(**options))
    assert isinstance(picture, Picture)
    assert len(picture.thumbnail) == NUM_BYTES
    return picture


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def alike(a: Picture, b: Picture) -> bool:
    left, right = (np.frombuffer(p.thumbnail, np.uint8)[None] for p in (a, b))
    found = bool(look_alike(left, right)[0])
    assert found == bool(look_alike(right, left)[0])
    return found


def near(a: Picture, b: Picture) -> bool:
    return (a.phash ^ b.phash).bit_count() <= 4


def photograph(seed: int, size: Size = (320, 240)) -> Image.Image:
    draw = np.random.default_rng(seed)
    small = draw.uniform(40, 200, (9, 12, 3)).astype(np.float32)
    large = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC) + draw.normal(0, 4, (size[1], size[0], 1))
    return Image.fromarray(np.clip(large, 0, 255).astype(np.uint8))


def plot(marks: list[tuple[float, float]], size: Size = (320, 240)) -> Image.Image:
    """Marks between axes, at places in shares of the width and the height."""
    image = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.rectangle([20, 10, width - 10, height - 20], outline=(0, 0, 0), width=3)
    for x, y in marks:
        draw.ellipse([x * width - 6, y * height - 6, x * width + 6, y * height + 6], fill=(60, 100, 180))
    return image


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "quality 30": lambda image: encode(image, "JPEG", quality=30),
    "WebP": lambda image: encode(image, "WEBP", quality=60),
    "half": lambda image: encode(image.resize((image.width // 2, image.height // 2)), "JPEG", quality=80),
    "twice": lambda image: encode(image.resize((image.width * 2, image.height * 2)), "JPEG", quality=80),
    "150 pixels": lambda image: encode(image.resize((200, 150), Image.Resampling.LANCZOS), "JPEG", quality=75),
    "256 colours": lambda image: encode(image.quantize(256, kmeans=1), "GIF"),
    "paler": lambda image: encode(ImageEnhance.Contrast(image).enhance(0.9), "JPEG", quality=85),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_look_alike(copy: str) -> None:
    for image in (*(photograph(seed) for seed in range(3)), plot([(0.2, 0.7), (0.4, 0.3), (0.6, 0.5)])):
        assert alike(seen(encode(image)), seen(COPIES[copy](image)))


def test_the_resize_mode_plays_no_part() -> None:
    body = encode(photograph(1))
    modes = ("keep_ratio", "center_crop", "border", "no")
    pictures = [seen(body, resize_mode=mode, image_size=128) for mode in modes]
    assert all(alike(pictures[0], picture) for picture in pictures)


def test_drawings_that_a_hash_takes_for_one_are_held_apart() -> None:
    """Plots over the same axes, shapes of the same outline: pairs within 4 bits, none of which may be merged."""
    plots = [plot([(0.3, 0.6), (0.5, y), (0.7, 0.5)]) for y in np.linspace(0.2, 0.8, 9)]
    shapes = []
    for colour in ((200, 30, 30), (30, 150, 40), (40, 60, 200), (150, 150, 30), (90, 30, 140), (20, 20, 20)):
        image = Image.new("RGB", (400, 300), (255, 255, 255))
        ImageDraw.Draw(image).ellipse([100, 75, 300, 225], fill=colour)
        shapes.append(image)
    for group in (plots, shapes):
        pictures = [seen(encode(image)) for image in group]
        pairs = [(a, b) for i, a in enumerate(pictures) for b in pictures[:i] if near(a, b)]
        assert len(pairs) >= 5
        assert not any(alike(a, b) for a, b in pairs)


def thumbnail(luma: npt.NDArray[np.float64], colour: int = 128) -> npt.NDArray[np.uint8]:
    return np.concatenate([np.rint(luma).astype(np.uint8).ravel(), np.full(32, colour, np.uint8)])[None]


def test_both_sides_of_every_threshold() -> None:
    def found(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> bool:
        return bool(look_alike(a, b)[0])

    flat = np.full((16, 16), 100.0)
    spot = np.zeros((16, 16))
    spot[5, 5] = 1
    assert found(thumbnail(flat), thumbnail(flat + 6 * spot))
    assert not found(thumbnail(flat), thumbnail(flat + 7 * spot))
    edge = np.repeat([[60.0, 160.0]], 16, axis=0).repeat(8, axis=1)  # contrast 100: 15 more beside the edge
    spot = np.zeros((16, 16))
    spot[5, 8] = 1
    assert found(thumbnail(edge), thumbnail(edge - 20 * spot))
    assert not found(thumbnail(edge), thumbnail(edge - 22 * spot))
    assert found(thumbnail(flat), thumbnail(flat + 22))  # brighter in all by 16 and 6
    assert not found(thumbnail(flat), thumbnail(flat + 23))
    assert found(thumbnail(flat, 128), thumbnail(flat, 136))
    assert not found(thumbnail(flat, 128), thumbnail(flat, 137))
    ramp = np.linspace(30.0, 170.0, 256).reshape(16, 16)
    assert found(thumbnail(ramp), thumbnail(100 + (ramp - 100) * 1.12))
    assert not found(thumbnail(ramp), thumbnail(100 + (ramp - 100) * 1.4))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (31, 40), (300, 2)])
def test_small_pictures_have_one_too(size: Size) -> None:
    picture = seen(encode(Image.new("RGB", size, (200, 30, 30))))
    assert set(picture.thumbnail[:256]) == {81}  # 0.299 x 200 + 0.587 x 30 + 0.114 x 30
    assert set(picture.thumbnail[256:]) == {picture.thumbnail[256], picture.thumbnail[257]}
    assert set(seen(encode(Image.new("L", size, 90))).thumbnail[256:]) == {128}


def test_turned_and_gray_pictures_have_upright_ones() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = photograph(2)
    assert alike(seen(encode(image.rotate(90, expand=True), exif=exif)), seen(encode(image)))
    gray = image.convert("L")
    assert alike(seen(encode(gray, "JPEG")), seen(encode(gray.convert("RGB"))))


def test_labelled_pairs_of_real_pages(shared_data: Path) -> None:
    """Different ones are never merged; of the copies one is a cut of another print."""
    folder = shared_data / "neardup"
    with (folder / "pairs.tsv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    merged = {"duplicate": 0, "different": 0}
    for row in rows:
        a, b = (seen((folder / "files" / row[name]).read_bytes()) for name in ("a", "b"))
        merged[row["label"]] += near(a, b) and alike(a, b)
    assert merged["different"] == 0
    assert merged["duplicate"] >= 9
