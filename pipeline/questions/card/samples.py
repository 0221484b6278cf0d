"""The pictures of a card: read from the tars by offset, and made small where they are not, as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.questions.card.answers import Row
from pipeline.records.shard import extension_of, shard_name
from pipeline.stages.check_image.config import ImageConfig, Picture
from pipeline.storage.checked import open_file, read_ranges
from pipeline.storage.place import Place

__all__ = ["Sample", "samples_of"]

_AS_STORED_BYTES = 40_000
"""A larger picture is made smaller, and one of a format that not every browser shows is encoded anew: 48 pictures of a
set that keeps originals would be a page of 50 MB."""
_SMALLER = ImageConfig(
    image_size=384, resize_mode="keep_ratio_largest", encode_quality=85, exif_tags=(), max_pixels=200_000_000
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample as the card shows it."""

    picture: str | None
    """A data URI; None where it cannot be shown any more."""
    caption: str
    lang: str
    size: str
    queries: Sequence[str]
    """That selected it."""


def samples_of(output: Place, rows: Sequence[Row]) -> list[Sample]:
    """`rows` of `Answers.samples` with their pictures. Raises OSError where a tar cannot be read."""
    images = _small(_pictures(output, rows))
    return [
        Sample(
            picture=None if image is None else _data_uri(image),
            caption=row["caption"],
            lang=row["lang"],
            size=f"{row['width']} x {row['height']}",
            queries=row["queries"] or [],
        )
        for row, image in zip(rows, images, strict=True)
    ]


def _pictures(output: Place, rows: Sequence[Row]) -> list[bytes]:
    """As stored, in the order of `rows`; a tar is opened once."""
    places: dict[int, list[tuple[int, int, None]]] = {}
    for row in rows:
        places.setdefault(row["shard"], []).append((row["tar_offset"], row["num_bytes"], None))
    found: dict[tuple[int, int], bytes] = {}
    for shard, of in places.items():
        with open_file(output / "shards" / f"{shard_name(shard)}.tar") as tar:
            for (offset, _, _), image in zip(of, read_ranges(tar, of), strict=True):
                found[shard, offset] = image
    return [found[row["shard"], row["tar_offset"]] for row in rows]


def _small(images: Sequence[bytes]) -> list[bytes | None]:
    others = [i for i, image in enumerate(images) if len(image) > _AS_STORED_BYTES or extension_of(image) == "img"]
    small: list[bytes | None] = list(images)
    if others:
        # With the kernels that it loads, and with a process of its own for what may kill a decoder.
        from pipeline.stages.check_image.isolate import IsolatedChecker

        with IsolatedChecker(_SMALLER) as checker:
            for i, made in zip(others, checker.check([images[i] for i in others]), strict=True):
                small[i] = made.encoded if isinstance(made, Picture) else None
    return small


def _data_uri(image: bytes) -> str:
    kind = extension_of(image).replace("jpg", "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
