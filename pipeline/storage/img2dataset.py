"""img2dataset's directory layout, for reading: 00000.parquet, a row a URL, beside 00000.tar with the pictures.

    00000.parquet   url, key, caption, status, error_message, ...: failures too
    00000.tar       KEY.jpg, KEY.json, KEY.txt of the successes

What a killed run left behind reads as far as it goes: the tar may end anywhere.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["pictures", "tar_beside"]

_PICTURES = ("jpg", "jpeg", "png", "webp", "avif", "gif", "tif", "tiff", "bmp", "jp2", "img")
"""Endings of members that may be pictures; whether they are is for the image check to say."""


def tar_beside(parquet: str) -> str:
    """The path or URL of the tar that belongs to a shard's Parquet file."""
    return f"{parquet.removesuffix('.parquet')}.tar"


def pictures(tar: BinaryIO, *, max_bytes: int) -> Iterator[tuple[str, bytes | None]]:
    """(key, bytes) of every picture in `tar`, in its order; None for one of more than `max_bytes`.

    Reads straight ahead and holds one picture. Ends where the tar is damaged or breaks off; whatever is not a
    tar at all holds nothing.
    """
    try:
        with tarfile.open(fileobj=tar, mode="r|") as members:
            for member in members:
                members.members = []  # type: ignore[attr-defined]  # or it remembers every member
                key, _, ending = member.name.rpartition("/")[2].partition(".")
                if not member.isreg() or ending.lower() not in _PICTURES:
                    continue
                if member.size > max_bytes:
                    yield key, None
                    continue
                file = members.extractfile(member)
                assert file is not None  # a regular member
                yield key, file.read()
    except (tarfile.TarError, ValueError, RecursionError):  # sparse maps that are no numbers; long name upon long name
        return
