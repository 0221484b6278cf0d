"""imported: the facts of all imported pictures, from the order of their sources into the plan's.

    work/fetch/imported/*.facts.parquet --cut by `order`--> blocks --merge, sort--> NAME.facts.parquet per range

An import holds the pictures of one source file, which the plan spreads over all staging shards. Without this exchange
each of those would look through each import. The ranges are equal, each of about a million facts; a staging shard reads
its own rows of the one or two files that it meets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.checked import read_batches
from pipeline.engine import Done, Task
from pipeline.identity import first_64_bits, keyed_hash
from pipeline.schema import FACTS
from pipeline.stages.fetch.retry import merge_numbered
from pipeline.steps.exchange import ExchangeWriter, first_of, groups_of, read_blocks
from pipeline.steps.facts import STORED, FactFile
from pipeline.steps.import_shards import DIRECTORY
from pipeline.steps.step import Step, key_of
from pipeline.storage import write_parquet

__all__ = ["IMPORTED", "VERSION", "facts_of", "plan", "plan_exchange"]

VERSION = "imported-2"
IMPORTED = pa.schema([*STORED, pa.field("order", pa.uint64(), nullable=False)])
"""Facts in the plan's order, one row a URL."""
_BLOCK = pa.schema([*FACTS, pa.field("import", pa.string(), nullable=False), IMPORTED.field("order")])
"""Facts and the import that they are of, as its files are named without their endings."""
_BY_ORDER = "by_order"


def plan_exchange(stored: Sequence[Done], directory: Path, seed: int, *, rows_per_task: int) -> Step:
    """One task per group of imports with about `rows_per_task` facts together; as many partitions as that makes."""
    counts = [int(done.info["rows"]) for done in stored]
    partitions = max(1, math.ceil(sum(counts) / rows_per_task))
    tasks = []
    for number, group in enumerate(groups_of(stored, counts, rows_per_task)):
        name = f"{number:05d}"
        arguments = {
            "facts": [done.file(directory / DIRECTORY, "facts") for done in group],
            "partitions": partitions,
            "rows": rows_per_task,
            "seed": seed,
        }
        key = key_of(VERSION, group, partitions, rows_per_task, seed)
        outputs = (f"{name}.blocks", f"{name}.index.npy")
        tasks.append(Task(partition=name, work=_cut, arguments=arguments, outputs=outputs, key=key))
    return Step(name="import_exchange", title="exchange imported facts", tasks=tasks)


def plan(cut: Sequence[Done], directory: Path) -> Step:
    """One task per range of `order`; its file is named after what it holds, for `requests` to see a change."""
    partitions = int(cut[0].info["partitions"]) if cut else 0
    files = [(done.file(directory, "blocks"), done.file(directory, "index.npy")) for done in cut]
    key = key_of(VERSION, cut)
    tasks = []
    for partition in range(partitions):
        name = f"{partition:05d}-{key[:12]}"
        arguments = {"files": files, "partition": partition, "partitions": partitions}
        outputs = (f"{name}.facts.parquet",)
        tasks.append(Task(partition=name, work=_merge, arguments=arguments, outputs=outputs, key=key))
    return Step(name=f"fetch/{_BY_ORDER}", title="sort imported facts", tasks=tasks)


def facts_of(by_order: Sequence[Done], *, settings: str, seed: int) -> list[FactFile]:
    """The sorted files as part of the store in work/fetch; they hold whatever the settings of `fetch` are."""
    return [
        FactFile(
            name=f"{_BY_ORDER}/{name}",
            digest=digest,
            settings=settings,
            seed=seed,
            first=done.info["first"],
            last=done.info["last"],
        )
        for done in by_order
        for name, digest in done.outputs.items()
    ]


def _cut(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    blocks, index = outputs.values()
    partitions, rows = arguments["partitions"], 0
    with ExchangeWriter(blocks, index, _BLOCK, partitions=partitions, rows=arguments["rows"], by="order") as writer:
        for file in arguments["facts"]:
            name = Path(file.path).name.removesuffix(".facts.parquet")
            for batch in read_batches(file):
                rows += batch.num_rows
                ids = first_64_bits(b"".join(batch.column("url_id").to_pylist()))
                columns = [
                    *batch.cast(FACTS).columns,
                    pa.repeat(name, batch.num_rows),
                    pa.array(keyed_hash(arguments["seed"], ids)),
                ]
                writer.add(pa.RecordBatch.from_arrays(columns, schema=_BLOCK))
    return {"rows": rows, "partitions": partitions}


def _merge(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    (path,) = outputs.values()
    partition, partitions = arguments["partition"], arguments["partitions"]
    table = pa.Table.from_batches(read_blocks(arguments["files"], partition), _BLOCK)
    # Of two imports with the same URL the first by name counts as the older.
    names = sorted(pc.unique(table["import"]).to_pylist())
    generation = pc.index_in(table["import"], pa.array(names, pa.string()))
    table = merge_numbered(table.append_column("generation", generation))
    tars = pc.binary_join_element_wise(DIRECTORY, pc.binary_join_element_wise(table["import"], ".tar", ""), "/")
    own = pc.if_else(pc.equal(table["status"], "success"), tars, pa.scalar(None, pa.string()))
    table = table.append_column("staging_tar", own).sort_by([("order", "ascending"), ("url_id", "ascending")])
    rows = write_parquet(path, table, IMPORTED)
    return {"rows": rows, "first": first_of(partition, partitions), "last": first_of(partition + 1, partitions) - 1}
