"""A small published data set made by hand, without crawl or server: rows, tars, query list, counts, facts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from configs.load import dump, load
from pipeline.config import WitConfig
from pipeline.engine import Data, Info, Task, run_task
from pipeline.records.identity import canonical_url, first_64_bits, keyed_hash, text_hash, uid_of, url_id_of
from pipeline.records.queries import query_list_of
from pipeline.records.schema import FETCHED, QUERIES, QUERY_COUNTS, REJECTIONS, TEXT_SOURCES
from pipeline.records.shard import ShardFiles, ranks_of, shard_name, write_shard
from pipeline.runs.publish import publish
from pipeline.storage.atomic import read_json, write_json
from pipeline.storage.parquet import write_parquet

SEED = 5
LIMIT = 20
PER_SHARD = 25
QUERIES_OF_THE_SET = ["red", "blue", "red circle", "a", "the", "square", "dog's", "猫"]


def selects(
    rows: Sequence[Mapping[str, Any]], limit: int, column: str = "query_ids", *, one_hash_a_pair: bool = False
) -> dict[bytes, list[int]]:
    """The naive rule of balance: uid -> the queries whose `limit` smallest (hash, uid) hold the row."""
    chosen: dict[bytes, list[int]] = {}
    for query, text in enumerate(QUERIES_OF_THE_SET):
        key = None if one_hash_a_pair else np.array([text_hash(text)], np.uint64)
        edges = sorted(
            (int(keyed_hash(SEED, first_64_bits(row["uid"]), key)[0]), row["uid"])
            for row in rows
            if query in row[column]
        )
        for _, uid in edges[:limit]:
            chosen.setdefault(uid, []).append(query)
    return chosen


def picture(row: Mapping[str, Any]) -> bytes:
    """Bytes that begin like a JPEG, or for every seventh picture like a PNG; the lengths differ."""
    body = hashlib.sha256(row["uid"]).digest() * (1 + row["record"] % 40)
    return (b"\x89PNG\r\n\x1a\n" if row["record"] % 7 == 0 else b"\xff\xd8\xff") + body[: 100 + row["record"] * 3]


def make_rows(pairs: int) -> list[dict[str, Any]]:
    """FETCHED rows, planned and in order; one in nine was not fetched."""
    rows = []
    for i in range(pairs):
        url = f"http://{'Big' if i % 3 else 'user@small'}.example:80/images/{i}.jpg"
        text = f"caption {i} of a picture, with “quotes” and a 猫"
        canonical, source = canonical_url(url), TEXT_SOURCES[i % 3]
        rows.append(
            {
                "uid": uid_of(canonical, source, text),
                "url_id": url_id_of(canonical),
                "url": url,
                "alt_text": text,
                "text_source": source,
                "page_url": None if i % 2 else f"http://page.example/{i}",
                "source": f"file {i % 3}.parquet",
                "record": i,
                "link": 0,
                "caption": text,
                "lang": "en",
                "p_en": float(np.float32(0.5 + (i % 50) / 100)),
                "lang_by": "model",
                "query_ids": _queries(i),
            }
        )
    planned = selects(rows, LIMIT)
    rows = [row | {"selected_by": planned[row["uid"]]} for row in rows if row["uid"] in planned]
    for row in rows:
        row["order"] = int(keyed_hash(SEED, first_64_bits(row["url_id"]))[0])
        row["staging_shard"] = 0
        lost = row["record"] % 9 == 4
        row |= {"status": "failed_to_download" if lost else "success", "http_status": 404 if lost else 200}
        row["reason"] = "http_404" if lost else None
        if not lost:
            width = 64 + row["record"]
            row |= {"width": width, "height": 64, "original_width": 2 * width, "original_height": 128}
            row |= {"original_format": "JPEG", "original_bytes": 999, "phash": row["record"] << 50}
            row |= {"sha256": hashlib.sha256(row["uid"]).hexdigest(), "num_bytes": len(picture(row))}
    return sorted(rows, key=lambda row: (row["order"], row["uid"]))


def make_set(root: Path, pairs: int = 150) -> list[dict[str, Any]]:
    """Publish a set over `pairs` pairs in `root`; returns the rows of its samples, in order."""
    root.mkdir(parents=True)
    rows = make_rows(pairs)
    samples = [row for row in rows if row["status"] == "success"]
    config = load(
        WitConfig,
        None,
        [
            *(f"--output={root}", "--sources=[x.parquet]", "--queries=q.txt", "--fetch.user_agent=test (+http://a.b)"),
            *(f"--seed={SEED}", f"--balance.max_pairs_per_query={LIMIT}", f"--shards.samples_per_shard={PER_SHARD}"),
            "--texts.keep_candidates=true",
        ],
    )
    write_json(root / "openwit.json", {"layout_version": 1, "made_by": "openwit"})
    (root / "config.yaml").write_text(dump(config))
    publish(root, _shards(root, len(samples), pairs).parts, dump(config))
    table = query_list_of(QUERIES_OF_THE_SET, "list").table
    _step(root, "queries", "all.queries.parquet", table, QUERIES)
    _step(root, "query_counts", "all.query_counts.parquet", _counts(pairs, rows), QUERY_COUNTS)
    _step(root, "fetched", "0.fetched.parquet", pa.Table.from_pylist(rows, schema=FETCHED), FETCHED)
    rejected = [
        {name: row[name] for name in ("source", "record", "link", "uid", "reason")} | {"stage": "fetch"}
        for row in rows
        if row["reason"]
    ]
    _step(root, "fetched", "0.rejections.parquet", pa.Table.from_pylist(rejected, schema=REJECTIONS), REJECTIONS)
    line = {"stage": "fetch", "unit": "pair", "rows_in": len(rows), "kept": len(samples)}
    write_json(root / "ledger.json", {"lines": [line | {"rejected": {"http_404": len(rejected)}}]})
    (root / "runs.jsonl").write_text(json.dumps({"started": "2024-05-05", "status": "finished"}) + "\n{broken\n")
    return samples


@dataclass(frozen=True, kw_only=True)
class _Write(Task[ShardFiles]):
    shard: int
    ranks: tuple[int, int]
    pairs: int

    published = True

    def work(self, out: ShardFiles) -> Info:
        first, last = self.ranks
        rows = [row for row in make_rows(self.pairs) if row["status"] == "success"][first:last]
        return write_shard(((row, picture(row)) for row in rows), out, shard=self.shard, samples_per_shard=PER_SHARD)


def _shards(root: Path, samples: int, pairs: int) -> Data[ShardFiles]:
    data = Data("shards", ShardFiles)
    data.directory = root / "work" / "shards"
    tasks = [
        _Write(partition=shard_name(shard), shard=shard, ranks=ranks, pairs=pairs)
        for shard, ranks in enumerate(ranks_of(samples, PER_SHARD))
    ]
    data.finish([run_task(str(data.directory), task) for task in tasks])
    return data


def _counts(pairs: int, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    every = [query for i in range(pairs) for query in _queries(i)]
    size = len(QUERIES_OF_THE_SET)
    matched = np.bincount(every, minlength=size)
    columns = {
        "query_id": pa.array(range(size), pa.int32()),
        "matched": pa.array(matched, pa.int64()),
        "threshold": pa.array([2**64 - 1] * size, pa.uint64()),
    }
    for name, column in (("selected", "selected_by"), ("contained", "query_ids")):
        ids = [query for row in rows for query in row[column]]
        columns[name] = pa.array(np.bincount(ids, minlength=size), pa.int64())
    return pa.table(columns, schema=QUERY_COUNTS)


def _queries(i: int) -> list[int]:
    draws = hashlib.sha256(f"{i}".encode()).digest()
    return sorted({0, *(int(d) ** 2 // 8192 for d in draws[:3])})


def _step(root: Path, step: str, name: str, table: pa.Table, schema: pa.Schema) -> None:
    """One more file of a step, with the manifest that names it."""
    directory = root / "work" / step
    directory.mkdir(parents=True, exist_ok=True)
    write_parquet(directory / name, table, schema)
    digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    manifest = read_json(directory / "manifest.json") or {"tasks": [{"partition": "all", "key": "", "outputs": {}}]}
    manifest["tasks"][0]["outputs"][name] = digest
    write_json(directory / "manifest.json", manifest)
