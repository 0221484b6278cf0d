"""shards: the pairs whose pictures are there -> published tar shards with their Parquet, in the set's order.

    FETCHED + staging tars, shard after shard --rank--> 00000.tar 00000.parquet 00000_stats.json ...

`pipeline/records/shard.py` says what a shard is. Shards differ by at most one sample in size, so that no loader
meets a short one.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine import Data, Info, Part, Task, apart
from pipeline.records.earlier import as_now
from pipeline.records.schema import FETCHED
from pipeline.records.shard import ShardFiles, ranks_of, shard_name, write_shard
from pipeline.steps.fetch.facts import STORE
from pipeline.steps.fetch.pictures import Pictures, Published, by_bytes
from pipeline.steps.judges.survivors import Survivors
from pipeline.steps.shards_config import ShardsConfig
from pipeline.steps.step import Run, step
from pipeline.storage.checked import read_table
from pipeline.storage.location import Location
from pipeline.storage.place import place_of
from pipeline.watching import counting

__all__ = ["Ranks", "WriteShard", "write_shards"]


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Some samples of a staging shard: `begin`..`end` - 1 of those that survived."""

    fetched: Location
    begin: int
    end: int

    def samples(self, columns: Sequence[str] = tuple(FETCHED.names)) -> list[dict[str, Any]]:
        """Their rows of FETCHED, whole or some `columns`. Raises DamagedFileError."""
        wanted = [*columns, *([] if "status" in columns else ["status"])]
        table = read_table(self.fetched, None if wanted == FETCHED.names else wanted)
        table = table.filter(pc.equal(table["status"], "success")).slice(self.begin, self.end - self.begin)
        schema = pa.schema([FETCHED.field(name) for name in columns])
        rows: list[dict[str, Any]] = as_now(
            table.select([name for name in columns if name in table.column_names]), schema
        ).to_pylist()
        return rows


@dataclass(frozen=True, kw_only=True)
class WriteShard(Task[ShardFiles]):
    """A published shard, from its ranks in one or more staging shards."""

    shard: int
    samples_per_shard: int
    ranks: tuple[Ranks, ...]
    tars: str = apart()
    """The directory of the staging tars that the facts point into; the facts hold what a picture must be."""
    before: Published = apart()
    """The version before this one, where some of the pictures lie alone."""

    version = 3
    published = True

    def work(self, out: ShardFiles) -> Info:
        return write_shard(self._samples(), out, shard=self.shard, samples_per_shard=self.samples_per_shard)

    def _samples(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """(facts, picture) of the ranks; a staging shard's pictures may lie in tars of several plans."""
        tally = counting("picture", total=sum(ranks.end - ranks.begin for ranks in self.ranks))
        with Pictures(place_of(self.tars), self.before) as pictures:
            for ranks in self.ranks:
                for rows in by_bytes(ranks.samples()):
                    found = pictures.read(rows)
                    tally.done += len(found)
                    tally.num_bytes += sum(map(len, found))
                    yield from zip(rows, found, strict=True)


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
            before=Published(shards=str(run.output / "shards"), seed=run.seed),
        )


def _ranks_in(parts: Sequence[Part[Survivors]], starts: Sequence[int], first: int, last: int) -> Iterator[Ranks]:
    """Where the samples of the ranks first..last - 1 are; `starts` are the ranks at which the parts begin."""
    at = bisect.bisect_right(starts, first) - 1
    while starts[at] < last:
        begin, end = max(first, starts[at]), min(last, starts[at + 1])
        if begin < end:
            yield Ranks(fetched=parts[at].files.fetched, begin=begin - starts[at], end=end - starts[at])
        at += 1
