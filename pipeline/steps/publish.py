"""publish: give the finished shards to the world in one step.

    OUT/work/shards/* --hard link--> OUT/versions/ID/ + sizes.json, manifest.json, config.yaml
    OUT/shards -> versions/ID     (a link, replaced atomically)
    OUT/work/summaries            small tables for the catalog

Readers see the old whole version or the new whole version, never a mixture. ID is a hash of the content.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.load import fingerprint
from pipeline.engine import Done
from pipeline.storage import commit, read_json, temporary_name, unwritable, write_bytes, write_json
from pipeline.summaries import write_summaries

__all__ = ["MANIFEST_VERSION", "publish"]

MANIFEST_VERSION = 1


def publish(output: Path, finished: Sequence[Done], config_yaml: str) -> tuple[Path, bool]:
    """Publish `finished` (tasks of the shards step); returns the version's directory and whether it is new.

    Raises OutputError when the disk is full or not writable.
    """
    shards = [_entry(record) for record in finished]
    identity = fingerprint("version", shards)
    version = output / "versions" / identity[:12]
    link = output / "shards"
    target = os.path.join("versions", version.name)
    whole = read_json(version / "manifest.json")
    if whole is None or whole.get("fingerprint") != identity:
        try:
            _assemble(output / "work" / "shards", version, finished, shards, identity, config_yaml)
        except OSError as error:
            raise unwritable(version, error) from error
    fresh = not link.is_symlink() or os.readlink(link) != target
    if fresh:
        temporary = temporary_name(link)
        temporary.symlink_to(target)
        temporary.replace(link)
    for other in (output / "versions").iterdir():
        if other != version:
            shutil.rmtree(other, ignore_errors=True)
    write_summaries(output)
    return version, fresh


def _entry(record: Done) -> dict[str, Any]:
    tar, parquet = f"{record.partition}.tar", f"{record.partition}.parquet"
    return {
        "name": tar,
        "samples": record.info["rows"],
        "bytes": record.info["bytes"],
        "sha256": record.outputs[tar],
        "parquet": parquet,
        "parquet_sha256": record.outputs[parquet],
    }


def _assemble(
    source: Path,
    version: Path,
    finished: Sequence[Done],
    shards: Sequence[dict[str, Any]],
    identity: str,
    config_yaml: str,
) -> None:
    """Fill a version's directory; its manifest, written last, says that it is whole."""
    shutil.rmtree(version, ignore_errors=True)
    version.mkdir(parents=True)
    for record in finished:
        for name in record.outputs:
            _place(source / name, version / name)
    write_json(version / "sizes.json", {shard["name"]: shard["samples"] for shard in shards})
    write_bytes(version / "config.yaml", config_yaml.encode())
    samples = sum(int(shard["samples"]) for shard in shards)
    manifest = {"version": MANIFEST_VERSION, "fingerprint": identity, "samples": samples, "shards": list(shards)}
    write_json(version / "manifest.json", manifest)


def _place(source: Path, destination: Path) -> None:
    """The same file under a second name; a copy where the file system has no hard links."""
    try:
        os.link(source, destination)
    except OSError:
        temporary = temporary_name(destination)
        shutil.copyfile(source, temporary)
        commit(temporary, destination)
