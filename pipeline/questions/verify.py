"""Check a published data set against itself: every tar, member, hash, row and count.

    manifest.json --sizes, sha256--> tars, Parquet --row by row--> members (header, place, picture, .json, .txt)
                  --counts---------> sizes.json, _stats.json, the manifest's own sum and fingerprint

Each damage is one line: which file, and what about it. Shards are read once, as streams; memory is bounded
by one shard's rows and one picture. A picture is held against the hash in its row; where an earlier version published
the set, there is none, and the picture is decoded: what is no picture is damage, whatever vouches for the tar.

`verify_work.py` looks at work/, `runs/repair.py` makes damaged parts again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import fingerprint
from pipeline.errors import OutputError, one_line
from pipeline.pictures.rejected import Rejected
from pipeline.records.shard import MANIFEST_VERSION, extension_of, json_of, samples_of, stats_of
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.storage.atomic import read_json, sha256_of
from pipeline.storage.checked import picture_hash
from pipeline.storage.duck import open_duckdb, read_parquet_sql
from pipeline.storage.output import check_output

__all__ = ["Damage", "Verification", "verify"]

_BLOCK = 512
_RECORD = 20 * _BLOCK
_SHARD_NAME = re.compile(r"[0-9]+\.tar")
_MAX_PER_FILE = 10
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One thing that is not as it should be."""

    file: str
    """Relative to the data set's directory."""
    what: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was checked, and what is wrong."""

    shards: int
    samples: int
    """Rows that were read."""
    num_bytes: int
    """Of tars and Parquet files that were read."""
    damages: Sequence[Damage]


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """One shard's result."""

    samples: int
    num_bytes: int
    first_key: int | None
    last_key: int | None
    readable: bool
    """Whether its Parquet can be read."""
    damages: Sequence[Damage]


def verify(output: Path, *, advance: Callable[[int], None] | None = None) -> Verification:
    """Check the published version of the data set in `output`; calls `advance(rows)` after each shard.

    Raises OutputError where `output` is no data set, or nothing is published in it.
    """
    check_output(output)
    root = output / "shards"
    if not os.path.lexists(root):
        raise OutputError(f"{output}: has no published shards yet; finish its run first")
    manifest = read_json(root / "manifest.json")
    problem = _manifest_problem(manifest)
    if problem:
        return Verification(shards=0, samples=0, num_bytes=0, damages=[_damage("manifest.json", problem)])
    entries = manifest["shards"]
    damages = list(_counts(root, manifest)) + list(_strangers(root, entries))
    checked: list[_Checked] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for result in pool.map(lambda entry: _check_shard(root, entry), entries):
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


def _damage(name: str, what: str) -> Damage:
    return Damage(file=f"shards/{name}", what=what)


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


def _counts(root: Path, manifest: Mapping[str, Any]) -> Iterator[Damage]:
    entries = manifest["shards"]
    if manifest.get("fingerprint") != fingerprint("version", entries):
        yield _damage("manifest.json", "its fingerprint is not that of its entries: it was changed")
    total = sum(entry["samples"] for entry in entries)
    if manifest.get("samples") != total:
        yield _damage("manifest.json", f"says {manifest.get('samples')} samples, its shards' sum is {total}")
    sizes = read_json(root / "sizes.json")
    if not isinstance(sizes, dict):
        yield _damage("sizes.json", "missing, or not JSON")
        return
    for entry in entries:
        if sizes.get(entry["name"]) != entry["samples"]:
            what = f"says {sizes.get(entry['name'])} samples of {entry['name']}, the manifest {entry['samples']}"
            yield _damage("sizes.json", what)
    for name in sorted(sizes.keys() - {entry["name"] for entry in entries}):
        yield _damage("sizes.json", f"names {name}, which the manifest does not have")


def _strangers(root: Path, entries: Sequence[Mapping[str, Any]]) -> Iterator[Damage]:
    """Tars and Parquet files that a reader would take for shards."""
    known = {entry[field] for entry in entries for field in ("name", "parquet")}
    for path in sorted(root.iterdir()):
        if path.suffix in (".tar", ".parquet") and path.name not in known:
            yield _damage(path.name, "not in the manifest")


def _order_of_shards(entries: Sequence[Mapping[str, Any]], checked: Sequence[_Checked]) -> Iterator[Damage]:
    """Keys rise within each shard (checked there); here from shard to shard, so that each is unique."""
    last: int | None = None
    for entry, result in zip(entries, checked, strict=True):
        if last is not None and result.first_key is not None and result.first_key <= last:
            yield _damage(
                entry["parquet"], f"its first key {result.first_key} is not above the last of the shard before"
            )
        last = result.last_key if result.last_key is not None else last


def _repeated_uids(files: Sequence[Path]) -> Iterator[Damage]:
    if not files:
        return
    try:
        with open_duckdb(Path(tempfile.gettempdir()) / f"openwit-verify-{os.getpid()}.spill") as database:
            rows = database.execute(
                "SELECT lower(hex(uid)), count(*), min(parse_filename(filename)) "
                f"FROM {read_parquet_sql(files)[:-1]}, filename = true) "
                f"GROUP BY uid HAVING count(*) > 1 ORDER BY uid LIMIT {_MAX_PER_FILE}"
            ).fetchall()
    except duckdb.Error as error:
        yield _damage(files[0].parent.name, f"uids cannot be compared ({one_line(error)})")
        return
    for uid, count, name in rows:
        yield _damage(name, f"uid {uid} is there {count} times in the set")


def _ledger(output: Path) -> Iterator[Damage]:
    content = read_json(output / "ledger.json")
    if content is None:
        if (output / "ledger.json").exists():
            yield Damage(file="ledger.json", what="not JSON")
        return
    for line in content["lines"]:
        if line["rows_in"] != line["kept"] + sum(line["rejected"].values()):
            yield Damage(file="ledger.json", what=f"stage {line['stage']}: in is not kept plus rejected")


# --- one shard ----------------------------------------------------------------------------------


def _check_shard(root: Path, entry: Mapping[str, Any]) -> _Checked:
    damages: list[Damage] = []
    num_bytes = 0
    for name, sha256, size in (
        (entry["name"], entry["sha256"], entry["bytes"]),
        (entry["parquet"], entry["parquet_sha256"], None),
    ):
        try:
            actual = (root / name).stat().st_size
            num_bytes += actual
            if size is not None and actual != size:
                damages.append(_damage(name, f"{actual} bytes, the manifest says {size}"))
            elif sha256_of(root / name) != sha256:
                damages.append(_damage(name, "its sha256 is not the manifest's"))
        except OSError as error:
            damages.append(_damage(name, f"cannot be read ({error.strerror})"))
    try:
        table = pq.read_table(root / entry["parquet"], partitioning=None, page_checksum_verification=True)
        rows = samples_of(table)
    except (OSError, pa.ArrowException, ValueError) as error:
        if (root / entry["parquet"]).exists():
            damages.append(_damage(entry["parquet"], f"its rows cannot be read ({one_line(error)})"))
        return _Checked(samples=0, num_bytes=num_bytes, first_key=None, last_key=None, readable=False, damages=damages)
    if rows.num_rows != entry["samples"]:
        damages.append(_damage(entry["parquet"], f"{rows.num_rows} rows, the manifest says {entry['samples']} samples"))
    damages += _first(_rows(entry, rows))
    damages += _stats(root, entry)
    if (root / entry["name"]).exists():
        damages += _first(
            _damage(entry["name"], what) for what in _members(root / entry["name"], rows.select(table.column_names))
        )
    keys = [int(key) for key in (rows["key"][0].as_py(), rows["key"][-1].as_py()) if key.isdigit()] if len(rows) else []
    return _Checked(
        samples=rows.num_rows,
        num_bytes=num_bytes,
        first_key=keys[0] if keys else None,
        last_key=keys[-1] if keys else None,
        readable=True,
        damages=damages,
    )


def _first(damages: Iterator[Damage]) -> Iterator[Damage]:
    """The first few of a file's damages, and how many more there are."""
    more = 0
    last = None
    for number, last in enumerate(damages, start=1):
        if number <= _MAX_PER_FILE:
            yield last
        else:
            more += 1
    if more and last is not None:
        yield Damage(file=last.file, what=f"and {more} more of the kind")


def _stats(root: Path, entry: Mapping[str, Any]) -> Iterator[Damage]:
    name = entry["name"].removesuffix(".tar") + "_stats.json"
    stats = read_json(root / name)
    if not isinstance(stats, dict):
        yield _damage(name, "missing, or not JSON")
    elif stats.get("successes") != entry["samples"]:
        yield _damage(name, f"says {stats.get('successes')} samples, the manifest {entry['samples']}")
    elif stats != stats_of(entry["samples"]):
        yield _damage(name, "says something else than was written")


def _rows(entry: Mapping[str, Any], rows: pa.Table) -> Iterator[Damage]:
    """What a row must be for itself, whatever the tar says."""
    shard = int(entry["name"].removesuffix(".tar"))
    before = -1
    columns = ("key", "sha256", "shard", "status", "query_ids", "selected_by")
    for number, row in enumerate(rows.select(columns).to_pylist()):
        key = row["key"]
        if not key.isdigit() or int(key) <= before:
            yield _damage(entry["parquet"], f"row {number}: key {key} is not above the one before")
        else:
            before = int(key)
        if not _HEX64.fullmatch(row["sha256"] or ""):
            yield _damage(entry["parquet"], f"row {number}: sha256 is not 64 hex digits")
        if row["shard"] != shard:
            yield _damage(entry["parquet"], f"row {number}: says it is of shard {row['shard']}")
        if row["status"] != "success":
            yield _damage(entry["parquet"], f"row {number}: its status is {row['status']}")
        if not set(row["selected_by"]) <= set(row["query_ids"]):
            yield _damage(entry["parquet"], f"row {number}: selected by a query that it does not contain")


_ANY_PICTURE = ImageConfig(min_side=1, max_aspect_ratio=0.0, max_pixels=2**31)


def _members(path: Path, rows: pa.Table) -> Iterator[str]:
    """Compare the tar with what its rows say, from the first byte to the last."""
    position = 0
    with path.open("rb") as file, contextlib.ExitStack() as stack:
        checker = None
        if "stored_xxh3" not in rows.column_names:
            checker = stack.enter_context(IsolatedChecker(_ANY_PICTURE))
        for batch in rows.to_batches(max_chunksize=1024):
            for row in batch.to_pylist():
                key, size = row["key"], row["num_bytes"]
                if row["tar_offset"] != position + _BLOCK or size < 0:
                    turn = position + _BLOCK
                    yield f"sample {key}: its row puts the picture at {row['tar_offset']}, its turn is at {turn}"
                    return
                header, image = file.read(_BLOCK), file.read(size)
                file.seek(-size % _BLOCK, os.SEEK_CUR)
                name = f"{key}.{extension_of(image)}"
                if len(image) != size:
                    yield f"ends inside sample {key}"
                    return
                if problem := _picture_problem(image, row.get("stored_xxh3"), checker):
                    yield f"sample {key}: {problem}"
                if header != _header(name, size):
                    yield f"sample {key}: {_instead(header)} where the header of {name} ({size} bytes) should be"
                    return
                position += _BLOCK + size + -size % _BLOCK
                for kind, expected in (("json", json_of(row)), ("txt", row["caption"].encode())):
                    problem, used = _text_member(file, f"{key}.{kind}", expected)
                    if problem:
                        yield f"sample {key}: {problem}"
                    if not used:
                        return
                    position += used
        yield from _end(file, position)


def _picture_problem(image: bytes, digest: bytes | None, checker: IsolatedChecker | None) -> str | None:
    """Why these are not the bytes that were stored or, where only a `checker` can tell, of any picture."""
    if checker is None:
        return None if picture_hash(image) == digest else "the picture's bytes are not those that were stored"
    (checked,) = checker.check([image])
    if not isinstance(checked, Rejected):
        return None
    return f"its picture is none ({checked.reason}: {checked.detail})"


def _text_member(file: BinaryIO, name: str, expected: bytes) -> tuple[str | None, int]:
    """(what is wrong, bytes that the member takes): 0 bytes where what follows cannot be found."""
    header = file.read(_BLOCK)
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return f"{_instead(header)} where the header of {name} should be", 0
    if member.name != name or header != _header(name, member.size):
        return f"{_instead(header)} where the header of {name} should be", 0
    content = file.read(member.size)
    file.seek(-member.size % _BLOCK, os.SEEK_CUR)
    if len(content) != member.size:
        return f"the tar ends inside {name}", 0
    return (
        None if _same(name, content, expected) else f"{name} differs from its row",
        _BLOCK + member.size + -member.size % _BLOCK,
    )


def _same(name: str, content: bytes, expected: bytes) -> bool:
    if content == expected:
        return True
    if not name.endswith(".json"):
        return False
    try:  # another order of keys or another spelling of a number is the same row
        return bool(json.loads(content) == json.loads(expected))
    except ValueError:
        return False


def _header(name: str, size: int) -> bytes:
    """The one header that a member of this name and size may have (pipeline/storage/tar.py)."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


def _instead(header: bytes) -> str:
    """What stands where another header was expected."""
    if len(header) < _BLOCK:
        return "the file's end"
    if not header.strip(b"\0"):
        return "nothing"
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return "no header"
    return f"the header of {member.name!r} ({member.size} bytes, mode {member.mode:o}, time {member.mtime})"


def _end(file: BinaryIO, position: int) -> Iterator[str]:
    """Two zero blocks and padding to a whole record, nothing after."""
    file.seek(position)
    rest = file.read(2 * _RECORD)
    expected = 2 * _BLOCK + -(position + 2 * _BLOCK) % _RECORD
    if rest.strip(b"\0"):
        yield f"holds more than its rows: {_instead(rest[:_BLOCK])} at byte {position}"
    elif len(rest) != expected:
        yield f"ends with {len(rest)} zero bytes, {expected} expected"
