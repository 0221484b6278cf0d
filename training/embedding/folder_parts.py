"""Parts of a folder of pictures, whatever folders are in it.

A picture is in the part that a hash of its path says, of 1, 2, 4 ... parts: one that comes or goes changes one part and
not all behind it. Its uid is a hash of its path in the folder. A .txt of its name beside it is its text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import Place
from training.embedding.parts import PART_ROWS, SourcePart, uid_of
from training.errors import DataError

__all__ = ["PICTURE_SUFFIXES", "folder_parts"]

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp")
"""Of files that are taken for pictures, in small or capital letters: what `pipeline.pictures` decodes."""


def folder_parts(folder: Place) -> tuple[list[SourcePart], int]:
    """The parts of `folder`, which is looked through to its end, and how many files are neither pictures nor the texts
    beside them nor under its features/. What begins with a dot is passed over, and no link to a folder is followed.
    Raises DataError where there is no picture."""
    stamps = dict(_files(folder))
    pictures = sorted(path for path in stamps if path[path.rfind(".") :].lower() in PICTURE_SUFFIXES)
    if not pictures:
        raise DataError(
            f"{folder}: no pictures here ({', '.join(PICTURE_SUFFIXES)}), and no tars; name a folder of pictures, a "
            "data set that is published, or a list"
        )
    count = 1 << max(0, (2 * len(pictures) - 1) // PART_ROWS).bit_length()
    cut: list[list[str]] = [[] for _ in range(count)]
    for path in pictures:
        cut[xxhash.xxh3_64_intdigest(path.encode("utf-8", "surrogatepass")) % count].append(path)
    parts = [_FolderPart.of(folder, f"{number:05d}", paths, stamps) for number, paths in enumerate(cut) if paths]
    others = stamps.keys() - set(pictures) - set(map(_text_of, pictures))
    return list(parts), sum(not path.startswith("features/") for path in others)


def _files(folder: Place) -> Iterator[tuple[str, str]]:
    """(path in the folder, stamp) of every file."""
    if isinstance(folder, BucketPath):
        for path, version in folder.versions():
            name = path.relative_to(folder)
            if not any(step.startswith(".") for step in name.split("/")):
                yield name, f"{version.num_bytes} {version.tag.e_tag}"
        return
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(here).relative_to(folder)
        for name in files:
            if not name.startswith("."):
                yield (inside / name).as_posix(), _stamp(os.path.join(here, name))


def _stamp(file: str) -> str:
    try:
        about = os.stat(file)
    except FileNotFoundError:  # a link that leads nowhere: a picture that is not there, which is counted
        return "gone"
    return f"{about.st_size} {about.st_mtime_ns}"


@dataclass(frozen=True, kw_only=True)
class _FolderPart:
    """Some pictures of a folder."""

    name: str
    content: str
    folder: Place
    paths: tuple[str, ...]
    has_text: tuple[bool, ...]

    @classmethod
    def of(cls, folder: Place, name: str, paths: Sequence[str], stamps: dict[str, str]) -> _FolderPart:
        """The part that holds `paths`."""
        texts = [stamps.get(_text_of(path)) for path in paths]
        digest = xxhash.xxh3_128()
        for path, text in zip(paths, texts, strict=True):
            digest.update(f"{path}\0{stamps[path]}\0{text}\0".encode("utf-8", "surrogatepass"))
        has_text = tuple(text is not None for text in texts)
        return cls(name=name, content=digest.hexdigest(), folder=folder, paths=tuple(paths), has_text=has_text)

    def rows(self) -> _FolderRows:
        return _FolderRows(self)


class _FolderRows:
    """The pictures of a part, and the texts beside them."""

    def __init__(self, part: _FolderPart) -> None:
        self._part = part
        self.uids = [uid_of(path) for path in part.paths]
        self.names = [path.encode("utf-8", "replace").decode() for path in part.paths]
        self.texts = [
            _read_text(part.folder / _text_of(path)) if there else None
            for path, there in zip(part.paths, part.has_text, strict=True)
        ]
        self.has_picture: npt.NDArray[np.bool_] = np.ones(len(part.paths), np.bool_)
        self.left_out = 0

    def pictures(self, rows: Sequence[int]) -> list[bytes | None]:
        """See `Rows`."""
        return [_read(self._part.folder / self._part.paths[row]) for row in rows]


def _text_of(path: str) -> str:
    return f"{path[: path.rfind('.')]}.txt"


def _read_text(path: Place) -> str | None:
    return (_read(path) or b"").decode("utf-8-sig", "replace").strip() or None


def _read(path: Place) -> bytes | None:
    """The file's bytes; None where it has gone."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
