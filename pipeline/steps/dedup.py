"""dedup: MATCHED -> each (canonical URL, caption) once, or each picture once, over the whole set.

    exchange --dedup--> unique                                                  (one task per hash partition by url_id)
    exchange --pairs--> unique pairs --captions--> boilerplate --dedup--> unique      (with max_urls_per_caption)

A partition is sorted once by DuckDB, which spills to disk beyond its memory limit; what follows is a stream
in which copies are neighbours. Captions meet in an exchange of their own: `pairs` sends, per caption, its digest
and the number of its URLs in the partition, so that a caption's count is a sum over partitions.

Also counts, per query, the pairs that contain it: the `counts.npy` of each partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from configs.load import from_mapping, to_mapping
from pipeline.checked import Vouched, check, read_batches, read_row_groups
from pipeline.duck import open_duckdb, spill_beside
from pipeline.engine import Done, Task
from pipeline.identity import first_64_bits, keyed_hash
from pipeline.ledger import Ledger, LedgerConfig
from pipeline.outcome import reject
from pipeline.schema import MATCHED
from pipeline.stages.balance import ids_of
from pipeline.steps.dedup_config import DedupConfig
from pipeline.steps.exchange import partition_of, read_blocks
from pipeline.steps.step import Step, key_of
from pipeline.storage import parquet_writer, save_vector, write_parquet

__all__ = ["VERSION", "DedupConfig", "plan", "plan_captions", "plan_pairs"]

VERSION = "dedup-2"
_BATCH_ROWS = 65_536
_CAPTIONS = pa.schema([pa.field("digest", pa.binary(16), nullable=False), pa.field("urls", pa.int64(), nullable=False)])
_MARKS = [pa.field("draw", pa.uint64(), nullable=False), pa.field("boilerplate", pa.bool_(), nullable=False)]
_ORDER = {
    "pair": "url_id, boilerplate, caption, uid, source, record, link",
    "hash": "url_id, boilerplate, draw, uid, source, record, link",
    "best": "url_id, boilerplate, p_en DESC, draw, uid, source, record, link",
}
"""What stays comes first among its like: a total order, free of partitions and of the order of files."""


Inputs = Sequence[tuple[Done, Path]]


def plan_pairs(exchanged: Inputs, *, partitions: int, config: DedupConfig, ledger: LedgerConfig) -> Step:
    """One task per hash partition: unique pairs, and how many of them each caption has. No task without a limit."""
    tasks = []
    if config.max_urls_per_caption is not None:
        files = _blocks(exchanged)
        key = key_of(VERSION, [done for done, _ in exchanged], partitions, ledger, "pairs")
        for partition in range(partitions):
            name = f"part-{partition:05d}"
            arguments = _arguments(files, partition, partitions, config, ledger)
            outputs = tuple(f"{name}.{kind}.parquet" for kind in ("pairs", "rejections", "captions"))
            tasks.append(
                Task(partition=name, work=_pairs, arguments=arguments, outputs=outputs, key=f"{key}-{partition}")
            )
    return Step(name="pairs", title="dedup pairs", tasks=tasks)


def plan_captions(pairs: Sequence[Done], directory: Path, config: DedupConfig) -> Step:
    """One task per hash partition of captions: those on more than the limit of URLs. No task without a limit."""
    files = [record.file(directory, "captions") for record in pairs]
    key = key_of(VERSION, pairs, config.max_urls_per_caption, "captions")
    tasks = []
    for partition in range(len(pairs)):
        name = f"part-{partition:05d}"
        arguments = {"files": files, "partition": partition, "partitions": len(pairs), "config": to_mapping(config)}
        outputs = (f"{name}.boilerplate.parquet",)
        tasks.append(
            Task(partition=name, work=_captions, arguments=arguments, outputs=outputs, key=f"{key}-{partition}")
        )
    return Step(name="captions", title="find boilerplate captions", tasks=tasks)


def _blocks(exchanged: Inputs) -> list[tuple[Vouched, Vouched]]:
    return [(done.file(where, "blocks"), done.file(where, "index.npy")) for done, where in exchanged]


def plan(
    exchanged: Inputs,
    *,
    partitions: int,
    num_queries: int,
    config: DedupConfig,
    ledger: LedgerConfig,
    seed: int = 0,
    pairs: tuple[Sequence[Done], Path] | None = None,
    captions: tuple[Sequence[Done], Path] | None = None,
) -> Step:
    """One task per hash partition. It reads its blocks of the exchange, or its file of `pairs` if there are any."""
    limited = pairs is not None and captions is not None and config.max_urls_per_caption is not None
    inputs = [done for done, _ in exchanged]
    files: list[Any] = list(_blocks(exchanged))
    boilerplate: list[Vouched] = []
    if limited:
        assert pairs is not None
        assert captions is not None
        inputs = [*pairs[0], *captions[0]]
        boilerplate = [record.file(captions[1], "boilerplate") for record in captions[0]]
    key = key_of(VERSION, inputs, partitions, num_queries, config, ledger, seed)
    tasks = []
    for partition in range(partitions):
        name = f"part-{partition:05d}"
        own = None
        if limited:
            assert pairs is not None
            files = [pairs[0][partition].file(pairs[1], "pairs")]
            own = pairs[0][partition].file(pairs[1], "captions")
        arguments = {
            **_arguments(files, partition, partitions, config, ledger),
            "boilerplate": boilerplate,
            "own_captions": own,
            "num_queries": num_queries,
            "seed": seed,
            "stage": "captions" if limited else "dedup",
        }
        outputs = (f"{name}.unique.parquet", f"{name}.rejections.parquet", f"{name}.counts.npy")
        tasks.append(Task(partition=name, work=_work, arguments=arguments, outputs=outputs, key=f"{key}-{partition}"))
    return Step(name="dedup", title="dedup over the whole set", tasks=tasks)


def _arguments(
    files: Sequence[Any], partition: int, partitions: int, config: DedupConfig, ledger: LedgerConfig
) -> dict[str, Any]:
    return {
        "files": list(files),
        "partition": partition,
        "partitions": partitions,
        "config": to_mapping(config),
        "ledger": to_mapping(ledger),
    }


# --- reading, sorting, dropping ------------------------------------------------------------------


def _row_groups(arguments: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    """This partition's captions: its row group of every file, one at a time."""
    for file in arguments["files"]:
        for group in read_row_groups(file, arguments["partition"], arguments["partitions"]):
            yield from group.to_batches()


def _whole_files(arguments: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    for file in arguments["files"]:
        yield from read_batches(file, _BATCH_ROWS)


def _digests(captions: pa.Array) -> npt.NDArray[np.void]:
    """V16[N]: xxh3-128 of every caption."""
    data = b"".join(xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass")) for text in captions.to_pylist())
    return np.frombuffer(data, "V16")


def _sorted(
    batches: Iterator[pa.RecordBatch], order: str, config: DedupConfig, spill: Path, seed: int, bad: frozenset[bytes]
) -> Iterator[pa.RecordBatch]:
    """MATCHED rows with _MARKS, in `order`."""
    schema = pa.schema([*MATCHED, *_MARKS])

    def marked() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if not batch.num_rows:
                continue
            plain = batch.cast(MATCHED)
            draws = keyed_hash(seed, first_64_bits(ids_of(plain.column("uid"))))
            if bad:
                flags = np.fromiter((d.tobytes() in bad for d in _digests(plain.column("caption"))), bool, len(plain))
            else:
                flags = np.zeros(batch.num_rows, bool)
            columns = [*plain.columns, pa.array(draws, pa.uint64()), pa.array(flags)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    with open_duckdb(spill, memory_mb=config.memory_mb, streams={"rows_in": (schema, marked())}) as database:
        for batch in database.sql(f"SELECT * FROM rows_in ORDER BY {order}").to_arrow_reader(_BATCH_ROWS):
            yield batch.cast(schema)


class _Neighbours:
    """Says for the rows of a sorted stream what each shares with the one that was kept last."""

    def __init__(self) -> None:
        self._url_id = b""
        self._caption = ""

    def shared(self, batch: pa.RecordBatch) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """(bool[N] same URL as the row before, bool[N] same caption too), across batches."""
        urls = pa.concat_arrays([pa.array([self._url_id.ljust(16, b"\0")], pa.binary(16)), batch.column("url_id")])
        texts = pa.concat_arrays([pa.array([self._caption], pa.string()), batch.column("caption")])
        same_url = pc.equal(urls[1:], urls[:-1]).to_numpy(zero_copy_only=False)
        same_text = pc.equal(texts[1:], texts[:-1]).to_numpy(zero_copy_only=False)
        if not self._url_id and len(same_url):
            same_url = np.concatenate(([False], same_url[1:]))
        if batch.num_rows:
            self._url_id, self._caption = batch.column("url_id")[-1].as_py(), batch.column("caption")[-1].as_py()
        return same_url, same_url & same_text


def _verdicts(batch: pa.RecordBatch, config: DedupConfig, before: _Neighbours) -> pa.Array:
    """string[N]: why a row of the sorted stream goes; null where it stays."""
    same_url, same_pair = before.shared(batch)
    bad = batch.column("boilerplate").to_numpy(zero_copy_only=False)
    reasons = np.full(batch.num_rows, None, object)
    if config.by == "url":
        reasons[same_url] = "other_caption"
    reasons[same_pair] = "duplicate"
    reasons[bad] = "boilerplate_caption"
    return pa.array(reasons, pa.string())


def _pairs(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    pairs_path, rejections_path, captions_path = outputs.values()
    config = from_mapping(DedupConfig, {**arguments["config"], "by": "pair"})
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    before = _Neighbours()
    digests: list[npt.NDArray[np.void]] = []
    rows = 0

    def kept() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        spill = spill_beside(pairs_path)
        for batch in _sorted(
            read_blocks(arguments["files"], arguments["partition"]), _ORDER["pair"], config, spill, 0, frozenset()
        ):
            rows += batch.num_rows
            reasons = _verdicts(batch, config, before)
            plain = batch.select(MATCHED.names)
            keep = ledger.add("dedup", "pair", reject(plain, stage="dedup", reasons=reasons))
            digests.append(_digests(keep.column("caption")))
            yield keep

    unique = write_parquet(pairs_path, kept(), MATCHED)
    _write_captions(captions_path, np.concatenate([np.empty(0, "V16"), *digests]), arguments["partitions"])
    return {"rows": rows, "kept": unique, "lines": ledger.close()}


def _write_captions(path: Path, digests: npt.NDArray[np.void], partitions: int) -> None:
    """Digests with their numbers, one row group per partition of captions."""
    halves = digests.view(">u8").reshape(-1, 2).astype(np.uint64)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    ordered = halves[order]
    first = np.flatnonzero(np.concatenate(([True], (ordered[1:] != ordered[:-1]).any(axis=1)))[: len(ordered)])
    counts = np.diff(np.append(first, len(ordered)))
    ids = pa.Array.from_buffers(pa.binary(16), len(first), [None, pa.py_buffer(digests[order[first]].tobytes())])
    table = pa.Table.from_arrays([ids, pa.array(counts, pa.int64())], schema=_CAPTIONS)
    where = partition_of(ids, partitions)
    with parquet_writer(path, _CAPTIONS) as writer:
        for partition in range(partitions):  # digests are in order, and partitions are ranges of them
            begin, end = np.searchsorted(where, [partition, partition + 1])
            writer.write_table(table.slice(begin, end - begin), row_group_size=max(1, int(end - begin)))


def _captions(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    config = from_mapping(DedupConfig, arguments["config"])
    rows = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in _row_groups(arguments):
            rows += batch.num_rows
            yield batch.cast(_CAPTIONS)

    streams = {"captions": (_CAPTIONS, batches())}
    with open_duckdb(spill_beside(path), memory_mb=config.memory_mb, streams=streams) as database:
        found = database.sql(
            "SELECT digest, sum(urls)::BIGINT AS urls FROM captions GROUP BY digest "
            f"HAVING sum(urls) > {config.max_urls_per_caption} ORDER BY digest"
        ).to_arrow_table()
    return {"rows": rows, "boilerplate": write_parquet(path, found.cast(_CAPTIONS), _CAPTIONS)}


def _boilerplate_here(arguments: Mapping[str, Any], config: DedupConfig, near: Path) -> frozenset[bytes]:
    """Digests of the boilerplate captions that stand in this very partition; the whole list may be large."""
    files = {"own": [arguments["own_captions"]], "boilerplate": arguments["boilerplate"]}
    with open_duckdb(spill_beside(near), memory_mb=config.memory_mb) as database:
        for name, parts in files.items():
            database.from_parquet([check(file) for file in parts]).create_view(name)
        found = database.sql("SELECT digest FROM own SEMI JOIN boilerplate USING (digest)").to_arrow_table()
    return frozenset(found["digest"].to_pylist())


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    unique_path, rejections_path, counts_path = outputs.values()
    config = from_mapping(DedupConfig, arguments["config"])
    stage = arguments["stage"]
    ledger = Ledger(rejections_path, from_mapping(LedgerConfig, arguments["ledger"]))
    bad = _boilerplate_here(arguments, config, unique_path) if stage == "captions" else frozenset()
    blocks = stage == "dedup"
    batches = read_blocks(arguments["files"], arguments["partition"]) if blocks else _whole_files(arguments)
    order = _ORDER["pair" if config.by == "pair" else config.keep]
    spill = spill_beside(unique_path)
    counts = np.zeros(arguments["num_queries"], np.int64)
    before = _Neighbours()
    rows = 0

    def kept() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in _sorted(batches, order, config, spill, arguments["seed"], bad):
            rows += batch.num_rows
            reasons = _verdicts(batch, config, before)
            plain = batch.select(MATCHED.names)
            keep = ledger.add(stage, "pair", reject(plain, stage=stage, reasons=reasons))
            ids = keep.column("query_ids").flatten().to_numpy(zero_copy_only=False)
            counts[:] += np.bincount(ids, minlength=len(counts))
            yield keep

    unique = write_parquet(unique_path, kept(), MATCHED)
    save_vector(counts_path, counts)
    return {"rows": rows, "kept": unique, "lines": ledger.close()}
