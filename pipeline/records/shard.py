"""What a published shard is: a tar of samples, a Parquet of the same rows in the same order, and counts.

    00000.tar       per sample KEY.jpg (or .png, .webp), KEY.json, KEY.txt; key after key, the picture first
    00000.parquet   one SAMPLES row per sample, with the place of the picture's bytes in the tar
    00000_stats.json

Layout and keys are img2dataset's. Times and owners are fixed: same samples, same bytes. The picture comes
first since the JSON says where it lies. A sample that was removed leaves zeros under one name, and no row.
Whoever writes shards (step `shards`, subset) or checks them (verify) does it through this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.engine import Info, output
from pipeline.records.earlier import as_now
from pipeline.records.schema import CAPTIONED, SAMPLES
from pipeline.storage.checked import picture_hash
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.tar import TarWriter

__all__ = [
    "MANIFEST_VERSION",
    "REMOVED_MEMBER",
    "ShardFiles",
    "extension_of",
    "json_of",
    "key_of_sample",
    "ranks_of",
    "samples_of",
    "shard_name",
    "stats_of",
    "write_shard",
]

MANIFEST_VERSION = 1
"""Of manifest.json beside published shards."""
REMOVED_MEMBER = "__removed__"
"""The name of what a removed sample leaves in its tar: zeros (`takedown/blank.py`)."""
_IN_HEX = ("uid", "url_id", "phash", "order", "stored_xxh3")
"""Binary or uint64 in Parquet, hex in JSON: readers of JSON take numbers for int64 (Hugging Face datasets), or for
float64 (JavaScript)."""


def shard_name(shard: int) -> str:
    """The stem of a shard's files."""
    return f"{shard:05d}"


@dataclass(frozen=True, kw_only=True)
class ShardFiles:
    """The files of a shard."""

    parquet: Location = output("parquet", SAMPLES)
    tar: Location = output("tar")
    stats: Location = output("_stats.json")

    def __iter__(self) -> Iterator[Location]:
        return iter((self.parquet, self.tar, self.stats))


def key_of_sample(shard: int, index: int, samples_per_shard: int) -> str:
    """img2dataset's key: 10^e * shard + index with e digits for the index, padded to e + 5 digits."""
    digits = math.ceil(math.log10(samples_per_shard)) if samples_per_shard > 1 else 0
    return f"{10**digits * shard + index:0{digits + 5}d}"


def ranks_of(total: int, samples_per_shard: int) -> list[tuple[int, int]]:
    """[first, last) ranks of every shard: as few shards as hold `total`, equal in size to within one."""
    shards = math.ceil(total / samples_per_shard)
    return [(shard * total // shards, (shard + 1) * total // shards) for shard in range(shards)]


def write_shard(
    samples: Iterable[tuple[Mapping[str, Any], bytes]],
    out: ShardFiles,
    *,
    shard: int,
    samples_per_shard: int,
) -> Info:
    """Write one shard from (facts, picture) pairs; returns its row and byte counts for the done-record.

    Facts are by SAMPLES column; key, shard and tar_offset are set here, and the picture's hash where there is none;
    columns without a fact are null. Holds the rows of one shard in memory. Samples whose facts tell where the caption
    is from are rows of CAPTIONED, all of a shard.
    """
    rows: list[dict[str, Any]] = []
    schema = SAMPLES
    with TarWriter(out.tar.local) as tar:
        for index, (facts, image) in enumerate(samples):
            key = key_of_sample(shard, index, samples_per_shard)
            schema = CAPTIONED if "caption_source" in facts else SAMPLES
            row: dict[str, Any] = {name: facts.get(name) for name in schema.names} | {"key": key, "shard": shard}
            row["stored_xxh3"] = row["stored_xxh3"] or picture_hash(image)
            row["tar_offset"] = tar.add(f"{key}.{extension_of(image)}", image)
            tar.add(f"{key}.json", json_of(row))
            tar.add(f"{key}.txt", row["caption"].encode())
            rows.append(row)
    write_parquet(out.parquet.local, pa.Table.from_pylist(rows, schema=schema), schema)
    out.stats.local.write_text(json.dumps(stats_of(len(rows)), indent=1) + "\n", encoding="utf-8")
    return {"rows": len(rows), "bytes": out.tar.local.stat().st_size}


def stats_of(samples: int) -> dict[str, Any]:
    """What NAME_stats.json says of a shard of so many samples, in img2dataset's words."""
    return {
        "count": samples,
        "successes": samples,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": samples},
    }


def samples_of(table: pa.Table) -> pa.Table:
    """The rows of a published Parquet as SAMPLES, or as CAPTIONED; what an earlier version did not write is null.

    Raises ValueError or ArrowInvalid where they are not rows of either.
    """
    return as_now(table, CAPTIONED if "caption_source" in table.column_names else SAMPLES)


def json_of(row: Mapping[str, Any]) -> bytes:
    """The sample's row as the tar's .json member: every value of one type in all samples, as readers that infer
    types from the first ones need it. Identities and hashes in hex, text that is not there empty."""
    plain = {name: _hex(value) if name in _IN_HEX else value for name, value in row.items()}
    return json.dumps(
        {name: "" if value is None else value for name, value in plain.items()}, ensure_ascii=False
    ).encode()


def _hex(value: bytes | int | str | None) -> str | None:
    if value is None or isinstance(value, str):  # a release has identities in hex already
        return value
    return f"{value:016x}" if isinstance(value, int) else value.hex()


def extension_of(image: bytes) -> str:
    """What the stored bytes are (16 bytes suffice); the staging step encoded or checked them."""
    if image[:3] == b"\xff\xd8\xff":
        return "jpg"
    if image[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return "img"  # an original of another format, stored as served
