"""finalise: the pairs whose pictures are there -> published tar shards with their Parquet, in the set's order.

    FETCHED + staging tars, shard after shard --rank--> 00000.tar 00000.parquet 00000_stats.json ...

Layout and keys are img2dataset's. Shards differ by at most one sample in size, so that no loader meets a
short one. Members are sorted by key; times and owners are fixed: same samples, same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.load import ConfigError
from pipeline.engine import Done, Task
from pipeline.schema import FETCHED, SAMPLES
from pipeline.steps.step import Step, key_of
from pipeline.storage import write_parquet
from pipeline.tar import TarWriter

__all__ = ["VERSION", "ShardsConfig", "key_of_sample", "plan"]

VERSION = "shards-1"
_HIDDEN = ("uid", "url_id")  # binary in Parquet, hex in JSON


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """Layout of the published shards."""

    samples_per_shard: int = 10_000
    """Samples in a tar, at most; shards are made equal in size. Staging shards are of this size too."""

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise ConfigError(f"samples_per_shard must be at least 1, not {self.samples_per_shard}")


def plan(fetched: Sequence[Done], directory: Path, config: ShardsConfig) -> Step:
    """One task per published shard; it reads its ranks from one or more staging shards."""
    counts = [int(record.info["success"]) for record in fetched]
    total = sum(counts)
    shards = math.ceil(total / config.samples_per_shard)
    tasks = []
    for shard in range(shards):
        first, last = shard * total // shards, (shard + 1) * total // shards
        parts, inputs, start = [], [], 0
        for record, count in zip(fetched, counts, strict=True):
            begin, end = max(first, start), min(last, start + count)
            if begin < end:
                facts, tar = record.path(directory, "fetched"), record.path(directory, "tar")
                parts.append({"facts": str(facts), "tar": str(tar), "begin": begin - start, "end": end - start})
                inputs.append(record)
            start += count
        name = f"{shard:05d}"
        arguments = {"shard": shard, "samples_per_shard": config.samples_per_shard, "parts": parts}
        ranks = [(part["begin"], part["end"]) for part in parts]
        tasks.append(
            Task(
                partition=name,
                work=_work,
                arguments=arguments,
                outputs=(f"{name}.parquet", f"{name}.tar", f"{name}_stats.json"),
                key=key_of(VERSION, inputs, shard, config.samples_per_shard, ranks),
            )
        )
    return Step(name="shards", title="write shards", tasks=tasks)


def key_of_sample(shard: int, index: int, samples_per_shard: int) -> str:
    """img2dataset's key: 10^e * shard + index with e digits for the index, padded to e + 5 digits."""
    digits = math.ceil(math.log10(samples_per_shard)) if samples_per_shard > 1 else 0
    return f"{10**digits * shard + index:0{digits + 5}d}"


def _survivors(parts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(facts, image bytes) of the task's ranks."""
    for part in parts:
        table = pq.read_table(part["facts"]).cast(FETCHED)
        table = table.filter(pc.equal(table["status"], "success")).slice(part["begin"], part["end"] - part["begin"])
        with open(part["tar"], "rb") as tar:
            for row in table.to_pylist():
                tar.seek(row["tar_offset"])
                yield row, tar.read(row["num_bytes"])


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    parquet_path, tar_path, stats_path = outputs.values()
    shard = arguments["shard"]
    rows: list[dict[str, Any]] = []
    with TarWriter(tar_path) as tar:
        for index, (facts, image) in enumerate(_survivors(arguments["parts"])):
            key = key_of_sample(shard, index, arguments["samples_per_shard"])
            row = {name: facts.get(name) for name in SAMPLES.names} | {"key": key, "shard": shard}
            row["tar_offset"] = tar.add(f"{key}.{_extension(image)}", image)
            tar.add(f"{key}.json", _json(row))
            tar.add(f"{key}.txt", row["caption"].encode())
            rows.append(row)
    write_parquet(parquet_path, pa.Table.from_pylist(rows, schema=SAMPLES), SAMPLES)
    stats = {
        "count": len(rows),
        "successes": len(rows),
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": len(rows)},
    }
    stats_path.write_text(json.dumps(stats, indent=1) + "\n", encoding="utf-8")
    return {"rows": len(rows), "bytes": tar_path.stat().st_size}


def _json(row: Mapping[str, Any]) -> bytes:
    """The sample's row as the tar's .json member, identities in hex."""
    plain = {name: value.hex() if name in _HIDDEN else value for name, value in row.items()}
    return json.dumps(plain, ensure_ascii=False).encode()


def _extension(image: bytes) -> str:
    """What the stored bytes are; the staging step encoded or checked them."""
    if image[:3] == b"\xff\xd8\xff":
        return "jpg"
    if image[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return "img"  # an original of another format, stored as served
