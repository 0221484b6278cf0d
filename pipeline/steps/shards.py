"""finalise: the pairs whose pictures are there -> published tar shards with their Parquet, in the set's order.

    FETCHED + staging tars, shard after shard --rank--> 00000.tar 00000.parquet 00000_stats.json ...

`pipeline/shard.py` says what a shard is. Shards differ by at most one sample in size, so that no loader
meets a short one.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.compute as pc

from pipeline.checked import Vouched, check, open_file, read_range, read_table
from pipeline.engine import Done, Task, digest_in, read_record
from pipeline.errors import DamagedFileError
from pipeline.schema import FETCHED
from pipeline.shard import ranks_of, shard_name, shard_outputs, write_shard
from pipeline.steps.shards_config import ShardsConfig
from pipeline.steps.step import Step, key_of

__all__ = ["VERSION", "ShardsConfig", "plan"]

VERSION = "shards-3"
_MAX_OPEN_TARS = 256
"""A staging shard's pictures may lie in as many tars as the set has sources; processes may hold about 1,000 files."""


def plan(fetched: Sequence[Done], directory: Path, config: ShardsConfig, *, tars: Path) -> Step:
    """One task per published shard; it reads its ranks from one or more staging shards.

    `tars` is the directory of the staging tars that the facts point into.
    """
    starts = list(itertools.accumulate((int(record.info["success"]) for record in fetched), initial=0))
    tasks = []
    for shard, (first, last) in enumerate(ranks_of(starts[-1], config.samples_per_shard)):
        parts, inputs = [], []
        at = bisect.bisect_right(starts, first) - 1
        while starts[at] < last:
            begin, end = max(first, starts[at]), min(last, starts[at + 1])
            if begin < end:
                facts = fetched[at].file(directory, "fetched")
                part = {"facts": facts, "begin": begin - starts[at], "end": end - starts[at]}
                parts.append(part)
                inputs.append(fetched[at])
            at += 1
        arguments = {
            "shard": shard,
            "samples_per_shard": config.samples_per_shard,
            "parts": parts,
            "tars": str(tars),
        }
        ranks = [(part["begin"], part["end"]) for part in parts]
        tasks.append(
            Task(
                partition=shard_name(shard),
                work=_work,
                arguments=arguments,
                outputs=shard_outputs(shard),
                published=True,
                key=key_of(VERSION, inputs, shard, config.samples_per_shard, ranks),
            )
        )
    return Step(name="shards", title="write shards", tasks=tasks)


def _survivors(parts: Sequence[Mapping[str, Any]], tars: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(facts, image bytes) of the task's ranks; a staging shard's pictures may lie in tars of several plans."""
    with contextlib.ExitStack() as stack:
        opened: dict[str, BinaryIO] = {}
        for part in parts:
            table = read_table(part["facts"]).cast(FETCHED)
            table = table.filter(pc.equal(table["status"], "success")).slice(part["begin"], part["end"] - part["begin"])
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
    record = read_record(tar.parent / "done" / f"{tar.stem}.json")
    if record is None:
        raise DamagedFileError(str(tar), "nothing vouches for it")
    check(Vouched(str(tar), digest_in(record["outputs"][tar.name])))


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    return write_shard(
        _survivors(arguments["parts"], Path(arguments["tars"])),
        outputs,
        shard=arguments["shard"],
        samples_per_shard=arguments["samples_per_shard"],
    )
