"""A stored picture with what lies in boxes made unrecognisable, encoded as the set's pictures are."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import InputError
from pipeline.pictures.blur import blurred
from pipeline.pictures.decode import decode_upright
from pipeline.pictures.rejected import Rejected
from pipeline.stages.check_image.check import encode
from pipeline.stages.check_image.config import ImageConfig

__all__ = ["NUMBERS_OF_A_BOX", "blur_boxes"]

NUMBERS_OF_A_BOX = 5
"""x, y, width, height, score."""


def blur_boxes(image: bytes, boxes: Sequence[float], config: ImageConfig) -> bytes:
    """The picture without what `boxes` show, five numbers each in shares of the picture. Raises InputError where it
    cannot be decoded: then nobody can say that it shows nothing."""
    pixels = decode_upright(image, max_pixels=config.max_pixels, at_least=lambda _: None)
    if isinstance(pixels, Rejected):
        raise InputError(f"a picture with boxes to blur cannot be decoded ({pixels.reason}); leave it out by --where")
    return encode(
        blurred(pixels, [boxes[i : i + NUMBERS_OF_A_BOX] for i in range(0, len(boxes), NUMBERS_OF_A_BOX)]), config
    )
