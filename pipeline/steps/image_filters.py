"""filters: FETCHED -> FETCHED, by size, caption, language, and scores that arrive as Parquet by uid.

score files --scores (one task per column and uid range)--> sorted vectors, memory-mapped
FETCHED + vectors --filters (one task per staging shard)--> FETCHED
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.load import fingerprint, from_mapping, to_mapping
from pipeline.checked import Vouched, load_vector
from pipeline.engine import Done, Task
from pipeline.errors import InputError
from pipeline.ledger import LedgerConfig
from pipeline.stages.image_filters import FiltersConfig, ScoreFilter, filter_facts
from pipeline.steps.judge import Survivors, judge, named_files, stamp_of
from pipeline.steps.step import Step, key_of
from pipeline.storage import save_vector

__all__ = ["VERSION", "plan", "plan_scores"]

VERSION = "filters-1"
_BATCH_ROWS = 65_536
Keys = npt.NDArray[np.uint64]
"""uint64[N, 2]: uids, big-endian, the first half in column 0."""


def plan_scores(config: FiltersConfig) -> Step:
    """One task per score and uid range; none without scores. InputError for files that are missing or not scores."""
    tasks = []
    for i, score in enumerate(config.scores):
        files = named_files(score.files, f"filters.scores[{i}].files")
        for file in files:
            _check(file, score)
        stamps = [stamp_of(file) for file in files]
        for part in range(config.score_partitions):
            name = f"score-{i:02d}-{part:03d}"
            arguments = {"files": files, "column": score.column, "part": part, "parts": config.score_partitions}
            key = fingerprint(VERSION, arguments, stamps)
            outputs = (f"{name}.uids.npy", f"{name}.values.npy")
            tasks.append(Task(partition=name, work=_sort, arguments=arguments, outputs=outputs, key=key))
    return Step(name="scores", title="sort scores", tasks=tasks)


def _check(file: str, score: ScoreFilter) -> None:
    try:
        schema = pq.read_schema(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{file}: not a Parquet file of scores ({error}); correct `filters.scores`") from error
    for name in ("uid", score.column):
        if name not in schema.names:
            raise InputError(f"{file}: no column {name!r}, only {', '.join(schema.names)}; correct `filters.scores`")
    kind = schema.field(score.column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(f"{file}: the column {score.column!r} holds {kind}, not numbers; choose another")


def _keys_of(uids: pa.Array | pa.ChunkedArray) -> Keys:
    """uint64[N, 2] from binary(16), binary or hex text. Raises ValueError for anything else, nulls included."""
    plain = uids.to_pylist()
    data = b"".join(bytes.fromhex(uid) if isinstance(uid, str) else bytes(uid or b"") for uid in plain)
    if len(data) != 16 * len(plain):
        raise ValueError("uids are 16 bytes or 32 hex digits")
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2)


def _sort(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    """A uid given twice has the value that comes last."""
    uids_path, values_path = outputs.values()
    part, parts = arguments["part"], arguments["parts"]
    keys, values = [np.empty((0, 2), np.uint64)], [np.empty(0, np.float64)]
    for name in arguments["files"]:
        with pq.ParquetFile(name) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=["uid", arguments["column"]]):
                try:
                    ids = _keys_of(batch.column("uid"))
                except (ValueError, TypeError) as error:
                    raise InputError(f"{name}: {error}; correct the column uid") from error
                mine = ((ids[:, 0] >> np.uint64(32)) * np.uint64(parts)) >> np.uint64(32) == part
                number = pc.fill_null(pc.cast(batch.column(arguments["column"]), pa.float64()), float("nan"))
                keys.append(ids[mine])
                values.append(number.to_numpy(zero_copy_only=False)[mine])
    uids, numbers = np.concatenate(keys), np.concatenate(values)
    order = np.lexsort((uids[:, 1], uids[:, 0]))  # stable: equal uids stay in the order of the files
    uids, numbers = uids[order], numbers[order]
    last = np.ones(len(uids), bool)
    last[:-1] = (uids[1:] != uids[:-1]).any(axis=1)
    save_vector(uids_path, uids[last])
    save_vector(values_path, numbers[last])
    return {"rows": int(last.sum())}


def plan(
    survivors: Survivors, scores: tuple[Sequence[Done], Path], config: FiltersConfig, ledger: LedgerConfig
) -> Step:
    """One task per staging shard; none where nothing is filtered."""
    tasks = []
    vectors: dict[str, list[list[Vouched]]] = {}
    for record in scores[0]:
        pair = [record.file(scores[1], kind) for kind in ("uids.npy", "values.npy")]
        vectors.setdefault(record.partition.split("-")[1], []).append(pair)
    for record in survivors[0] if config.active else ():
        name = record.partition
        arguments = {
            "fetched": record.file(survivors[1], "fetched"),
            "vectors": [vectors[i] for i in sorted(vectors)],
            "config": to_mapping(config),
            "ledger": to_mapping(ledger),
        }
        outputs = (f"{name}.fetched.parquet", f"{name}.rejections.parquet")
        key = key_of(VERSION, [record, *scores[0]], config, ledger)
        tasks.append(Task(partition=name, work=_work, arguments=arguments, outputs=outputs, key=key))
    return Step(name="filters", title="filter pairs", tasks=tasks)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    config = from_mapping(FiltersConfig, arguments["config"])

    def decide(batch: pa.RecordBatch) -> Any:
        found: dict[int, npt.NDArray[np.float64]] = {}
        if config.scores and batch.num_rows:
            wanted = _keys_of(batch.column("uid"))
            found = {i: _look_up(wanted, files) for i, files in enumerate(arguments["vectors"])}
        return filter_facts(batch, config, found or {i: np.empty(0) for i in range(len(config.scores))})

    return judge("filters", arguments, outputs, decide)


@functools.lru_cache(maxsize=256)
def _open_vector(file: Vouched) -> npt.NDArray[Any]:
    """Checked and opened once a worker process: a task looks up few of the scores, and would read all of them."""
    return load_vector(file)


def _look_up(wanted: Keys, files: Sequence[Sequence[Vouched]]) -> npt.NDArray[np.float64]:
    """float64[N]: the values of `wanted` in the sorted vectors, NaN where there is none."""
    result = np.full(len(wanted), np.nan)
    where = ((wanted[:, 0] >> np.uint64(32)) * np.uint64(len(files))) >> np.uint64(32)
    for part, (uids_path, values_path) in enumerate(files):
        uids, values = _open_vector(uids_path), _open_vector(values_path)
        rows = np.flatnonzero(where == part)
        at = np.searchsorted(uids[:, 0], wanted[rows, 0], "left")
        while len(rows):  # more than once only where two uids share their first half
            inside = at < len(uids)
            rows, at = rows[inside], at[inside]
            same_half = uids[at, 0] == wanted[rows, 0]
            rows, at = rows[same_half], at[same_half]
            hit = uids[at, 1] == wanted[rows, 1]
            result[rows[hit]] = values[at[hit]]
            rows, at = rows[~hit], at[~hit] + 1
    return result
