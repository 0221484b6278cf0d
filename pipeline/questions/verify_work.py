"""Check work/: every file of every step against the done-record that vouches for it.

    work/STEP/done/*.json, records.jsonl --each output--> digest

A run finds the same as it reads (`storage/checked.py`), but only in the files that it reads. A store of pictures that
several data sets share is checked with each of them. In a bucket the tar of a shard lies under shards/ alone once it is
published (`runs/publish_in_bucket.py`), where `verify` looks at it; so may pictures of staging tars on a disk
(`runs/give_back.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.engine import Done, Records, steps_in
from pipeline.errors import DamagedFileError
from pipeline.pages import config_of, page_of
from pipeline.questions.verify import Damage, Verification
from pipeline.steps.fetch.facts import STORE, answers_of, store_of
from pipeline.steps.fetch.pictures import Pictures, Published, by_bytes, pictures_of, released_with
from pipeline.storage.atomic import read_json
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check_in_passing
from pipeline.storage.location import Location
from pipeline.storage.output import check_output
from pipeline.storage.place import Place

__all__ = ["verify_work"]

_RECORDS_AT_A_TIME = 8


def verify_work(output: Place, *, advance: Callable[[int], None] | None = None) -> Verification:
    """Hold every file of the steps in work/ against its done-record; calls `advance(1)` after each record.

    `shards` counts the records, `samples` is 0. Raises OutputError where `output` is no data set, and StoreError.
    """
    check_output(output)
    published, page = _published(output), page_of(output)
    store, version = page.run.directory(STORE), None
    if released_with(output) is not None:  # in a bucket, too, if the set was copied there from a disk
        version = Published(shards=str(output / "shards"), seed=page.run.seed)
    damages: list[Damage] = []
    records = num_bytes = 0
    at_a_time = _RECORDS_AT_A_TIME if isinstance(output, BucketPath) else min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(at_a_time) as pool:
        for directory in [*steps_in(output / "work"), *_elsewhere(output)]:
            found = Records.of(directory)
            damages += (_damage(output, str(path), _NO_RECORD) for path in found.damaged)
            records += len(found) + len(found.damaged)

            def look(record: Done, directory: Place = directory) -> list[DamagedFileError]:
                errors = _damaged(record.located(directory), published, output / "shards")
                return [e for e in errors if not _is_spared(record, directory, e, store, version)]

            for record, errors in zip(found, pool.map(look, found), strict=True):
                damages += (_damage(output, error.path, error.what) for error in errors)
                num_bytes += sum(record.num_bytes.values())
                if advance is not None:
                    advance(1)
    return Verification(shards=records, samples=0, num_bytes=num_bytes, damages=damages)


def _elsewhere(output: Place) -> Sequence[Place]:
    """Directories of steps that the set shares with others."""
    config = config_of(output)
    return () if config is None else list(store_of(config.fetch).values())


_NO_RECORD = "not a done-record; its task counts as not done"


def _damage(output: Place, path: str, what: str) -> Damage:
    return Damage(file=path.removeprefix(f"{output}/"), what=what)


def _damaged(
    files: Mapping[str, Location], published: Mapping[str, Location], shards: Place
) -> Iterator[DamagedFileError]:
    """What is wrong with a task's files."""
    for file in files.values():
        try:
            check_in_passing(file)
        except DamagedFileError as error:
            if file.place.exists() or not _is_published(file, published, shards):
                yield error


def _is_spared(
    record: Done, directory: Place, error: DamagedFileError, store: Place, version: Published | None
) -> bool:
    """Whether the file is a staging tar whose pictures are all whole, there or in the published `version` where they
    may lie alone."""
    answers = answers_of(record, directory)
    if answers is None or answers.tar.path != error.path:
        return False
    try:
        rows = pictures_of(record, directory, store)
    except DamagedFileError:
        return False
    if any(row["stored_xxh3"] is None for row in rows):  # of an earlier version, which gave nothing back
        return False
    with Pictures(store, version or Published(shards="", seed=0)) as pictures:
        for some in by_bytes(rows):
            staged = pictures.staged(some)
            lacking = [row for row, picture in zip(some, staged, strict=True) if picture is None]
            if lacking and (version is None or len(version.find(lacking)) < len(lacking)):
                return False
    return True


def _is_published(file: Location, published: Mapping[str, Location], shards: Place) -> bool:
    """Whether the file lies in its public place: told by the manifest, or, where that is damaged, by its bytes."""
    if published:
        elsewhere = published.get(file.digest)
        return elsewhere is not None and elsewhere.place.is_file()
    if not isinstance(shards, BucketPath) or file.place.suffix != ".tar":
        return False
    try:
        check_in_passing(Location(str(shards / file.name), file.digest))
    except DamagedFileError:
        return False
    return True


def _published(output: Place) -> Mapping[str, Location]:
    """SHA-256 -> the published tar of it, where those of work/ are not kept."""
    manifest = read_json(output / "shards" / "manifest.json") if isinstance(output, BucketPath) else None
    shards = manifest["shards"] if isinstance(manifest, dict) else []
    return {shard["sha256"]: Location(str(output / "shards" / shard["name"]), shard["sha256"]) for shard in shards}
