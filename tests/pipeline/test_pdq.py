"""PDQ, step by step against its definition in plain float64, and in all eight ways that a picture can lie."""

from __future__ import annotations

import io

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.pictures.pdq import pdq_of
from pipeline.pictures.pdq_record import NUM_BYTES
from pipeline.stages.privacy.near_hashes import NearHashes

Doubles = npt.NDArray[np.float64]


def photograph(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """uint8[h, w, 3] with structure at many scales, as photographs have."""
    random = np.random.default_rng(seed)
    sides = [side for side in (3, 7, 15, 31, 63) if side <= max(height, width)]
    total = np.zeros((height, width, 3))
    for side in sides:
        total += cv2.resize(random.random((side, side, 3)), (width, height), interpolation=cv2.INTER_CUBIC) / side
    return np.asarray((total - total.min()) / (total.max() - total.min()) * 255, np.uint8)


def _box(length: int) -> Doubles:
    """float64[n, n]: each value becomes the mean of a window, of fewer values at the ends."""
    window = -(-length // 128)
    before = (window + 2) // 2 - 1
    means = np.zeros((length, length))
    for i in range(length):
        inside = slice(max(0, i - (window - 1 - before)), min(length, i + before + 1))
        means[i, inside] = 1 / len(range(length)[inside])
    return means


def definition(pixels: npt.NDArray[np.uint8]) -> tuple[str, int]:
    """Hash as hex, and quality."""
    luma = pixels.astype(np.float64) @ [0.299, 0.587, 0.114] if pixels.ndim == 3 else pixels.astype(np.float64)
    height, width = luma.shape
    if (height, width) != (64, 64):
        for _ in range(2):
            luma = _box(height) @ luma @ _box(width).T
    rows, columns = ([int((i + 0.5) * side / 64) for i in range(64)] for side in (height, width))
    small = luma[np.ix_(rows, columns)]
    steps = sum(abs(int(d * 100 / 255)) for axis in (0, 1) for d in np.diff(small, axis=axis).ravel())
    spectrum = _cosines() @ small @ _cosines().T
    median = sorted(spectrum.ravel())[127]
    bits = sum(1 << i for i, value in enumerate(spectrum.ravel()) if value > median)
    return f"{bits:064x}", min(100, steps // 90)


def _cosines() -> Doubles:
    return np.array([[np.cos(np.pi / 128 * u * (2 * x + 1)) for x in range(64)] for u in range(1, 17)]) * np.sqrt(
        1 / 32
    )


def distance(one: bytes | str, other: bytes | str) -> int:
    plain = [bytes.fromhex(each) if isinstance(each, str) else each for each in (one, other)]
    return (int.from_bytes(plain[0], "big") ^ int.from_bytes(plain[1], "big")).bit_count()


@pytest.mark.parametrize("size", [(64, 64), (5, 5), (128, 128), (129, 127), (63, 300), (300, 224), (257, 640)])
def test_hash_is_that_of_the_definition(size: tuple[int, int]) -> None:
    pixels = photograph(*size)
    for form in (pixels, np.ascontiguousarray(pixels[:, :, 1])):
        found = pdq_of(form)
        assert found is not None
        hashed, quality = definition(form)
        assert distance(found.hashes[:NUM_BYTES], hashed) <= 2, "float32 against float64: bits at the median"
        assert abs(found.quality - quality) <= 1


def test_picture_in_any_of_eight_ways_has_the_same_hashes() -> None:
    pixels = photograph(300, 300)
    found = pdq_of(pixels)
    assert found is not None
    for turns in range(4):
        for mirrored in (False, True):
            turned = np.rot90(pixels, turns)
            other = pdq_of(np.ascontiguousarray(np.fliplr(turned) if mirrored else turned))
            assert other is not None
            ways = [found.hashes[at : at + NUM_BYTES] for at in range(0, 8 * NUM_BYTES, NUM_BYTES)]
            assert min(distance(other.hashes[:NUM_BYTES], way) for way in ways) <= 6


def test_smaller_and_compressed_picture_is_near_and_another_is_far() -> None:
    pixels = photograph(900, 1200)
    whole = pdq_of(pixels)
    stored = io.BytesIO()
    Image.fromarray(pixels).resize((341, 256)).save(stored, "JPEG", quality=70)
    small, other = pdq_of(np.asarray(Image.open(stored))), pdq_of(photograph(900, 1200, seed=1))
    assert whole is not None
    assert small is not None
    assert other is not None
    assert distance(whole.hashes[:NUM_BYTES], small.hashes[:NUM_BYTES]) <= 16
    assert distance(whole.hashes[:NUM_BYTES], other.hashes[:NUM_BYTES]) > 80


def test_picture_of_nothing_has_no_quality_and_one_of_four_pixels_no_hash() -> None:
    plain = pdq_of(np.full((100, 100, 3), 200, np.uint8))
    assert plain is not None
    assert plain.quality == 0
    assert pdq_of(np.zeros((4, 100, 3), np.uint8)) is None


@pytest.mark.parametrize("most", [0, 15, 31, 32, 60])
def test_near_hashes_are_found_up_to_the_distance_and_not_beyond(most: int) -> None:
    random = np.random.default_rng(most)
    listed = [random.bytes(NUM_BYTES) for _ in range(500)]
    near = NearHashes(listed, most)
    for place in range(0, 500, 25):
        for apart in {0, 1, most, most + 1}:
            bits = random.choice(256, apart, replace=False)
            asked = (int.from_bytes(listed[place], "big") ^ sum(1 << int(bit) for bit in bits)).to_bytes(
                NUM_BYTES, "big"
            )
            assert near.find(asked) == (place if apart <= most else None)
    assert NearHashes([], most).find(listed[0]) is None
