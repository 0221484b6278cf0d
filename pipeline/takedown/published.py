"""Taking samples out of published shards: members become zeros in place, rows go, counts and checksums follow.

    00000.tar (in place)  00000.parquet, _stats.json (replaced)  --> manifest.json, sizes.json, last

A file in work/shards is the same file under another name, or a copy: both change. Until the manifest is written its
checksums are those of before, and `remove` run again does the rest; `tombstones.json` is there all the while.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from configs.load import fingerprint
from pipeline.engine import Done, Records, amend
from pipeline.errors import DamagedFileError, InputError
from pipeline.records.shard import MANIFEST_VERSION, stats_of
from pipeline.storage.atomic import commit, read_json, sha256_of, temporary_name, write_bytes, write_json
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import read_table
from pipeline.storage.copies import scratch_copy
from pipeline.storage.lease import hold_of
from pipeline.storage.location import Location
from pipeline.storage.place import Place
from pipeline.takedown.blank import blank_samples
from pipeline.takedown.delta import Delta, FileChange, Gone
from pipeline.takedown.editing import edited, write_rows

__all__ = ["manifest_at", "manifest_of", "origin_of", "parquet_of", "rows_without", "take_out_of_shards"]

_ASIDE = "compacting.json"
"""Of a bucket: the manifest, while there is none."""
_AT_A_TIME = min(4, os.cpu_count() or 1)


def manifest_at(shards: Place) -> dict[str, Any]:
    """The manifest of the version in `shards`. Raises InputError where nothing is published there."""
    manifest = read_json(shards / "manifest.json") or read_json(shards / _ASIDE)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("shards"), list):
        raise InputError(f"{shards}: no published shards here (no manifest.json); finish the run first")
    return manifest


def origin_of(manifest: Mapping[str, Any]) -> str:
    """The fingerprint of the version before anything was removed from it."""
    return str(manifest.get("origin") or manifest["fingerprint"])


def take_out_of_shards(
    shards: Place, work: Place | None, delta: Delta, advance: Callable[[int], None] = lambda _: None
) -> Delta:
    """Make the version in `shards` one without the delta's samples, and `work`, the directory of the step that wrote
    it, too; returns the delta with the checksums of what came of it. Calls `advance(samples)` after each shard.

    Raises DamagedFileError where a file is not what the manifest says; then `verify --repair` comes first.
    """
    manifest = manifest_at(shards)
    gone = _by_shard(delta.samples)
    records = Records.of(work) if work is not None else None
    jobs = [
        _Shard(
            root=shards,
            entry=entry,
            gone=gone.get(entry["name"], ()),
            record=records.get(entry["name"].removesuffix(".tar")) if records is not None else None,
            work=work,
        )
        for entry in manifest["shards"]
    ]
    touched = [job for job in jobs if job.gone]
    if touched and isinstance(shards, BucketPath):  # as publish_in_bucket does: who finds it finds a whole version
        write_json(shards / _ASIDE, manifest)
        (shards / "manifest.json").unlink(missing_ok=True)
    entries = {entry["name"]: entry for entry in manifest["shards"]}
    amended = []
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for job, (entry, record) in zip(touched, pool.map(_Shard.take_out, touched), strict=True):
            entries[entry["name"]] = entry
            amended += [record] if record is not None else []
            advance(len(job.gone))
    if work is not None:
        amend(work, amended)
    after = manifest_of(list(entries.values()), origin_of(manifest))
    sizes = {entry["name"]: entry["samples"] for entry in after["shards"]}
    if touched:
        write_json(shards / "sizes.json", sizes)
        write_json(shards / "manifest.json", after)
        if isinstance(shards, BucketPath):
            (shards / _ASIDE).unlink(missing_ok=True)
    return dataclasses.replace(delta, after=after["fingerprint"], files=_changes(delta, after["shards"]))


def manifest_of(entries: Sequence[Mapping[str, Any]], origin: str) -> dict[str, Any]:
    """The manifest of these shards, which came of the version `origin`."""
    identity = fingerprint("version", list(entries))
    samples = sum(int(entry["samples"]) for entry in entries)
    manifest = {"version": MANIFEST_VERSION, "fingerprint": identity, "samples": samples, "shards": list(entries)}
    return manifest if identity == origin else manifest | {"origin": origin}


def _by_shard(samples: Sequence[Gone]) -> dict[str, Sequence[Gone]]:
    found: dict[str, list[Gone]] = {}
    for gone in samples:
        found.setdefault(gone.shard, []).append(gone)
    return dict(found)


def _changes(delta: Delta, entries: Sequence[Mapping[str, Any]]) -> dict[str, FileChange]:
    """The delta's files with their checksums after it."""
    now = {entry["name"]: entry["sha256"] for entry in entries}
    now |= {entry["parquet"]: entry["parquet_sha256"] for entry in entries}
    return {name: FileChange(before=change.before, after=now.get(name, "")) for name, change in delta.files.items()}


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """A shard that loses samples."""

    root: Place
    entry: Mapping[str, Any]
    """Of the manifest, before."""
    gone: Sequence[Gone]
    record: Done | None
    """Of the task that wrote it, if it is this one's."""
    work: Place | None

    def take_out(self) -> tuple[dict[str, Any], Done | None]:
        """The manifest's entry, and the task's record, as they are afterwards."""
        tar, parquet = self.entry["name"], self.entry["parquet"]
        stats = tar.removesuffix(".tar") + "_stats.json"
        samples = self._rows_go(parquet)
        content = json.dumps(stats_of(samples), indent=1).encode() + b"\n"
        write_bytes(self.root / stats, content)
        digests = {
            tar: self._members_go(tar),
            parquet: _sha256_of(self.root / parquet),
            stats: _sha256_of(self.root / stats),
        }
        entry = {**self.entry, "samples": samples, "sha256": digests[tar], "parquet_sha256": digests[parquet]}
        return entry, self._twins(digests, samples)

    def _rows_go(self, name: str) -> int:
        """Replace the Parquet by its other rows; how many they are."""
        place = self.root / name
        rows, went = rows_without(Location(str(place)), self.gone)
        if went:
            if _sha256_of(place) != self.entry["parquet_sha256"]:
                raise DamagedFileError(str(place), "its sha256 is not the manifest's")
            write_rows(place, rows)
        return int(rows.num_rows)

    def _members_go(self, name: str) -> str:
        """Blank the samples in the tar; its SHA-256 afterwards."""
        with edited(self.root / name) as path:
            blank_samples(path, [gone.tar_offset for gone in self.gone])
            return sha256_of(path)

    def _twins(self, digests: Mapping[str, str], samples: int) -> Done | None:
        """Bring what is in work/ to the same; the record that says so. None where none there vouches for the shard."""
        if self.record is None or self.work is None or self.record.outputs.keys() != digests.keys():
            return None
        sizes = {}
        for name, file in self.record.located(self.work).items():
            _become(file.place, self.root / name)
            sizes[name] = _size_of(self.root / name)
        info = {**self.record.info, "rows": samples}
        return dataclasses.replace(self.record, outputs=dict(digests), num_bytes=sizes, info=info)


def _become(twin: Place, file: Place) -> None:
    """Make `twin` what `file` is, if it is there."""
    if isinstance(twin, BucketPath):
        assert isinstance(file, BucketPath)
        if twin.suffix != ".tar" or twin.is_file():  # a bucket's tar lies in its public place alone
            hold_of(twin)
            file.copy(twin)
        return
    assert isinstance(file, Path)
    if not twin.exists() or twin.samefile(file):
        return
    temporary = temporary_name(twin)
    try:
        os.link(file, temporary)
        temporary.replace(twin)
    except OSError:  # no hard links here
        temporary.unlink(missing_ok=True)
        temporary.write_bytes(file.read_bytes())
        commit(temporary, twin)


def _sha256_of(place: Place) -> str:
    if isinstance(place, Path):
        return sha256_of(place)
    with scratch_copy(place) as copy:
        return sha256_of(copy)


def _size_of(place: Place) -> int:
    return int(place.stat().st_size)


def rows_without(parquet: Location, samples: Sequence[Gone]) -> tuple[pa.Table, int]:
    """(the rows of a Parquet that are of none of `samples`, how many are). Raises DamagedFileError."""
    table = read_table(parquet)
    uids = pa.array([gone.uid for gone in samples], pa.binary())
    rows = table.filter(pc.invert(pc.is_in(table["uid"].cast(pa.binary()), uids)))
    return rows, table.num_rows - rows.num_rows


def parquet_of(shards: Place, manifest: Mapping[str, Any]) -> Iterator[tuple[str, Location]]:
    """(tar's name, Parquet) of each shard."""
    for entry in manifest["shards"]:
        yield entry["name"], Location(str(shards / entry["parquet"]), entry["parquet_sha256"])
