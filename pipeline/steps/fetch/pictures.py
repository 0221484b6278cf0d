"""Pictures by what the facts say of them: from the staging tars, or from the published version.

    FACTS or FETCHED rows --staging_tar, tar_offset--> work/fetch/NAME.tar
                          --url_id, stored_xxh3------> OUT/shards/00000.tar     where the room there was given back

A picture of a published sample lies in its shard, and its room in the staging tar may be given back
(`runs/give_back.py`). Nothing need note which: what is read is held against its hash, and what does not fit is looked
for in the published version.
"""

from __future__ import annotations

import contextlib
import functools
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from pipeline.engine import Done, record_of
from pipeline.errors import DamagedFileError
from pipeline.records.identity import first_64_bits, keyed_hash
from pipeline.steps.fetch.facts import STORED, answers_of, read_facts, stored_file
from pipeline.storage.atomic import read_json
from pipeline.storage.checked import check, least_value, open_file, picture_hash, read_part, read_ranges
from pipeline.storage.location import Location
from pipeline.storage.place import Place, place_of

__all__ = ["RELEASED", "Pictures", "Published", "by_bytes", "grouped", "pictures_of", "released_with"]

RELEASED = "work/released"
"""Where an output notes which pictures lie in its published version alone, under VERSION-SEED/."""
_MAX_OPEN_TARS = 256
"""A staging shard's pictures may lie in as many tars as the set has sources; processes may hold about 1,000 files."""
_EVERY_ORDER = (0, (1 << 64) - 1)
_READ_BYTES = 32 << 20
"""Of pictures that are asked for together."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Where the pictures of the published version lie, whose shards are in the order of (seed, `url_id`)."""

    shards: str
    """Their directory; it need not be there."""
    seed: int

    def find(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, tuple[str, int]]:
        """Index of a row -> tar and offset, of those (`url_id`, `stored_xxh3`) that are published."""
        if not (rows and self._names):
            return {}
        orders = keyed_hash(self.seed, first_64_bits(b"".join(row["url_id"] for row in rows)))
        wanted: dict[tuple[bytes, bytes], list[int]] = {}
        for index, row in enumerate(rows):
            wanted.setdefault((row["url_id"], row["stored_xxh3"]), []).append(index)
        found: dict[int, tuple[str, int]] = {}
        for name, least, most in self._holding(np.sort(orders)):
            within = [("order", ">=", least), ("order", "<=", most)]
            try:
                table = read_part(self._parquet(name), within, ["url_id", "stored_xxh3", "tar_offset"])
            except DamagedFileError:  # `verify` names it
                self._unreadable.add(name)
                continue
            for url_id, digest, offset in zip(*(column.to_pylist() for column in table.columns), strict=True):
                for index in wanted.get((url_id, digest), ()):
                    found[index] = (f"{self.shards}/{name}.tar", offset)
        lost = [index for index in range(len(rows)) if index not in found]
        for name in sorted(self._unreadable) if lost else ():
            places = self._places_by_hash(name)
            lying = ((index, places.get(rows[index]["stored_xxh3"])) for index in lost)
            found |= {index: (f"{self.shards}/{name}.tar", place) for index, place in lying if place is not None}
        return found

    def read(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
        """The picture of each row from its shard; None where it is not published, or not whole there."""
        found: list[bytes | None] = [None] * len(rows)
        places = {i: {**rows[i], "tar": tar, "tar_offset": at} for i, (tar, at) in self.find(rows).items()}
        for tar, group in grouped(places, "tar").items():
            with contextlib.suppress(DamagedFileError), open_file(tar) as file:
                for index, picture in _read(file, group):
                    found[index] = picture
        return found

    def _holding(self, orders: np.ndarray[Any, np.dtype[np.uint64]]) -> Iterator[tuple[str, pa.Scalar, pa.Scalar]]:
        """The shards that may hold some of the sorted `orders`, with the first and the last of these."""
        shard = self._shard_of(int(orders[0]))
        begin = 0
        while begin < len(orders):
            after = self._first(shard + 1)
            end = len(orders) if after is None else int(np.searchsorted(orders, np.uint64(after), side="left"))
            if end > begin:
                least, most = (pa.scalar(int(orders[i]), pa.uint64()) for i in (begin, end - 1))
                yield self._names[shard], least, most
            begin, shard = end, shard + 1

    def _shard_of(self, order: int) -> int:
        """The last shard that begins at or before `order`, or the first of all."""
        low, high = 0, len(self._names)
        while high - low > 1:
            middle = (low + high) // 2
            first = self._first(middle)
            low, high = (middle, high) if first is not None and first <= order else (low, middle)
        return low

    def _first(self, shard: int) -> int | None:
        """The least `order` of a shard, or of the next one that can be read; None behind the last."""
        if shard >= len(self._names):
            return None
        if shard not in self._firsts:
            try:
                self._firsts[shard] = least_value(self._parquet(self._names[shard]), "order")
            except DamagedFileError:
                self._unreadable.add(self._names[shard])
                self._firsts[shard] = self._first(shard + 1)
        return self._firsts[shard]

    def _places_by_hash(self, name: str) -> Mapping[bytes, int]:
        """Hash of a picture -> its offset, of a shard whose tar alone can be read, as far as it can."""
        if name not in self._scanned:
            places = self._scanned[name] = {}
            with (
                contextlib.suppress(DamagedFileError, tarfile.TarError),
                open_file(f"{self.shards}/{name}.tar") as file,
                tarfile.open(fileobj=file, mode="r|") as members,
            ):
                for member in members:
                    members.members = []  # type: ignore[attr-defined]  # or it remembers every member
                    if member.isreg() and not member.name.endswith((".json", ".txt")):
                        picture = members.extractfile(member)
                        assert picture is not None  # a regular member
                        places[picture_hash(picture.read())] = member.offset_data
        return self._scanned[name]

    def _parquet(self, name: str) -> Location:
        """Nobody vouches for it here: a picture is held against its hash."""
        return Location(f"{self.shards}/{name}.parquet")

    @functools.cached_property
    def _firsts(self) -> dict[int, int | None]:
        return {}

    @functools.cached_property
    def _unreadable(self) -> set[str]:
        """Shards that were met whose Parquet cannot be read."""
        return set()

    @functools.cached_property
    def _scanned(self) -> dict[str, dict[bytes, int]]:
        return {}

    @functools.cached_property
    def _names(self) -> Sequence[str]:
        manifest = read_json(place_of(self.shards) / "manifest.json")
        try:
            shards = [shard for shard in manifest["shards"] if "added" not in shard]  # in no order
            return [shard["parquet"].removesuffix(".parquet") for shard in shards]
        except (KeyError, TypeError, AttributeError):
            return []  # none is published, or nothing says which


def released_with(output: Place) -> int | None:
    """The seed of the version that alone has some pictures of the data set; None where the staging tars have all."""
    directory = output / RELEASED
    if isinstance(directory, Path) and not directory.is_dir():
        return None
    versions = (version for version in directory.iterdir() if list(version.glob("*.parquet")))
    return next((int(version.name.partition("-")[2]) for version in versions), None)


class Pictures(contextlib.ExitStack):
    """The tars that hold pictures, opened as they are needed."""

    def __init__(self, store: Place, published: Published) -> None:
        super().__init__()
        self._store = store
        self._published = published
        self._opened: dict[str, BinaryIO] = {}

    def read(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """The picture of each row; those of a tar are asked for together. Raises DamagedFileError, of the staging tar,
        where one is nowhere whole."""
        found = self.find(rows)
        for row, picture in zip(rows, found, strict=True):
            if picture is None:
                path = stored_file(self._store, row["staging_tar"]).path
                what = f"the {row['num_bytes']} bytes at {row['tar_offset']} are not those that were written"
                raise DamagedFileError(path, what)
        return [picture for picture in found if picture is not None]

    def find(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
        """The picture of each row; None where it is nowhere whole."""
        found = self.staged(rows)
        lost = [index for index, picture in enumerate(found) if picture is None and rows[index]["stored_xxh3"]]
        for index, picture in zip(lost, self._published.read([rows[index] for index in lost]), strict=True):
            found[index] = picture
        return found

    def staged(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
        """The picture of each row from its staging tar; None where it is not whole there."""
        found: list[bytes | None] = [None] * len(rows)
        for name, group in grouped(dict(enumerate(rows)), "staging_tar").items():
            try:
                file = self._open(name)
            except DamagedFileError:
                continue
            if any(row["stored_xxh3"] is None for row in group.values()) and isinstance(self._store, Path):
                tar = self._store / name
                _check_old_tar(tar, tar.stat().st_mtime_ns)
            for index, picture in _read(file, group):
                found[index] = picture
        return found

    def _open(self, name: str) -> BinaryIO:
        if name not in self._opened:
            if len(self._opened) == _MAX_OPEN_TARS:
                self._opened.pop(next(iter(self._opened))).close()
            self._opened[name] = self.enter_context(open_file(stored_file(self._store, name).path))
        return self._opened[name]


def pictures_of(record: Done, directory: Place, store: Place) -> list[dict[str, Any]]:
    """The facts of a fetch or import task that have a picture, with its `staging_tar`; none of another task's record.
    Raises DamagedFileError."""
    answers = answers_of(record, directory)
    if answers is None:
        return []
    tar = answers.tar.name if directory == store else f"{directory.name}/{answers.tar.name}"
    rows = read_facts(answers.facts, _EVERY_ORDER, STORED.names).to_pylist()
    return [row | {"staging_tar": tar} for row in rows if row["status"] == "success"]


def by_bytes(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """The rows in order, cut so that their pictures take about 32 MiB."""
    held, size = [], 0
    for row in rows:
        held.append(row)
        size += row["num_bytes"]
        if size >= _READ_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def grouped(rows: Mapping[int, Mapping[str, Any]], column: str) -> dict[str, dict[int, Mapping[str, Any]]]:
    """The rows, with their numbers, by a column, such as the tar that they lie in."""
    groups: dict[str, dict[int, Mapping[str, Any]]] = {}
    for index, row in rows.items():
        groups.setdefault(row[column], {})[index] = row
    return groups


def _read(file: BinaryIO, rows: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[int, bytes]]:
    """(index, picture) of those rows whose picture is whole at their `tar_offset`."""
    ranges = {index: (row["tar_offset"], row["num_bytes"], None) for index, row in rows.items()}
    try:
        read = dict(zip(ranges, read_ranges(file, list(ranges.values())), strict=True))
    except DamagedFileError:  # the file ends early, or the disk cannot read a part of it
        read = {}
        for index, one in ranges.items():
            with contextlib.suppress(DamagedFileError):
                (read[index],) = read_ranges(file, [one])
    for index, picture in read.items():
        digest = rows[index]["stored_xxh3"]
        if digest is None or picture_hash(picture) == digest:
            yield index, picture


@functools.lru_cache(maxsize=1024)
def _check_old_tar(tar: Path, changed_ns: int) -> None:
    """Hold a tar whose pictures have no hashes of their own, as earlier versions wrote it, against its record; once in
    a process, and again where the file was changed."""
    record = record_of(tar.parent, tar.stem)
    if record is None:
        raise DamagedFileError(str(tar), "nothing vouches for it")
    check(Location(str(tar), record.outputs[tar.name]))
