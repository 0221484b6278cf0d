"""publish, in a bucket: there are no links, so the shards of the present version are copied, by the store itself.

    OUT/work/shards/at/*/* --copy--> OUT/shards/ + config.yaml, sizes.json, manifest.json     the manifest last
    OUT/work/shards/at/*/*.tar      gone afterwards: a picture lies there once

The manifest goes before the first file of another version comes, and is put when all are there: a reader that finds it
finds a whole version. Files that the version before had, too, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.engine import Part
from pipeline.errors import DamagedFileError
from pipeline.records.shard import ShardFiles
from pipeline.storage.atomic import read_json, write_bytes, write_json
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check_in_passing
from pipeline.storage.lease import Hold, hold_of
from pipeline.storage.location import Location

__all__ = ["publish_in_bucket"]

_COPIES = 16
"""At a time."""


def publish_in_bucket(
    shards: BucketPath,
    finished: Sequence[Part[ShardFiles]],
    manifest: Mapping[str, Any],
    config_yaml: str,
    hold: Hold,
    make_way: Callable[[BucketPath], None],
) -> list[str]:
    """Make `shards` the version of `manifest`; returns which of its files were put back, if it was that before.

    Raises LockedError where somebody else holds the output by now, StoreError, and DamagedFileError for a shard that is
    gone.
    """
    published = read_json(shards / "manifest.json")
    there = {path.relative_to(shards): size for path, size in shards.walk()}
    attempts = {_place(part.files.tar).parent.parent for part in finished}  # none where no sample is left
    in_work = {path for directory in attempts for path, _ in directory.walk()}
    is_published = published == manifest
    lacking = list(_lacking(finished, there, _digests_of(published), shards, in_work))
    hold.check()
    if not is_published:
        make_way(shards)
        (shards / "manifest.json").unlink()
    with ThreadPoolExecutor(_COPIES) as copies:
        list(copies.map(lambda file: _copy(file, shards), lacking))
    put_back = [file.name for file in lacking]
    if "config.yaml" not in there or not is_published:
        write_bytes(shards / "config.yaml", config_yaml.encode())
        put_back.append("config.yaml")
    sizes = {shard["name"]: shard["samples"] for shard in manifest["shards"]}
    if not is_published or read_json(shards / "sizes.json") != sizes:
        write_json(shards / "sizes.json", sizes)
        put_back.append("sizes.json")
    ours = {file.name for part in finished for file in part.files} | {"config.yaml", "sizes.json", "manifest.json"}
    BucketPath.remove([shards / name for name in there.keys() - ours])
    hold.check()
    if not is_published:
        write_json(shards / "manifest.json", manifest)
        put_back = []
    tars = {_place(part.files.tar) for part in finished}
    BucketPath.remove([path for path in in_work if path in tars])
    return put_back


def _digests_of(published: Any) -> dict[str, str]:
    """File name -> SHA-256, of the shards of a version; nothing where its manifest is gone or damaged."""
    found: dict[str, str] = {}
    try:
        for shard in published["shards"]:
            found |= {shard["name"]: shard["sha256"], shard["parquet"]: shard["parquet_sha256"]}
    except (KeyError, TypeError):
        return {}
    return found


def _lacking(
    finished: Sequence[Part[ShardFiles]],
    there: Mapping[str, int],
    published: Mapping[str, str],
    shards: BucketPath,
    in_work: Set[BucketPath],
) -> Iterator[Location]:
    """The files of tasks that are not in their place yet, not of their size, of another version, or made anew."""
    for part in finished:
        tar, parquet = part.files.tar, part.files.parquet
        same = published.get(tar.name) == tar.digest and published.get(parquet.name) == parquet.digest
        is_new = _place(tar) in in_work or there.get(tar.name) != part.info["bytes"]
        if is_new or not (same or (not published and _is_whole(tar, shards))):
            yield tar
        yield from (file for file in part.files if file is not tar and not (same and file.name in there))


def _is_whole(tar: Location, shards: BucketPath) -> bool:
    """Whether a tar that lies in its place alone, since the manifest was lost, is what was published."""
    try:
        check_in_passing(Location(str(shards / tar.name), tar.digest))
    except DamagedFileError:
        return False
    return True


def _copy(file: Location, shards: BucketPath) -> None:
    hold_of(shards)  # asks nobody, and a process that slept meanwhile puts nothing over what others published
    try:
        _place(file).copy(shards / file.name)
    except FileNotFoundError:
        raise DamagedFileError(file.path, "is not there any more") from None


def _place(file: Location) -> BucketPath:
    place = file.place
    assert isinstance(place, BucketPath)
    return place
