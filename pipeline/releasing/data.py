"""The data of a release: from the shards of a published set to files with their checksums.

shards, by the manifest --tasks--> OUT.tmp-release/rows --a second name, or a copy--> links/, pictures/
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine import Data, Engine, Part, Task, look_at
from pipeline.errors import DamagedFileError, InputError
from pipeline.records.shard import shard_name
from pipeline.releasing.columns import Column
from pipeline.releasing.config import ReleaseConfig
from pipeline.releasing.rows import LinkFiles, PictureFiles, WriteLinks, WritePictures
from pipeline.storage.atomic import commit, read_json, remove_tree, temporary_name
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check, check_in_passing, read_schema
from pipeline.storage.location import Files, Location
from pipeline.storage.output import check_output
from pipeline.storage.place import Place

__all__ = ["PublishedSet", "published_set", "put_in_place", "write_rows"]

_TRIES = 2
"""Of data that a release which was killed left damaged: they are written once more."""


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """The published version of a set."""

    root: Place
    fingerprint: str
    samples: int
    shards: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    """That its rows have."""

    @property
    def is_published_still(self) -> bool:
        """Whether no run has published another one meanwhile."""
        return (read_json(self.root / "shards" / "manifest.json") or {}).get("fingerprint") == self.fingerprint

    def location(self, shard: Mapping[str, Any], kind: str) -> Location:
        named = {"parquet": ("parquet", "parquet_sha256"), "tar": ("name", "sha256")}[kind]
        return Location(str(self.root / "shards" / shard[named[0]]), shard[named[1]])


def published_set(source: Place) -> PublishedSet:
    """What is published in `source`, by its manifest. Raises OutputError where that is no data set, InputError where
    there is nothing to release."""
    check_output(source)
    manifest = read_json(source / "shards" / "manifest.json")
    if manifest is None:
        raise InputError(f"{source}: has no published shards yet; finish its run first")
    if not manifest["samples"]:
        raise InputError(f"{source}: no sample is published, so there is nothing to release")
    if (source / "shards" / "tombstones.json").exists():
        raise InputError(
            f"{source}: removed samples are still in its shards; `python -m pipeline compact {source}` takes them out"
        )
    first = manifest["shards"][0]
    parquet = Location(str(source / "shards" / first["parquet"]), first["parquet_sha256"])
    return PublishedSet(
        root=source,
        fingerprint=manifest["fingerprint"],
        samples=manifest["samples"],
        shards=manifest["shards"],
        columns=read_schema(parquet).names,
    )


def write_rows(
    ours: PublishedSet, said: ReleaseConfig, columns: Sequence[Column], directory: Place, engine: Engine
) -> Sequence[Part[LinkFiles | PictureFiles]]:
    """Write what is not written yet into `directory`, and hold what was against its checksums. Raises as the engine
    does, DamagedFileError for a shard that is not what was published."""
    names = tuple(column.name for column in columns)
    tasks: list[Task[Any]]
    data: Data[Any]
    if said.pictures:
        data = Data("rows", PictureFiles)
        tasks = [
            WritePictures(
                partition=shard_name(index),
                shard=ours.location(shard, "parquet"),
                tar=ours.location(shard, "tar"),
                columns=names,
            )
            for index, shard in enumerate(ours.shards)
        ]
    else:
        data = Data("rows", LinkFiles)
        tasks = [
            WriteLinks(partition=shard_name(index), shards=Files(shards), columns=names)
            for index, shards in enumerate(_groups(ours, said.rows_per_file))
        ]
    data.directory = directory
    for attempt in range(_TRIES):
        looked = look_at(directory, tasks)
        data.finish(engine.run_step(directory, tasks, title="write the release", looked=looked))
        try:
            for part in data.parts:
                if part.name in looked.done:
                    for _, file in _named(part):
                        check_in_passing(file)
            break
        except DamagedFileError:
            if attempt + 1 == _TRIES:
                raise
            remove_tree(directory)
    return data.parts


def _groups(ours: PublishedSet, rows_per_file: int) -> Iterator[list[Location]]:
    """Shards of about so many rows together."""
    group: list[Location] = []
    rows = 0
    for shard in ours.shards:
        if group and rows + shard["samples"] > rows_per_file:
            yield group
            group, rows = [], 0
        group.append(ours.location(shard, "parquet"))
        rows += shard["samples"]
    if group:
        yield group


def _named(part: Part[Any]) -> Iterator[tuple[str, Location]]:
    """Directory of the release -> file."""
    yield "links", part.files.links
    if isinstance(part.files, PictureFiles):
        yield "pictures", part.files.tar


def put_in_place(part: Part[Any], place: Place) -> list[dict[str, Any]]:
    """Give the files of a part their places in the release: a second name each, or a copy where there are none. Returns
    the entry of each in release.json."""
    return [_put(file, kind, place) for kind, file in _named(part)]


def _put(file: Location, kind: str, place: Place) -> dict[str, Any]:
    to, where = place / kind / file.name, file.place
    if isinstance(to, BucketPath) and isinstance(where, BucketPath):
        where.copy(to)
        num_bytes = where.stat().st_size
    else:
        assert isinstance(to, Path)
        to.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(to)
        try:
            os.link(file.path, temporary)
            temporary.replace(to)
        except OSError:
            shutil.copyfile(file.path, temporary)
            check(Location(str(temporary), file.digest))
            commit(temporary, to)
        num_bytes = to.stat().st_size
    return {"name": f"{kind}/{file.name}", "bytes": num_bytes, "sha256": file.digest}
