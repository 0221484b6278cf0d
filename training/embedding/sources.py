"""What can be embedded, cut into parts: the unit of work, and of what is made again when something changes.

    a data set of ours (Parquet with uid and offsets)      shard_parts.py    a shard, or 4,096 of its rows
    tars of other tools                                    shard_parts.py    a tar
    a folder of pictures                                   folder_parts.py   4,096 or fewer, by a hash of their paths
    a list (CSV, TSV, Parquet, JSONL, lines of text)       list_parts.py     4,096 rows

How it is cut hangs on the source alone, never on who works on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError, one_line
from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import Place, place_of
from training.embedding.folder_parts import folder_parts
from training.embedding.list_parts import LIST_SUFFIXES, list_parts
from training.embedding.parts import SourcePart
from training.embedding.shard_parts import is_set, shard_parts
from training.errors import DataError

__all__ = ["Source", "find_source"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was found."""

    kind: str
    """set, tars, folder or list."""
    parts: Sequence[SourcePart]
    beside: Place
    """The directory under which its features lie, unless they are to lie elsewhere."""
    passed_over: int = 0
    """Files of a folder that are neither pictures nor the texts beside them."""


def find_source(
    data: str | Place,
    *,
    image_column: str | None = None,
    text_column: str | None = None,
    uid_column: str | None = None,
) -> Source:
    """Whatever is at `data`, looked through but not read. The columns are those of a list: see EmbedConfig.

    Raises DataError, in one line, where there is nothing that can be embedded.
    """
    try:
        place = place_of(data)
        if place.suffix.lower() in LIST_SUFFIXES and place.is_file():
            parts = list_parts(place, image_column=image_column, text_column=text_column, uid_column=uid_column)
            return Source(kind="list", parts=parts, beside=place.with_name(f"{place.name}.features"))
        columns = {"image_column": image_column, "text_column": text_column, "uid_column": uid_column}
        if given := [name for name, value in columns.items() if value is not None]:
            raise DataError(f"{data}: no list, so it has no columns; leave out --{given[0]}")
        if place.is_file():
            raise DataError(f"{data}: a list ends in {', '.join(LIST_SUFFIXES)}; rename it, or give a directory")
        if not place.is_dir():
            raise DataError(f"{data}: no such data set, directory or list")
        if is_set(place):
            kind, shards = shard_parts(place)
            return Source(kind=kind, parts=shards, beside=_of_set(place) / "features")
        pictures, passed_over = folder_parts(place)
        return Source(kind="folder", parts=pictures, beside=place / "features", passed_over=passed_over)
    except PipelineError as error:
        told = one_line(error)
        raise DataError(told if str(data) in told else f"{data}: {told}") from error
    except OSError as error:
        raise DataError(f"{data}: cannot be read ({one_line(error)})") from error


def _of_set(place: Place) -> Place:
    """The data set whose shards are named: what it has published is not written to."""
    here = place if isinstance(place, BucketPath) else Path(place).absolute()
    return here.parent if here.name == "shards" and (here.parent / "openwit.json").is_file() else place
