"""The pictures of a directory, with the texts that it has of each."""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError

__all__ = ["Picture", "picture_bytes", "read_pictures"]

_COLUMNS = ("path", "style", "name", "lang", "kind", "text")
_NAMING = ("label", "title", "caption")
"""Kinds of text that name the picture; `und` is taken as English, as a web page's language mostly is not stated."""


@dataclass(kw_only=True)
class Picture:
    """One picture and what is said of it."""

    path: str
    """Member of the set's tar."""
    style: str
    """The set."""
    name: str
    """The same for the same thing in several sets."""
    label: str | None = None
    """Its class name: the English label."""
    names: list[str] = field(default_factory=list)
    """English texts that name it."""
    tags: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    foreign: list[tuple[str, str]] = field(default_factory=list)
    """(language, text)"""

    @property
    def key(self) -> str:
        """Which picture it is."""
        return self.path

    @property
    def title(self) -> str:
        """What a caption calls it."""
        return self.label or (self.names[0] if self.names else re.sub(r"[-_\W]+", " ", self.name).strip())


def read_pictures(directory: Path) -> list[Picture]:
    """All pictures that have texts and stand in their set's tar, by path.

    Raises InputError where the table has not the columns, or no picture is left.
    """
    file = directory / "texts.parquet"
    try:
        rows = pq.read_table(file, columns=list(_COLUMNS)).to_pylist()
        there = {name for tar in sorted(directory.glob("*.tar")) for name in _members(tar)}
    except (OSError, pa.ArrowException, tarfile.TarError) as error:
        raise InputError(f"{file}: cannot be read, or lacks a column of {', '.join(_COLUMNS)} ({error})") from error
    pictures: dict[str, Picture] = {}
    for row in rows:
        text = " ".join((row["text"] or "").split())
        if not text or row["path"] not in there:
            continue
        picture = pictures.setdefault(row["path"], Picture(path=row["path"], style=row["style"], name=row["name"]))
        language = re.split(r"[-_@]", row["lang"])[0]
        if row["kind"] == "tags":
            picture.tags += [tag.strip() for tag in text.split(",") if tag.strip()]
        elif row["kind"] == "description":
            picture.descriptions.append(text)
        elif row["kind"] == "file_name":
            pass  # the name says the same
        elif language not in ("en", "und"):
            picture.foreign.append((language, text))
        elif row["kind"] in _NAMING:
            picture.names.append(text)
            if row["kind"] == "label":
                picture.label = text
    if not pictures:
        raise InputError(f"{directory}: no picture of texts.parquet is in a tar; give a directory that holds both")
    return [pictures[path] for path in sorted(pictures)]


def picture_bytes(directory: Path, picture_path: str) -> bytes:
    """The file of one picture."""
    tar = directory / f"{picture_path.partition('/')[0]}.tar"
    start, size = _members(tar)[picture_path]
    with tar.open("rb") as file:
        file.seek(start)
        return file.read(size)


@cache
def _members(tar: Path) -> dict[str, tuple[int, int]]:
    """Name -> where its bytes begin, and how many there are."""
    with tarfile.open(tar) as archive:
        return {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}
