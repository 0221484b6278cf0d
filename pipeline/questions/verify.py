"""Check a published data set against itself: every tar, member, hash, row and count.

    manifest.json --sizes, sha256--> tars, Parquet --row by row--> members (header, place, picture, .json, .txt)
                  --counts---------> sizes.json, _stats.json, the manifest's own sum and fingerprint

Each damage is one line: which file, and what about it. Shards are read once, as streams (`verify_shard.py`), several
at a time; memory is bounded by the rows of so many shards.

`verify_work.py` looks at work/, `runs/repair.py` makes damaged parts again.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from configs.load import fingerprint
from pipeline.errors import OutputError, one_line
from pipeline.questions.verify_shard import MAX_PER_FILE, CheckedShard, Damage, check_shard, of_shards
from pipeline.records.shard import MANIFEST_VERSION
from pipeline.storage.atomic import read_json
from pipeline.storage.bucket import BucketPath
from pipeline.storage.duck import open_duckdb, read_parquet_sql, use_buckets
from pipeline.storage.output import check_output
from pipeline.storage.place import Place, files_in

__all__ = ["Damage", "Verification", "verify"]

_SHARD_NAME = re.compile(r"[0-9]+\.tar")
_SHARDS_AT_A_TIME = 8


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was checked, and what is wrong."""

    shards: int
    samples: int
    """Rows that were read."""
    num_bytes: int
    """Of tars and Parquet files that were read."""
    damages: Sequence[Damage]


def verify(output: Place, *, advance: Callable[[int], None] | None = None) -> Verification:
    """Check the published version of the data set in `output`; calls `advance(rows)` after each shard.

    Raises OutputError where `output` is no data set, or nothing is published in it; StoreError.
    """
    check_output(output)
    root = output / "shards"
    if not _is_there(root):
        raise OutputError(f"{output}: has no published shards yet; finish its run first")
    manifest = read_json(root / "manifest.json")
    problem = _manifest_problem(manifest)
    if problem:
        return Verification(shards=0, samples=0, num_bytes=0, damages=[of_shards("manifest.json", problem)])
    entries = manifest["shards"]
    damages = list(_counts(root, manifest)) + list(_strangers(root, entries))
    checked: list[CheckedShard] = []
    with ThreadPoolExecutor(_at_a_time(root)) as pool:
        for result in pool.map(lambda entry: check_shard(root, entry), entries):
            checked.append(result)
            damages += result.damages
            if advance is not None:
                advance(result.samples)
    damages += _order_of_shards(entries, checked)
    readable = [root / entry["parquet"] for entry, result in zip(entries, checked, strict=True) if result.readable]
    damages += _repeated_uids(readable)
    damages += _ledger(output)
    return Verification(
        shards=len(entries),
        samples=sum(result.samples for result in checked),
        num_bytes=sum(result.num_bytes for result in checked),
        damages=damages,
    )


def _is_there(root: Place) -> bool:
    """Whether there is a version, or what is left of one: a link that leads nowhere, too."""
    return root.is_dir() if isinstance(root, BucketPath) else os.path.lexists(root)


def _at_a_time(root: Place) -> int:
    """Who reads from a bucket waits most of the time."""
    return _SHARDS_AT_A_TIME if isinstance(root, BucketPath) else min(_SHARDS_AT_A_TIME, os.cpu_count() or 1)


# --- the version as a whole ---------------------------------------------------------------------


def _manifest_problem(manifest: Any) -> str | None:
    if not isinstance(manifest, dict):
        return "missing, or not JSON"
    if manifest.get("version") != MANIFEST_VERSION:
        return f"of version {manifest.get('version')!r}, this program knows {MANIFEST_VERSION}"
    fields = {"name": str, "samples": int, "bytes": int, "sha256": str, "parquet": str, "parquet_sha256": str}
    entries = manifest.get("shards")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(field), kind) for field, kind in fields.items())
        for entry in entries
    ):
        return "a shard's entry is not whole"
    for entry in entries:
        if _SHARD_NAME.fullmatch(entry["name"]) is None or entry["parquet"] != entry["name"][:-4] + ".parquet":
            return f"names {entry['name']!r} with {entry['parquet']!r}, which are no files of a shard"
    return None


def _counts(root: Place, manifest: Mapping[str, Any]) -> Iterator[Damage]:
    entries = manifest["shards"]
    if manifest.get("fingerprint") != fingerprint("version", entries):
        yield of_shards("manifest.json", "its fingerprint is not that of its entries: it was changed")
    total = sum(entry["samples"] for entry in entries)
    if manifest.get("samples") != total:
        yield of_shards("manifest.json", f"says {manifest.get('samples')} samples, its shards' sum is {total}")
    sizes = read_json(root / "sizes.json")
    if not isinstance(sizes, dict):
        yield of_shards("sizes.json", "missing, or not JSON")
        return
    for entry in entries:
        if sizes.get(entry["name"]) != entry["samples"]:
            what = f"says {sizes.get(entry['name'])} samples of {entry['name']}, the manifest {entry['samples']}"
            yield of_shards("sizes.json", what)
    for name in sorted(sizes.keys() - {entry["name"] for entry in entries}):
        yield of_shards("sizes.json", f"names {name}, which the manifest does not have")


def _strangers(root: Place, entries: Sequence[Mapping[str, Any]]) -> Iterator[Damage]:
    """Tars and Parquet files that a reader would take for shards."""
    known = {entry[field] for entry in entries for field in ("name", "parquet")}
    for path in files_in(root, "*"):
        if path.suffix in (".tar", ".parquet") and path.name not in known:
            yield of_shards(path.name, "not in the manifest")


def _order_of_shards(entries: Sequence[Mapping[str, Any]], checked: Sequence[CheckedShard]) -> Iterator[Damage]:
    """Keys rise within each shard (checked there); here from shard to shard, so that each is unique."""
    last: int | None = None
    for entry, result in zip(entries, checked, strict=True):
        if last is not None and result.first_key is not None and result.first_key <= last:
            yield of_shards(
                entry["parquet"], f"its first key {result.first_key} is not above the last of the shard before"
            )
        last = result.last_key if result.last_key is not None else last


def _repeated_uids(files: Sequence[Place]) -> Iterator[Damage]:
    if not files:
        return
    try:
        with open_duckdb(Path(tempfile.gettempdir()) / f"openwit-verify-{os.getpid()}.spill") as database:
            use_buckets(database, files)
            rows = database.execute(
                "SELECT lower(hex(uid)), count(*), min(parse_filename(filename)) "
                f"FROM {read_parquet_sql(files)[:-1]}, filename = true) "
                f"GROUP BY uid HAVING count(*) > 1 ORDER BY uid LIMIT {MAX_PER_FILE}"
            ).fetchall()
    except duckdb.Error as error:
        yield of_shards(files[0].parent.name, f"uids cannot be compared ({one_line(error)})")
        return
    for uid, count, name in rows:
        yield of_shards(name, f"uid {uid} is there {count} times in the set")


def _ledger(output: Place) -> Iterator[Damage]:
    content = read_json(output / "ledger.json")
    if content is None:
        if (output / "ledger.json").exists():
            yield Damage(file="ledger.json", what="not JSON")
        return
    for line in content["lines"]:
        if line["rows_in"] != line["kept"] + sum(line["rejected"].values()):
            yield Damage(file="ledger.json", what=f"stage {line['stage']}: in is not kept plus rejected")
