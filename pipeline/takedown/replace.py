"""Replacements: what the queries lost, filled up from the reserve, in shards of their own. Nothing is requested.

    final balance: removed pairs' queries --how many each lost--> their planned edges, smallest hash first
    pairs of these that are not published --pictures of work/fetch--> 00007.tar ... --> manifest.json, `added`

It is the choice that the next run makes over the whole set, which then puts every sample in its place. No shard that is
there changes. Doing it again adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.load import load
from pipeline.catalog.catalog import open_catalog
from pipeline.config import WitConfig
from pipeline.engine import Records, amend
from pipeline.records.identity import first_64_bits, keyed_hash, text_hash
from pipeline.records.removals import REMOVED
from pipeline.records.shard import ShardFiles, ranks_of, shard_name, write_shard
from pipeline.stages.balance import mode_of
from pipeline.steps.fetch.facts import STORE
from pipeline.steps.fetch.pictures import Pictures, Published, by_bytes
from pipeline.steps.step import Page
from pipeline.storage.atomic import commit, sha256_of, temporary_name, write_json
from pipeline.storage.checked import read_table
from pipeline.storage.duck import read_parquet_sql
from pipeline.storage.location import Location
from pipeline.takedown import account
from pipeline.takedown.published import manifest_at, manifest_of, origin_of
from pipeline.takedown.work import amended, write_rows_of

__all__ = ["replace"]

_STEP = "final_balance"


def replace(page: Page, shards: Path) -> int:
    """Add what the reserve has for the queries that lost pairs to the version in `shards`; returns how many samples."""
    if _STEP not in page:
        return 0
    manifest = manifest_at(shards)
    config = load(WitConfig, shards / "config.yaml")
    rows = _chosen(page, shards, manifest, config)
    if rows:
        entries = list(_write(page, shards, manifest, rows, config.shards.samples_per_shard))
        after = manifest_of([*manifest["shards"], *entries], origin_of(manifest))
        write_json(shards / "sizes.json", {entry["name"]: entry["samples"] for entry in after["shards"]})
        write_json(shards / "manifest.json", after)
    added = [entry for entry in manifest_at(shards)["shards"] if "added" in entry]
    if added:
        uids = [uid for entry in added for uid in _uids(shards, entry)]
        _rejections_go(page, pa.array(uids, pa.binary(16)))
        account.enter_replacements(page, sum(entry["added"] for entry in added))
    return len(rows)


def _uids(shards: Path, entry: Mapping[str, Any]) -> list[bytes]:
    table = read_table(Location(str(shards / entry["parquet"]), entry["parquet_sha256"]), ["uid"])
    found: list[bytes] = table["uid"].to_pylist()
    return found


def _chosen(page: Page, shards: Path, manifest: Mapping[str, Any], config: WitConfig) -> list[dict[str, Any]]:
    """FETCHED rows of the pairs that come, in the set's order, each with the queries that choose it."""
    final, arrived = page[_STEP].data, page[_STEP].reads[0]
    files = {"final": final.present("fetched"), "arrived": arrived.present("fetched")}
    if not all(files.values()):
        return []
    added = [shards / entry["parquet"] for entry in manifest["shards"] if "added" in entry]
    with open_catalog(page.run.output, "queries, published") as database:
        for name, located in files.items():
            database.execute(f"CREATE VIEW {name} AS SELECT * FROM {read_parquet_sql([f.place for f in located])}")
        there = f"SELECT uid, unnest(selected_by) AS query_id FROM {read_parquet_sql(added)}" if added else _NOTHING
        database.execute(f"CREATE TABLE added AS {there}")
        database.execute(_LOST)
        database.register("edges_read", _edges(database, config))
        database.execute(f"CREATE TABLE chosen AS {_SMALLEST}")
        rows: list[dict[str, Any]] = database.sql(_ROWS).to_arrow_table().to_pylist()
        return rows


_NOTHING = "SELECT NULL::BLOB AS uid, NULL::INTEGER AS query_id LIMIT 0"
_LOST = f"""
    CREATE TABLE lost AS
    SELECT query_id, count(*) - (SELECT count(*) FROM added WHERE added.query_id = gone.query_id) AS pairs
    FROM (SELECT unnest(selected_by) AS query_id FROM final WHERE reason = '{REMOVED}') AS gone
    GROUP BY query_id HAVING pairs > 0"""
_PLANNED = """
    SELECT uid, query_id FROM (SELECT uid, unnest(selected_by) AS query_id FROM arrived WHERE status = 'success')
    SEMI JOIN lost USING (query_id)
    ANTI JOIN (SELECT uid, unnest(selected_by) AS query_id FROM final) USING (uid, query_id)
    ANTI JOIN added USING (uid, query_id)"""
_SMALLEST = """
    SELECT uid, list(query_id ORDER BY query_id)::INTEGER[] AS queries
    FROM (SELECT *, row_number() OVER (PARTITION BY query_id ORDER BY hash, uid) AS place FROM edges_read)
    JOIN lost USING (query_id)
    WHERE place <= pairs AND uid NOT IN (SELECT uid FROM published)
    GROUP BY uid"""

_ROWS = """
    SELECT arrived.* REPLACE (chosen.queries AS selected_by) FROM arrived JOIN chosen USING (uid)
    ORDER BY "order", uid"""


def _edges(database: duckdb.DuckDBPyConnection, config: WitConfig) -> pa.Table:
    """uid, query_id, hash: of what the plan had for these queries and the final balance did not choose."""
    planned = database.sql(_PLANNED).to_arrow_table()
    texts = dict(database.execute("SELECT query_id, query FROM queries").fetchall())
    own = None
    if not mode_of(config.balance.mode).one_hash_a_pair:
        hashes = {query: text_hash(texts[query]) for query in pc.unique(planned["query_id"]).to_pylist()}
        own = np.array([hashes[query] for query in planned["query_id"].to_pylist()], np.uint64)
    ids = first_64_bits(b"".join(planned["uid"].to_pylist()))
    return planned.append_column("hash", pa.array(keyed_hash(config.seed, ids, own), pa.uint64()))


def _write(
    page: Page, shards: Path, manifest: Mapping[str, Any], rows: Sequence[dict[str, Any]], samples_per_shard: int
) -> Iterator[dict[str, Any]]:
    """New shards behind those that are there; the manifest's entries."""
    first = 1 + max((int(entry["name"].removesuffix(".tar")) for entry in manifest["shards"]), default=-1)
    for number, (begin, end) in enumerate(ranks_of(len(rows), samples_per_shard), first):
        name = shard_name(number)
        names = {"tar": f"{name}.tar", "parquet": f"{name}.parquet", "stats": f"{name}_stats.json"}
        temporary = {kind: temporary_name(shards / final) for kind, final in names.items()}
        out = ShardFiles(**{kind: Location(str(path)) for kind, path in temporary.items()})
        samples = _samples(page, shards, rows[begin:end])
        info = write_shard(samples, out, shard=number, samples_per_shard=samples_per_shard)
        for kind, final in names.items():
            commit(temporary[kind], shards / final)
        yield {
            "name": names["tar"],
            "samples": info["rows"],
            "bytes": info["bytes"],
            "sha256": sha256_of(shards / names["tar"]),
            "parquet": names["parquet"],
            "parquet_sha256": sha256_of(shards / names["parquet"]),
            "added": info["rows"],
        }


def _samples(page: Page, shards: Path, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bytes]]:
    before = Published(shards=str(shards), seed=page.run.seed)
    with Pictures(page.run.directory(STORE), before) as pictures:
        for some in by_bytes(rows):
            yield from zip(some, pictures.read(some), strict=True)


def _rejections_go(page: Page, uids: pa.Array) -> None:
    """They are not `reserve_not_needed` any more."""
    directory, changed = page[_STEP].data.directory, []
    for record in Records.of(directory):
        for name, file in record.located(directory).items():
            if name.endswith("rejections.parquet"):
                table = read_table(Location(file.path))
                rows = table.filter(pc.invert(pc.is_in(table["uid"], uids)))
                about = write_rows_of(file.place, rows, but=table)
                changed.append(amended(record, {name: about}))
    amend(directory, changed)
