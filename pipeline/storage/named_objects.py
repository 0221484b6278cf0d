"""Files in buckets that a config names, by URL or glob: which there are, what tells that one has changed, its bytes.

Without obstore such URLs are fsspec's, as all others are.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import importlib.util
import io
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

from pipeline.errors import InputError
from pipeline.storage.bucket import BucketPath, Version, is_bucket_url
from pipeline.storage.place import place_of

__all__ = ["is_object", "named_objects", "open_object", "stamp_if_there", "stamp_of_object"]

_READ_BYTES = 4 << 20


def is_object(url: str) -> bool:
    """Whether this is a URL that our client of buckets opens."""
    return is_bucket_url(url) and _has_client()


@functools.cache
def _has_client() -> bool:
    return importlib.util.find_spec("obstore") is not None


def named_objects(pattern: str) -> dict[str, list[Any]]:
    """URL -> stamp, of every object that a URL or a glob of URLs names, by name.

    Raises StoreError, OutputError for a URL with a user or a password in it, and InputError for what is no glob.
    """
    if not glob.has_magic(pattern):
        try:
            return {pattern: stamp_of_object(pattern)}
        except FileNotFoundError:
            return {}
    start = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]
    try:
        found = sorted(_fitting(BucketPath.of(start), pattern[len(start) + 1 :].split("/")))
    except ValueError as error:
        raise InputError(f"{pattern}: {error}") from error
    return {str(path): _stamp(version) for path, version in found}


def _fitting(place: BucketPath, names: Sequence[str]) -> Iterator[tuple[BucketPath, Version]]:
    """The objects below `place` whose names fit, level by level: beside the few that a pattern names may lie a hundred
    times as many (a crawl's `segments/*/wat/*.gz`)."""
    from fsspec.utils import glob_translate

    first, *rest = names
    if rest and not glob.has_magic(first):
        yield from _fitting(place / first, rest)
    elif "**" in first:
        fits = re.compile(glob_translate("/".join(names))).match
        yield from ((path, version) for path, version in place.versions() if fits(path.relative_to(place)))
    else:
        fits = re.compile(glob_translate(first)).match
        directories, objects = place.level()
        if not rest:
            yield from ((path, version) for path, version in objects if fits(path.name))
        for directory in directories if rest else ():
            if fits(directory.name):
                yield from _fitting(directory, rest)


def stamp_of_object(url: str) -> list[Any]:
    """Size and ETag. Raises FileNotFoundError, StoreError, and OutputError as `named_objects` does."""
    return _stamp(BucketPath.of(url).version())


def stamp_if_there(file: str) -> tuple[Any, ...]:
    """What changes when a file or an object does; empty where it cannot be had: whoever reads it says what is wrong."""
    with contextlib.suppress(OSError):
        if is_object(file):
            return tuple(stamp_of_object(file))
        status = os.stat(file)
        return status.st_size, status.st_mtime_ns
    return ()


def _stamp(version: Version) -> list[Any]:
    return [version.num_bytes, version.tag.e_tag]


def open_object(url: str) -> BinaryIO:
    """The object, to be read from its beginning on, or anywhere. Raises FileNotFoundError, StoreError."""
    place = place_of(url)
    assert isinstance(place, BucketPath)
    file = place.open()
    file.seek(0, io.SEEK_END)  # asks whether it is there
    file.seek(0)
    return cast(BinaryIO, io.BufferedReader(file, _READ_BYTES))
