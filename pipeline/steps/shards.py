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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.compute as pc

from pipeline.engine import Data, Info, Part, Task, apart, record_of
from pipeline.errors import DamagedFileError
from pipeline.records.schema import FETCHED
from pipeline.records.shard import ShardFiles, ranks_of, shard_name, write_shard
from pipeline.steps.fetch.facts import STORE
from pipeline.steps.judges.survivors import Survivors
from pipeline.steps.shards_config import ShardsConfig
from pipeline.steps.step import Run, step
from pipeline.storage.checked import check, open_file, read_range, read_table
from pipeline.storage.location import Location

__all__ = ["Ranks", "WriteShard", "write_shards"]

_MAX_OPEN_TARS = 256
"""A staging shard's pictures may lie in as many tars as the set has sources; processes may hold about 1,000 files."""


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
        tars = Path(self.tars)
        with contextlib.ExitStack() as stack:
            opened: dict[str, BinaryIO] = {}
            for ranks in self.ranks:
                table = read_table(ranks.fetched).cast(FETCHED)
                table = table.filter(pc.equal(table["status"], "success")).slice(ranks.begin, ranks.end - ranks.begin)
                for row in table.to_pylist():
                    name = row["staging_tar"]
                    if name not in opened:
                        if len(opened) == _MAX_OPEN_TARS:
                            opened.pop(next(iter(opened))).close()
                        opened[name] = stack.enter_context(open_file(tars / name))
                    if row["stored_xxh3"] is None:
                        _check_old_tar(tars / name, (tars / name).stat().st_mtime_ns)
                    yield row, read_range(opened[name], row["tar_offset"], row["num_bytes"], row["stored_xxh3"])


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
