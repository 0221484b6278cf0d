"""New shards from old: chosen samples copied byte for byte, metadata aligned, nothing decoded or downloaded. Pictures
with boxes to blur (`blur`) alone are decoded, changed and encoded anew.

    samples, scores --condition, uids, limit per query (DuckDB)--> chosen.parquet, in the set's order
    samples that are not chosen --the first thing that each fails--> work/subset, ledger.json
    chosen.parquet + old tars --one task per new shard, by rank--> work/shards --publish--> OUT/shards

The result is a data set directory of its own, made beside its final place and renamed when it is whole. In a bucket
nothing is renamed: it is made where it is to be, and whole when subset.json is there. Its shards depend on the source's
samples and the options alone. Memory is bounded by one shard and by DuckDB's limit, beyond which it spills to disk.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.load import load, to_mapping
from pipeline.catalog.catalog import check_condition, confine, joined_files, open_catalog, quote_name, sql_errors
from pipeline.catalog.uid_tables import load_uids
from pipeline.config import WitConfig
from pipeline.engine import Data, Done, EngineConfig, Info, Task, open_engine
from pipeline.engine.record import write_manifest
from pipeline.errors import InputError, LockedError, OutputError
from pipeline.records.identity import first_64_bits, keyed_hash, text_hash
from pipeline.records.schema import QUERIES, QUERY_COUNTS
from pipeline.records.shard import ShardFiles, ranks_of, shard_name, write_shard
from pipeline.runs.publish import publish
from pipeline.sets.blur import NUMBERS_OF_A_BOX, blur_boxes
from pipeline.sets.captions import CHOSEN, choose_captions
from pipeline.sets.join import JoinTable, read_table_to_join
from pipeline.sets.subset_config import SubsetConfig
from pipeline.sets.subset_ledger import write_ledger
from pipeline.stages.balance import mode_of
from pipeline.stages.check_image.config import ImageConfig
from pipeline.storage.atomic import read_json, remove_tree, unwritable, write_json
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check, open_file, read_ranges, read_table
from pipeline.storage.copies import scratch_files
from pipeline.storage.duck import full_disk, quote_text
from pipeline.storage.location import Location
from pipeline.storage.output import open_output
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place, files_in, place_of
from pipeline.storage.written import written
from pipeline.terminal.progress import Progress

__all__ = ["CopySamples", "SubsetResult", "subset"]

_BATCH_ROWS = 65_536
_PICTURES_AT_A_TIME = 64
_UNFINISHED = "subset.unfinished"


@dataclass(frozen=True, kw_only=True)
class SubsetResult:
    """What was written."""

    samples: int
    shards: int
    num_bytes: int
    """Of the tars."""
    unknown_uids: int
    """Uids of the list that the source does not have."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Samples of the source that are not in it, by the first thing that each fails: a part of the condition, or another
    reason in words."""


def subset(source: Place, config: SubsetConfig, out: Place, *, progress: Progress | None = None) -> SubsetResult:
    """Write the chosen samples of the data set in `source` as a data set of its own in `out`.

    Raises SqlError for a wrong condition, InputError for a wrong uid file or column of boxes, or where no sample
    matches, OutputError where `out` exists, lies inside `source`, or cannot be written. `source` is only read.
    """
    progress = progress or Progress()
    _check_free(out)
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise OutputError(f"{out}: lies inside the data set that it is taken from; choose another --out")
    unfinished = out.absolute().with_name(f"{out.name}.tmp-subset") if isinstance(out, Path) else out
    with open_catalog(source) as database, _scratch(unfinished) as scratch:
        manifest = read_json(source / "shards" / "manifest.json")
        if manifest is None:
            raise InputError(f"{source}: has no published shards yet; finish its run first")
        listed = None if config.uids is None else load_uids(database, place_of(config.uids), "listed")
        tables = [_join_scores(database, place_of(scores), source) for scores in config.scores]
        if config.captions is not None:
            choose_captions(database, config.captions)
        if not config.allow_files:
            confine(database, [source, unfinished, scratch], [place_of(scores) for scores in config.scores])
        _check_condition(database, config.where)  # before anything is written
        _check_boxes(database, config)
        # Its lock keeps another subset away from the same place.
        with open_output(unfinished, single_driver=config.single_driver, say=progress.say):
            _check_free(out)  # which may have ended while this one waited
            is_void = True
            try:
                _remove_remains(unfinished)
                write_json(unfinished / _UNFINISHED, {})
                made = _build(source, manifest["fingerprint"], config, tables, unfinished, scratch, database, progress)
                taken = {"taken_from": manifest["fingerprint"], "version": 1, **_options(config)}
                write_json(unfinished / "subset.json", taken)
                (unfinished / _UNFINISHED).unlink()
                if isinstance(unfinished, Path) and isinstance(out, Path):
                    if out.exists():
                        out.rmdir()
                    unfinished.rename(out)
                is_void = False
            except LockedError:
                is_void = False  # what is there by now is another's
                raise
            except OSError as error:
                raise unwritable(out, error) from error
            finally:
                if is_void:
                    remove_tree(unfinished)
        known = 0
        if listed is not None:
            known = int(
                database.execute("SELECT count(*) FROM listed SEMI JOIN published USING (uid)").fetchall()[0][0]
            )
    return SubsetResult(
        samples=made.shards.total("rows"),
        shards=len(made.shards.parts),
        num_bytes=made.shards.total("bytes"),
        left_out=made.left_out,
        unknown_uids=0 if listed is None else listed - known,
    )


def _check_free(out: Place) -> None:
    """Raises OutputError where something is there."""
    if out.exists() and not _is_free(out):
        raise OutputError(f"{out}: exists already; choose another --out, a subset is never added to a directory")


def _is_free(out: Place) -> bool:
    """Whether an `out` that exists is an empty directory, or in a bucket what a killed subset left."""
    if isinstance(out, Path):
        return out.is_dir() and not any(out.iterdir())
    names = {path.name for path in out.iterdir()}
    return _UNFINISHED in names or names <= {"lock", "openwit.json"}


@contextmanager
def _scratch(unfinished: Place) -> Iterator[Path]:
    """A directory for tables on the way to the subset: of a local one, on its disk."""
    if isinstance(unfinished, Path):
        yield unfinished / "work" / "chosen"
    else:
        with scratch_files() as directory:
            yield directory


def _options(config: SubsetConfig) -> dict[str, Any]:
    names = ("where", "uids", "limit_per_query", "samples_per_shard")
    scores = {"scores": list(config.scores)} if config.scores else {}
    blur = {"blur": config.blur} if config.blur is not None else {}
    captions = {"captions": to_mapping(config.captions)} if config.captions is not None else {}
    return {name: getattr(config, name) for name in names} | scores | blur | captions


def _remove_remains(unfinished: Place) -> None:
    """What a killed subset left."""
    for path in files_in(unfinished, "*"):
        if path.name in ("lock", "openwit.json"):
            continue
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()


@dataclass(frozen=True, kw_only=True)
class _Built:
    shards: Data[ShardFiles]
    left_out: Mapping[str, int]


def _build(
    source: Place,
    fingerprint: str,
    config: SubsetConfig,
    tables: Sequence[JoinTable],
    root: Place,
    scratch: Path,
    database: duckdb.DuckDBPyConnection,
    progress: Progress,
) -> _Built:
    """Fill `root`. `fingerprint` is of the source's version."""
    scratch.mkdir(parents=True, exist_ok=True)
    chosen, parent = scratch / "chosen.parquet", load(WitConfig, source / "shards" / "config.yaml")
    _choose(database, config, parent, scratch, chosen)
    total = pq.ParquetFile(chosen).metadata.num_rows
    if not total:
        raise InputError(f"{source}: no sample matches; nothing was written")
    size = config.samples_per_shard or parent.shards.samples_per_shard
    shards: Data[ShardFiles] = Data("shards", ShardFiles)
    shards.directory = root / "work" / "shards"
    for_tasks: Place = chosen.resolve()
    if isinstance(root, BucketPath):
        for_tasks = root / "work" / "chosen" / chosen.name
        for_tasks.put(chosen)
    tasks = [
        CopySamples(
            partition=shard_name(shard),
            chosen=str(for_tasks),
            first=first,
            last=last,
            source=str((source / "shards").resolve()),
            fingerprint=fingerprint,
            shard=shard,
            samples_per_shard=size,
            blurred_as=None if config.blur is None else parent.image,
            captioned=config.captions is not None,
        )
        for shard, (first, last) in enumerate(ranks_of(total, size))
    ]
    with open_engine(EngineConfig(kind=config.engine), progress) as engine:
        shards.finish(engine.run_step(shards.directory, tasks, title="copy samples"))
    names = {part.name for part in shards.parts}
    publish(root, shards.parts, (source / "shards" / "config.yaml").read_text(encoding="utf-8"), written=names)
    _write_queries(database, root, chosen)
    left_out = write_ledger(database, config, parent.ledger, chosen, root)
    uids = f"SELECT uid FROM read_parquet({quote_text(chosen)})"
    joined_before = {name: f"SELECT * FROM read_parquet({quote_text(p)})" for name, p in joined_files(source).items()}
    for name, rows in (joined_before | {table.name: table.sql for table in tables}).items():
        query = f"SELECT * FROM ({rows}) WHERE uid IN ({uids}) ORDER BY uid"
        _copy(database, query, scratch / "joined.parquet")
        with written(root / "joined" / f"{name}.parquet") as joined:
            (scratch / "joined.parquet").replace(joined)
    remove_tree(shards.directory)  # its files live on under shards
    remove_tree(root / "work" / "chosen")
    return _Built(shards=shards, left_out=left_out)


# --- choosing -----------------------------------------------------------------------------------


def _join_scores(database: duckdb.DuckDBPyConnection, scores: Place, source: Place) -> JoinTable:
    """Make the columns of `scores` columns of the view `samples`, for as long as `database` is open."""
    table = read_table_to_join(database, scores, None, there=joined_files(source))
    before = f"samples before {table.name}"
    database.execute(f"ALTER VIEW samples RENAME TO {quote_name(before)}")
    columns = ", ".join(f"scores.{quote_name(column)}" for column in table.columns)
    database.execute(
        f"CREATE VIEW samples AS SELECT samples.*, {columns} FROM {quote_name(before)} AS samples "
        f"LEFT JOIN ({table.sql}) AS scores ON samples.uid = scores.uid"
    )
    return table


def _select(where: str | None, columns: str) -> str:
    # The line break ends a comment in the user's condition.
    return f"SELECT {columns} FROM samples WHERE (\n{where or 'true'}\n)"


def _check_condition(database: duckdb.DuckDBPyConnection, where: str | None) -> None:
    """Raise SqlError unless the condition is one expression over the columns of `samples`."""
    if where is None:
        return
    with sql_errors("--where"):
        check_condition(database, where, _select(where, "uid"))
        database.execute(f"EXPLAIN {_select(where, 'uid')}")


def _check_boxes(database: duckdb.DuckDBPyConnection, config: SubsetConfig) -> None:
    """Raise InputError where the column of boxes is none, or a sample that is chosen has no boxes, not even none."""
    if config.blur is None:
        return
    columns = {row[0]: str(row[1]) for row in database.execute("DESCRIBE samples").fetchall()}
    if columns.get(config.blur) not in ("FLOAT[]", "DOUBLE[]"):
        raise InputError(
            f"--blur {config.blur}: the samples have no such column of numbers; give the file of `openwit faces` by "
            "--scores"
        )
    with sql_errors("--where"):
        chosen = _select(config.where, f"{quote_name(config.blur)} AS boxes")
        unseen, crooked = database.execute(
            f"SELECT count(*) FILTER (boxes IS NULL), count(*) FILTER (len(boxes) % {NUMBERS_OF_A_BOX} <> 0) "
            f"FROM ({chosen})"
        ).fetchall()[0]
    if crooked:
        raise InputError(
            f"--blur {config.blur}: of {crooked:,} samples it does not hold {NUMBERS_OF_A_BOX} numbers a box"
        )
    if unseen:
        raise InputError(
            f"--blur {config.blur}: in {unseen:,} samples nobody has looked for boxes (null), so they would stay "
            f"as they are; look at them, or leave them out: --where '{config.blur} IS NOT NULL'"
        )


def _choose(
    database: duckdb.DuckDBPyConnection, config: SubsetConfig, parent: WitConfig, scratch: Path, chosen: Path
) -> None:
    """Write (shard, tar_offset, uid, query_ids, selected_by, boxes) of every chosen sample, in the set's order; with
    captions also what was chosen of them."""
    columns = "samples.shard, samples.tar_offset, samples.uid, samples.query_ids, samples.selected_by"
    columns += ", NULL::FLOAT[] AS boxes" if config.blur is None else f", {quote_name(config.blur)}::FLOAT[] AS boxes"
    said = ""
    if config.captions is not None:
        said = "".join(f", {name}" for name in CHOSEN)
    query = _select(config.where, columns + said)
    if config.captions is not None:
        query += " AND caption_source IS NOT NULL"
    if config.uids is not None:
        query = f"SELECT * FROM ({query}) SEMI JOIN listed USING (uid)"
    with sql_errors("--where"):  # an error that only the rows show, such as a cast
        if config.limit_per_query is None:
            _copy(database, f"{query} ORDER BY shard, tar_offset", chosen)
            return
        matching, edges = scratch / "matching.parquet", scratch / "edges.parquet"
        _copy(database, query, matching)
    texts = dict(database.execute("SELECT query_id, query FROM queries").fetchall())
    if not texts:
        raise InputError("--limit-per-query: the set has no list of queries any more")
    hashes = np.zeros(max(texts) + 1, np.uint64)
    for query_id, text in texts.items():
        hashes[query_id] = text_hash(text)
    write_parquet(edges, _edges(matching, parent, hashes), _EDGES)
    _copy(
        database,
        f"""SELECT shard, tar_offset, uid, query_ids, kept.selected_by, boxes{said}
            FROM read_parquet({quote_text(matching)}) JOIN (
                SELECT uid, list(query_id ORDER BY query_id) AS selected_by
                FROM (SELECT *, row_number() OVER (PARTITION BY query_id ORDER BY hash, uid) AS place
                      FROM read_parquet({quote_text(edges)}))
                WHERE place <= {config.limit_per_query}
                GROUP BY uid
            ) AS kept USING (uid)
            ORDER BY shard, tar_offset""",
        chosen,
    )


_EDGES = pa.schema(
    [
        pa.field("query_id", pa.int32(), nullable=False),
        pa.field("hash", pa.uint64(), nullable=False),
        pa.field("uid", pa.binary(), nullable=False),
    ]
)


def _edges(matching: Path, parent: WitConfig, query_hashes: npt.NDArray[np.uint64]) -> Iterator[pa.RecordBatch]:
    """Every (pair, query that selects it) with the hash by which balancing ordered it (stages/balance)."""
    with pq.ParquetFile(matching) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=["uid", "selected_by"]):
            lists, uids = batch.column("selected_by"), batch.column("uid")
            queries = lists.flatten().to_numpy(zero_copy_only=False)
            rows = pc.list_parent_indices(lists)
            ids = first_64_bits(b"".join(uids.to_pylist()))[rows.to_numpy(zero_copy_only=False)]
            own = None if mode_of(parent.balance.mode).one_hash_a_pair else query_hashes[queries]
            hashes = keyed_hash(parent.seed, ids, own)
            columns = [pa.array(queries, pa.int32()), pa.array(hashes, pa.uint64()), uids.take(rows)]
            yield pa.RecordBatch.from_arrays(columns, schema=_EDGES)


def _copy(database: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    with full_disk(path):
        database.execute(
            f"COPY ({query}) TO {quote_text(path)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 65536)"
        )


# --- copying ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CopySamples(Task[ShardFiles]):
    """A shard of the subset: the chosen samples of some ranks."""

    chosen: str
    first: int
    last: int
    source: str
    """The published version that they are copied from, of this `fingerprint`."""
    fingerprint: str
    shard: int
    samples_per_shard: int
    blurred_as: ImageConfig | None
    """How pictures with boxes are encoded once those are blurred; None where none are."""
    captioned: bool = False
    """Whether the chosen rows say which caption a sample has from now on."""

    published = True

    def work(self, out: ShardFiles) -> Info:
        return write_shard(self._samples(), out, shard=self.shard, samples_per_shard=self.samples_per_shard)

    def _samples(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """(facts, picture) of the task's ranks, old shard after old shard."""
        published = _published(place_of(self.source), self.fingerprint)
        ranks = _ranks(self.chosen, self.first, self.last, captioned=self.captioned)
        for shard, group in itertools.groupby(ranks, key=lambda row: int(row["shard"])):
            chosen = {row["tar_offset"]: row for row in group}
            tar, parquet = (published[f"{shard_name(shard)}.{kind}"] for kind in ("tar", "parquet"))
            table = read_table(parquet)
            if "stored_xxh3" not in table.column_names:  # published by an earlier version
                check(tar)
            table = table.filter(pc.is_in(table["tar_offset"], pa.array(chosen, pa.int64())))
            with open_file(tar.path) as file:
                for batch in table.to_batches(max_chunksize=_PICTURES_AT_A_TIME):
                    rows = batch.to_pylist()
                    places = [(row["tar_offset"], row["num_bytes"], row.get("stored_xxh3")) for row in rows]
                    for row, image in zip(rows, read_ranges(file, places), strict=True):
                        said = chosen[row["tar_offset"]]
                        facts = row | {"selected_by": said["selected_by"]}
                        if self.captioned:
                            facts |= {name: said[name] for name in CHOSEN}
                        if self.blurred_as is not None and said["boxes"]:
                            image = blur_boxes(image, said["boxes"], self.blurred_as)
                            facts |= {"num_bytes": len(image), "stored_xxh3": None}  # `write_shard` takes its hash
                        yield facts, image


@functools.lru_cache(maxsize=2)
def _published(shards: Place, fingerprint: str) -> Mapping[str, Location]:
    """Name -> what the manifest, which has this fingerprint, says of tars and Parquet files; read once a process."""
    manifest = read_json(shards / "manifest.json") or {"shards": []}
    digests = {entry["name"]: entry["sha256"] for entry in manifest["shards"]}
    digests |= {entry["parquet"]: entry["parquet_sha256"] for entry in manifest["shards"]}
    return {name: Location(str(shards / name), digest) for name, digest in digests.items()}


def _ranks(path: str, first: int, last: int, *, captioned: bool) -> Iterator[dict[str, Any]]:
    """Rows first..last-1 of the chosen ones; reads the row groups that hold them and no others."""
    columns = ["shard", "tar_offset", "selected_by", "boxes", *(CHOSEN if captioned else ())]
    with place_of(path).open("rb") as opened, pq.ParquetFile(pa.PythonFile(opened, mode="r")) as file:
        start = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            begin, end = max(first, start), min(last, start + rows)
            if begin < end:
                table = file.read_row_group(group, columns=columns)
                yield from table.slice(begin - start, end - begin).to_pylist()
            start += rows


# --- what the catalog needs ----------------------------------------------------------------------


def _write_queries(database: duckdb.DuckDBPyConnection, root: Place, chosen: Path) -> None:
    """The views `queries` and `query_counts` of the subset: matches and thresholds are the source's."""
    _write_step(root, "queries", database.sql("SELECT * FROM queries").to_arrow_table(), QUERIES)
    counts = database.sql("SELECT * FROM query_counts ORDER BY query_id").to_arrow_table()
    if not counts.num_rows:
        return
    for column, new in (("selected_by", "selected"), ("query_ids", "contained")):
        sums = np.zeros(counts.num_rows, np.int64)
        with pq.ParquetFile(chosen) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=[column]):
                ids = batch.column(column).flatten().to_numpy(zero_copy_only=False)
                sums += np.bincount(ids, minlength=len(sums))
        counts = counts.set_column(counts.schema.get_field_index(new), new, pa.array(sums))
    _write_step(root, "query_counts", counts, QUERY_COUNTS)


def _write_step(root: Place, step: str, table: pa.Table, schema: pa.Schema) -> None:
    """One file under the step's name, with the manifest by which the catalog finds it."""
    directory = root / "work" / step
    name = f"all.{step}.parquet"
    with written(directory / name) as path:
        write_parquet(path, table, schema)
    write_manifest(directory, [Done(partition="all", key="", outputs={name: ""})])
