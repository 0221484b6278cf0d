"""publish: give the finished shards to the world in one step.

    OUT/work/shards/* --hard link--> OUT/versions/ID/ + sizes.json, manifest.json, config.yaml
    OUT/shards -> versions/ID     (a link, replaced atomically)
    OUT/work/summaries            small tables for the catalog

Readers see the old whole version or the new whole version, never a mixture. ID is a hash of the content. A bucket has
no links: see `publish_in_bucket.py`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal

from configs.load import fingerprint
from pipeline.catalog.summaries import write_summaries
from pipeline.engine import Part
from pipeline.errors import DamagedFileError
from pipeline.pages import page_of
from pipeline.records.shard import MANIFEST_VERSION, ShardFiles
from pipeline.runs.publish_in_bucket import publish_in_bucket
from pipeline.storage.atomic import commit, read_json, temporary_name, unwritable, write_bytes, write_json
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check
from pipeline.storage.lease import hold_of
from pipeline.storage.location import Location
from pipeline.storage.place import Place

__all__ = ["publish"]


def publish(
    output: Place,
    finished: Sequence[Part[ShardFiles]],
    config_yaml: str,
    *,
    written: Set[str] = frozenset(),
    make_way: Callable[[Place], None] = lambda _: None,
) -> tuple[Place, list[str]]:
    """Publish `finished` (the parts of step shards); returns the version's directory, and which of its files were put
    back: of a version that is published already those that were missing, or not of their size.

    `written` are the names of parts that this run wrote itself; the files of others lay on the disk for an unknown
    time, and are held against their digests before they get their public names. `make_way` is called before another
    version goes, with the directory of the new one, which is whole by then on a disk. Raises OutputError when the disk
    is full or not writable, DamagedFileError for a shard that is not what it was.
    """
    shards = [_entry(record) for record in finished]
    identity = fingerprint("version", shards)
    samples = sum(int(shard["samples"]) for shard in shards)
    manifest = {"version": MANIFEST_VERSION, "fingerprint": identity, "samples": samples, "shards": shards}
    if isinstance(output, BucketPath):
        put_back = publish_in_bucket(output / "shards", finished, manifest, config_yaml, hold_of(output), make_way)
        write_summaries(page_of(output))
        return output / "shards", put_back
    version = output / "versions" / identity[:12]
    link = output / "shards"
    target = os.path.join("versions", version.name)
    is_published = link.is_symlink() and os.readlink(link) == target
    try:
        if not is_published:
            shutil.rmtree(version, ignore_errors=True)  # of a run that was killed: nobody reads it
        version.mkdir(parents=True, exist_ok=True)
        put_back = list(_fill(version, finished, manifest, config_yaml, written=written))
        if not is_published:
            make_way(version)
    except OSError as error:
        raise unwritable(version, error) from error
    if not is_published:
        put_back = []
        temporary = temporary_name(link)
        temporary.symlink_to(target)
        temporary.replace(link)
    for other in (output / "versions").iterdir():
        if other != version:
            shutil.rmtree(other, ignore_errors=True)
    write_summaries(page_of(output))
    return version, put_back


def _entry(part: Part[ShardFiles]) -> dict[str, Any]:
    tar, parquet = part.files.tar, part.files.parquet
    return {
        "name": tar.name,
        "samples": part.info["rows"],
        "bytes": part.info["bytes"],
        "sha256": tar.digest,
        "parquet": parquet.name,
        "parquet_sha256": parquet.digest,
    }


def _fill(
    version: Path,
    finished: Sequence[Part[ShardFiles]],
    manifest: Mapping[str, Any],
    config_yaml: str,
    *,
    written: Set[str],
) -> Iterator[str]:
    """Bring every file that a version must have to its directory, the manifest last; the names of those that came."""
    for part in finished:
        for ours in part.files:
            name = ours.local.name
            state = _state(ours.local, version / name)
            if state != "placed":
                if part.name not in written:
                    check(ours)
                _place(ours, version / name)
            if state == "missing":
                yield name
    sizes = {shard["name"]: shard["samples"] for shard in manifest["shards"]}
    if not (version / "config.yaml").exists():
        write_bytes(version / "config.yaml", config_yaml.encode())
        yield "config.yaml"
    for name, content in (("sizes.json", sizes), ("manifest.json", manifest)):
        if read_json(version / name) != content:
            write_json(version / name, content)
            yield name


def _state(source: Path, destination: Path) -> Literal["placed", "missing", "older"]:
    """What a published file is to that of the task: the same, or a copy made after it; absent, or not of its size; of a
    shard that was made anew since."""
    ours = source.stat()
    try:
        there = destination.stat()
    except OSError:
        return "missing"
    if os.path.samestat(there, ours):
        return "placed"
    if there.st_size != ours.st_size:
        return "missing"
    return "placed" if there.st_mtime_ns >= ours.st_mtime_ns else "older"


def _place(source: Location, destination: Path) -> None:
    """The same file under a second name; a copy, checked, where the file system has no hard links."""
    temporary = temporary_name(destination)
    try:
        os.link(source.path, temporary)
        temporary.replace(destination)
    except OSError:
        shutil.copyfile(source.path, temporary)
        try:
            check(Location(str(temporary), source.digest))
        except DamagedFileError as error:
            temporary.unlink()
            raise DamagedFileError(source.path, error.what) from error
        commit(temporary, destination)
