"""shards: the pairs whose pictures are there -> published tar shards with their Parquet, in the set's order.

    FETCHED + staging tars, shard after shard --rank--> 00000.tar 00000.parquet 00000_stats.json ...

`pipeline/records/shard.py` says what a shard is. Shards differ by at most one sample in size, so that no loader
meets a short one.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.compute as pc

from pipeline.engine import Data, Info, Part, Task, apart, record_of
from pipeline.errors import DamagedFileError
from pipeline.records.schema import FETCHED
from pipeline.records.shard import ShardFiles, ranks_of, shard_name, write_shard
from pipeline.steps.fetch.facts import STORE, stored_file
from pipeline.steps.judges.survivors import Survivors
from pipeline.steps.shards_config import ShardsConfig
from pipeline.steps.step import Run, step
from pipeline.storage.checked import check, open_file, read_ranges, read_table
from pipeline.storage.location import Location
from pipeline.storage.place import Place, place_of

__all__ = ["Ranks", "WriteShard", "write_shards"]

_MAX_OPEN_TARS = 256
"""A staging shard's pictures may lie in as many tars as the set has sources; processes may hold about 1,000 files."""
_READ_BYTES = 32 << 20
"""Of pictures that are asked for together."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Some samples of a staging shard: `begin`..`end` - 1 of those that survived."""

    fetched: Location
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class WriteShard(Task[ShardFiles]):
    """A published shard, from its ranks in one or more staging shards."""

    shard: int
    samples_per_shard: int
    ranks: tuple[Ranks, ...]
    tars: str = apart()
    """The directory of the staging tars that the facts point into; the facts hold what a picture must be."""

    version = 3
    published = True

    def work(self, out: ShardFiles) -> Info:
        return write_shard(self._samples(), out, shard=self.shard, samples_per_shard=self.samples_per_shard)

    def _samples(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """(facts, picture) of the ranks; a staging shard's pictures may lie in tars of several plans."""
        with _Tars(place_of(self.tars)) as tars:
            for ranks in self.ranks:
                table = read_table(ranks.fetched).cast(FETCHED)
                table = table.filter(pc.equal(table["status"], "success")).slice(ranks.begin, ranks.end - ranks.begin)
                for rows in _by_bytes(table.to_pylist()):
                    yield from zip(rows, tars.pictures(rows), strict=True)


def _by_bytes(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """The rows in order, cut so that their pictures take about `_READ_BYTES`."""
    held, size = [], 0
    for row in rows:
        held.append(row)
        size += row["num_bytes"]
        if size >= _READ_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


class _Tars(contextlib.ExitStack):
    """The tars under the store of facts, opened as they are needed."""

    def __init__(self, store: Place) -> None:
        super().__init__()
        self._store = store
        self._opened: dict[str, BinaryIO] = {}

    def pictures(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """The picture of each row; those of a tar are asked for together. Raises DamagedFileError."""
        found: list[bytes] = [b""] * len(rows)
        places: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row["staging_tar"], []).append(place)
            if row["stored_xxh3"] is None and isinstance(self._store, Path):
                tar = self._store / row["staging_tar"]
                _check_old_tar(tar, tar.stat().st_mtime_ns)
        for name, of_tar in places.items():
            ranges = [(rows[i]["tar_offset"], rows[i]["num_bytes"], rows[i]["stored_xxh3"]) for i in of_tar]
            for place, picture in zip(of_tar, read_ranges(self._open(name), ranges), strict=True):
                found[place] = picture
        return found

    def _open(self, name: str) -> BinaryIO:
        if name not in self._opened:
            if len(self._opened) == _MAX_OPEN_TARS:
                self._opened.pop(next(iter(self._opened))).close()
            self._opened[name] = self.enter_context(open_file(stored_file(self._store, name).path))
        return self._opened[name]


@functools.lru_cache(maxsize=1024)
def _check_old_tar(tar: Path, changed_ns: int) -> None:
    """Hold a tar whose pictures have no hashes of their own, as earlier versions wrote it, against its record; once in
    a process, and again where the file was changed."""
    record = record_of(tar.parent, tar.stem)
    if record is None:
        raise DamagedFileError(str(tar), "nothing vouches for it")
    check(Location(str(tar), record.outputs[tar.name]))


@step("shards", WriteShard, title="write shards", per="shard")
def write_shards(run: Run, final: Data[Survivors], config: ShardsConfig) -> Iterator[WriteShard]:
    """One task per published shard."""
    starts = list(itertools.accumulate((int(part.info["success"]) for part in final.parts), initial=0))
    for shard, (first, last) in enumerate(ranks_of(starts[-1], config.samples_per_shard)):
        yield WriteShard(
            partition=shard_name(shard),
            shard=shard,
            samples_per_shard=config.samples_per_shard,
            ranks=tuple(_ranks_in(final.parts, starts, first, last)),
            tars=str(run.directory(STORE)),
        )


def _ranks_in(parts: Sequence[Part[Survivors]], starts: Sequence[int], first: int, last: int) -> Iterator[Ranks]:
    """Where the samples of the ranks first..last - 1 are; `starts` are the ranks at which the parts begin."""
    at = bisect.bisect_right(starts, first) - 1
    while starts[at] < last:
        begin, end = max(first, starts[at]), min(last, starts[at + 1])
        if begin < end:
            yield Ranks(fetched=parts[at].files.fetched, begin=begin - starts[at], end=end - starts[at])
        at += 1
