"""Check a shard against itself and its manifest's entry: its tar, its Parquet, its counts.

    00000.parquet --row by row--> 00000.tar: header, place, picture, .json, .txt of each     both --sha256--> entry

The tar is read once, from its first byte to its last, hashed as it passes; the Parquet is held in memory, with one
picture. A picture is held against the hash in its row; where an earlier version published the set, there is none, and
the picture is decoded: what is no picture is damage, whatever vouches for the tar.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import one_line
from pipeline.pictures.rejected import Rejected
from pipeline.records.shard import REMOVED_MEMBER, extension_of, json_of, samples_of, stats_of
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.check_image.isolate import IsolatedChecker
from pipeline.storage.atomic import read_json
from pipeline.storage.checked import picture_hash
from pipeline.storage.place import Place, pieces_of
from pipeline.storage.store_client import StoreError

__all__ = ["MAX_PER_FILE", "CheckedShard", "Damage", "Passing", "check_shard", "members", "of_shards"]

_BLOCK = 512
_RECORD = 20 * _BLOCK
MAX_PER_FILE = 10
"""Damages of one kind that are told of a file; of the others their number."""
_OTHER_BYTES = "its sha256 is not the manifest's"
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One thing that is not as it should be."""

    file: str
    """Relative to the data set's directory."""
    what: str


@dataclass(frozen=True, kw_only=True)
class CheckedShard:
    """One shard's result."""

    samples: int
    num_bytes: int
    first_key: int | None
    last_key: int | None
    readable: bool
    """Whether its Parquet can be read."""
    damages: Sequence[Damage]


class Passing:
    """A file that is read straight ahead, once, and hashed as it passes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0  # in the piece
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        """That have passed or are in sight."""

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the file's end. Raises OSError as the file does."""
        found = []
        while size > 0:
            if self._at == len(self._piece):
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._hash.update(piece)
                self.num_bytes += len(piece)
                self._piece, self._at = piece, 0
            part = self._piece[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            found.append(part)
        return found[0] if len(found) == 1 else b"".join(found)

    def sha256(self) -> str:
        """Of the whole file, of which the rest passes now."""
        for piece in self._pieces:
            self._hash.update(piece)
            self.num_bytes += len(piece)
        return self._hash.hexdigest()


def of_shards(name: str, what: str) -> Damage:
    """A damage of the published version."""
    return Damage(file=f"shards/{name}", what=what)


def check_shard(root: Place, entry: Mapping[str, Any]) -> CheckedShard:
    """Hold the shard of a manifest's `entry` in the version at `root` against itself.

    Raises StoreError where a store refuses or does not answer.
    """
    about_parquet, table, num_bytes = _read_parquet(root, entry)
    about_tar, inside, tar_bytes = _read_tar(root, entry, table)
    damages, num_bytes = [*about_tar, *about_parquet], num_bytes + tar_bytes
    if table is None:
        return CheckedShard(
            samples=0, num_bytes=num_bytes, first_key=None, last_key=None, readable=False, damages=damages
        )
    rows = samples_of(table)
    if rows.num_rows != entry["samples"]:
        what = f"{rows.num_rows} rows, the manifest says {entry['samples']} samples"
        damages.append(of_shards(entry["parquet"], what))
    damages += _first(_rows(entry, rows))
    damages += _stats(root, entry)
    damages += inside
    keys = [int(key) for key in (rows["key"][0].as_py(), rows["key"][-1].as_py()) if key.isdigit()] if len(rows) else []
    return CheckedShard(
        samples=rows.num_rows,
        num_bytes=num_bytes,
        first_key=keys[0] if keys else None,
        last_key=keys[-1] if keys else None,
        readable=True,
        damages=damages,
    )


def _read_parquet(root: Place, entry: Mapping[str, Any]) -> tuple[list[Damage], pa.Table | None, int]:
    """What is wrong with the file, its columns as they were written (None where they are no samples), its bytes."""
    name = entry["parquet"]
    try:
        content = (root / name).read_bytes()
    except StoreError:
        raise
    except OSError as error:
        return [_unreadable(name, error)], None, 0
    damages = []
    if hashlib.sha256(content).hexdigest() != entry["parquet_sha256"]:
        damages.append(of_shards(name, _OTHER_BYTES))
    try:
        table = pq.read_table(pa.BufferReader(content), partitioning=None, page_checksum_verification=True)
        samples_of(table)
    except (OSError, pa.ArrowException, ValueError) as error:
        damages.append(of_shards(name, f"its rows cannot be read ({one_line(error)})"))
        return damages, None, len(content)
    return damages, table, len(content)


def _read_tar(root: Place, entry: Mapping[str, Any], table: pa.Table | None) -> tuple[list[Damage], list[Damage], int]:
    """What is wrong with the file as a whole, what with its members (where the rows are known), its bytes."""
    name = entry["name"]
    tar, inside = Passing(pieces_of(root / name)), list[Damage]()
    try:
        if table is not None:
            rows = samples_of(table).select(table.column_names)
            inside += _first(of_shards(name, what) for what in members(tar, rows))
        sha256 = tar.sha256()
    except StoreError:
        raise
    except OSError as error:
        return [_unreadable(name, error)], inside, tar.num_bytes
    if tar.num_bytes != entry["bytes"]:
        what = f"{tar.num_bytes} bytes, the manifest says {entry['bytes']}"
        return [of_shards(name, what)], inside, tar.num_bytes
    return [] if sha256 == entry["sha256"] else [of_shards(name, _OTHER_BYTES)], inside, tar.num_bytes


def _unreadable(name: str, error: OSError) -> Damage:
    return of_shards(name, f"cannot be read ({error.strerror})")


def _first(damages: Iterator[Damage]) -> Iterator[Damage]:
    """The first few of a file's damages, and how many more there are."""
    more = 0
    last = None
    for number, last in enumerate(damages, start=1):
        if number <= MAX_PER_FILE:
            yield last
        else:
            more += 1
    if more and last is not None:
        yield Damage(file=last.file, what=f"and {more} more of the kind")


def _stats(root: Place, entry: Mapping[str, Any]) -> Iterator[Damage]:
    name = entry["name"].removesuffix(".tar") + "_stats.json"
    stats = read_json(root / name)
    if not isinstance(stats, dict):
        yield of_shards(name, "missing, or not JSON")
    elif stats.get("successes") != entry["samples"]:
        yield of_shards(name, f"says {stats.get('successes')} samples, the manifest {entry['samples']}")
    elif stats != stats_of(entry["samples"]):
        yield of_shards(name, "says something else than was written")


def _rows(entry: Mapping[str, Any], rows: pa.Table) -> Iterator[Damage]:
    """What a row must be for itself, whatever the tar says."""
    shard = int(entry["name"].removesuffix(".tar"))
    before = -1
    columns = ("key", "sha256", "shard", "status", "query_ids", "selected_by")
    for number, row in enumerate(rows.select(columns).to_pylist()):
        key = row["key"]
        if not key.isdigit() or int(key) <= before:
            yield of_shards(entry["parquet"], f"row {number}: key {key} is not above the one before")
        else:
            before = int(key)
        if not _HEX64.fullmatch(row["sha256"] or ""):
            yield of_shards(entry["parquet"], f"row {number}: sha256 is not 64 hex digits")
        if row["shard"] != shard:
            yield of_shards(entry["parquet"], f"row {number}: says it is of shard {row['shard']}")
        if row["status"] != "success":
            yield of_shards(entry["parquet"], f"row {number}: its status is {row['status']}")
        if not set(row["selected_by"]) <= set(row["query_ids"]):
            yield of_shards(entry["parquet"], f"row {number}: selected by a query that it does not contain")


_REMOVED = REMOVED_MEMBER.encode() + b"\0"
_ANY_PICTURE = ImageConfig(min_side=1, max_aspect_ratio=0.0, max_pixels=2**31)


def members(tar: Passing, rows: pa.Table) -> Iterator[str]:
    """Compare a tar with what its rows say, from the first byte to the last; what is wrong, a line each."""
    position = 0
    with contextlib.ExitStack() as stack:
        checker = None
        if "stored_xxh3" not in rows.column_names:
            checker = stack.enter_context(IsolatedChecker(_ANY_PICTURE))
        for batch in rows.to_batches(max_chunksize=1024):
            for row in batch.to_pylist():
                key, size = row["key"], row["num_bytes"]
                header, removed, problem = _over_removed(tar)
                position += removed
                if problem is not None:
                    yield f"before sample {key}: {problem}"
                if row["tar_offset"] != position + _BLOCK or size < 0:
                    turn = position + _BLOCK
                    yield f"sample {key}: its row puts the picture at {row['tar_offset']}, its turn is at {turn}"
                    return
                image = tar.read(size)
                tar.read(-size % _BLOCK)
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
                    problem, used = _text_member(tar, f"{key}.{kind}", expected)
                    if problem:
                        yield f"sample {key}: {problem}"
                    if not used:
                        return
                    position += used
        header, removed, problem = _over_removed(tar)
        if problem is not None:
            yield f"behind its last sample: {problem}"
        yield from _end(header, tar, position + removed)


def _over_removed(tar: Passing) -> tuple[bytes, int, str | None]:
    """(the next header that is not of a removed sample, bytes of those passed over, what is wrong with one of them)."""
    passed, problem = 0, None
    while (header := tar.read(_BLOCK)).startswith(_REMOVED):
        try:
            size = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
        except tarfile.TarError:
            return header, passed, problem
        if header != _header(REMOVED_MEMBER, size):
            return header, passed, problem
        content = tar.read(size + -size % _BLOCK)
        if content.count(0) != len(content):
            problem = f"the removed sample at byte {passed} behind the one before still has content"
        passed += _BLOCK + size + -size % _BLOCK
    return header, passed, problem


def _picture_problem(image: bytes, digest: bytes | None, checker: IsolatedChecker | None) -> str | None:
    """Why these are not the bytes that were stored or, where only a `checker` can tell, of any picture."""
    if checker is None:
        return None if picture_hash(image) == digest else "the picture's bytes are not those that were stored"
    (checked,) = checker.check([image])
    if not isinstance(checked, Rejected):
        return None
    return f"its picture is none ({checked.reason}: {checked.detail})"


def _text_member(tar: Passing, name: str, expected: bytes) -> tuple[str | None, int]:
    """(what is wrong, bytes that the member takes): 0 bytes where what follows cannot be found."""
    header = tar.read(_BLOCK)
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return f"{_instead(header)} where the header of {name} should be", 0
    if member.name != name or header != _header(name, member.size):
        return f"{_instead(header)} where the header of {name} should be", 0
    content = tar.read(member.size)
    tar.read(-member.size % _BLOCK)
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


def _end(header: bytes, tar: Passing, position: int) -> Iterator[str]:
    """Two zero blocks and padding to a whole record, nothing after; `header` is the first of them."""
    rest = header + tar.read(2 * _RECORD)
    expected = 2 * _BLOCK + -(position + 2 * _BLOCK) % _RECORD
    if rest.strip(b"\0"):
        yield f"holds more than its rows: {_instead(rest[:_BLOCK])} at byte {position}"
    elif len(rest) != expected:
        yield f"ends with {len(rest)} zero bytes, {expected} expected"
