"""What it costs to take samples out of a published set: looking for them, rows, members of tars, checksums.

    python -m benchmarks.takedown [--rows 10000000] [--removals 10000] [--per-shard 10000] [--picture 2000]
        [--hashed 100] [--repeats 3] [--scratch DIR]

The set is made: Parquet with all columns and values of the usual sizes, tars of the size that pictures of --picture
bytes would give, sparse, with headers and content where a sample will be removed. Every repeat removes other samples
of the same set, by uid. CPU seconds (user and system) and the clock, median and range; bytes that were written.

    match      the columns of every row that say whether it goes
    rows       Parquet of the shards that lose a row, read, filtered and replaced
    members    headers written, content made holes, fsync
    checksums  SHA-256 of --hashed of the tars that changed, from end to end; it grows with their bytes
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.records.removals import Removals
from pipeline.records.schema import SAMPLES
from pipeline.storage.atomic import sha256_of
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.tar import header_of
from pipeline.takedown.blank import blank_samples
from pipeline.takedown.delta import Gone
from pipeline.takedown.editing import write_rows
from pipeline.takedown.matching import samples_named
from pipeline.takedown.published import rows_without

BLOCK = 512
JSON_BYTES, TEXT_BYTES = 1_100, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--removals", type=int, default=10_000)
    parser.add_argument("--per-shard", type=int, default=10_000)
    parser.add_argument("--picture", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hashed", type=int, default=100, help="of how many tars the checksum is measured")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="takedown-", dir=options.scratch))
    try:
        _measure(options, root)
    finally:
        shutil.rmtree(root)


def _measure(options: argparse.Namespace, root: Path) -> None:
    shards = list(_make_set(options, root))
    sample = _size_of_sample(options.picture)
    total = sum((root / f"{tar}").stat().st_size for tar, _ in shards)
    print(
        f"{options.rows:,} rows in {len(shards):,} shards, Parquet {_gb(sum(_size(p) for _, p in shards))}, tars "
        f"{_gb(total)} (sparse); {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release()}",
        flush=True,
    )
    spent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    random = np.random.default_rng(1)
    changed = 0
    for _ in range(options.repeats):
        chosen = np.sort(random.choice(options.rows, options.removals, replace=False))
        asked = Removals(uids=frozenset(_uids(chosen.astype(np.uint64))))
        with _timed(spent["match"]):
            gone = list(samples_named(shards, asked))
        by_shard: dict[str, list[Gone]] = defaultdict(list)
        for each in gone:
            by_shard[each.shard].append(each)
            _write_members(root / each.shard, each.tar_offset, options.picture)
        with _timed(spent["rows"]):
            for tar, parquet in shards:
                if tar in by_shard:
                    _rows_go(parquet, by_shard[tar])
        with _timed(spent["members"]):
            for tar, samples in by_shard.items():
                blank_samples(root / tar, [each.tar_offset for each in samples])
        with _timed(spent["checksums"]):
            for tar in list(by_shard)[: options.hashed]:
                sha256_of(root / tar)
        changed = len(by_shard)
        print(", ".join(f"{name} {times[-1][0]:.1f}" for name, times in spent.items()), "CPU s", flush=True)
    hashed = min(options.hashed, changed) * total / len(shards)
    print(
        f"{options.removals:,} removals hit {changed:,} shards, {sample:,} bytes a sample; checksums of {_gb(hashed)}\n"
    )
    print(f"{'':12}{'CPU s':>10}{'range':>18}{'clock s':>10}{'a removal':>14}")
    for name, times in spent.items():
        cpu, clock = ([time[i] for time in times] for i in (0, 1))
        each = statistics.median(cpu) / options.removals
        spread = f"{min(cpu):.1f} to {max(cpu):.1f}"
        print(
            f"{name:12}{statistics.median(cpu):10.1f}{spread:>18}{statistics.median(clock):10.1f}{each * 1e6:11.0f} µs"
        )


def _rows_go(parquet: Location, samples: list[Gone]) -> None:
    rows, _ = rows_without(parquet, samples)
    write_rows(parquet.place, rows)


def _make_set(options: argparse.Namespace, root: Path) -> Iterator[tuple[str, Location]]:
    size = _size_of_sample(options.picture)
    for shard, first in enumerate(range(0, options.rows, options.per_shard)):
        count = min(options.per_shard, options.rows - first)
        parquet, tar = root / f"{shard:05d}.parquet", root / f"{shard:05d}.tar"
        write_parquet(parquet, _rows(first, count, shard, size), SAMPLES)
        with tar.open("wb") as file:
            file.truncate(count * size + 20 * BLOCK)
        yield tar.name, Location(str(parquet))


def _uids(rows: np.ndarray[Any, np.dtype[np.uint64]]) -> list[bytes]:
    """16 bytes each, that look drawn, by number."""
    mixed = rows * np.uint64(0x9E3779B97F4A7C15)
    both = np.stack([mixed, mixed ^ (rows << np.uint64(1))], 1).astype(">u8").tobytes()
    return [both[at : at + 16] for at in range(0, len(both), 16)]


def _rows(first: int, count: int, shard: int, size: int) -> pa.Table:
    """Rows of the usual sizes; identities and places by number, texts of one shard again and again."""
    rows = np.arange(first, first + count, dtype=np.uint64)
    made: dict[str, Any] = _texts(count) | {
        "uid": _uids(rows),
        "url_id": _uids(rows + np.uint64(2**40)),
        "stored_xxh3": _uids(rows + np.uint64(2**41)),
        "sha256": [uid.hex() * 2 for uid in _uids(rows)],
        "tar_offset": (rows - np.uint64(first)).astype(np.int64) * size + BLOCK,
        "shard": np.full(count, shard),
    }
    return pa.Table.from_arrays([pa.array(made[f.name], f.type) for f in SAMPLES], schema=SAMPLES)


@functools.cache
def _texts(count: int) -> dict[str, Any]:
    random, rows = np.random.default_rng(0), range(count)
    made: dict[str, Any] = {
        "url": [f"https://www.example-{row * 7919 % 90_001}.com/wp-content/2021/07/picture-{row}.jpg" for row in rows],
        "page_url": [f"https://www.example-{row * 7919 % 90_001}.com/blog/an-article-{row}/" for row in rows],
        "alt_text": [f"what the page says of its picture, number {row} of them" for row in rows],
        "caption": [f"what the page says of its picture, number {row} of them" for row in rows],
        "key": [f"{row:09d}" for row in rows],
        "query_ids": [[row * 31 % 7, 7 + row * 7919 % 499_979] for row in rows],
        "selected_by": [[row * 31 % 7] for row in rows],
        "status": ["success"] * count,
    }
    for field in SAMPLES:
        if field.name not in made and field.nullable:
            made[field.name] = pa.nulls(count, field.type)
        elif field.name not in made and pa.types.is_string(field.type):
            made[field.name] = [field.name] * count
        elif field.name not in made:
            made[field.name] = pa.array(random.integers(0, 2**20, count)).cast(
                field.type if not pa.types.is_fixed_size_binary(field.type) else pa.int64()
            )
    return made


def _members(picture: int) -> list[tuple[str, int]]:
    return [("0.jpg", picture), ("0.json", JSON_BYTES), ("0.txt", TEXT_BYTES)]


def _size_of_sample(picture: int) -> int:
    return sum(BLOCK + size + -size % BLOCK for _, size in _members(picture))


def _write_members(tar: Path, offset: int, picture: int) -> None:
    """A sample where there was a hole."""
    with tar.open("r+b") as file:
        file.seek(offset - BLOCK)
        for name, size in _members(picture):
            file.write(header_of(name, size) + os.urandom(size) + bytes(-size % BLOCK))


@contextmanager
def _timed(into: list[tuple[float, float]]) -> Iterator[None]:
    before, clock = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    yield
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    into.append((cpu, time.perf_counter() - clock))


def _size(parquet: Location) -> int:
    return parquet.local.stat().st_size


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
