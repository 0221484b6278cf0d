"""imported: the facts of all imported pictures, from the order of their sources into the plan's.

    work/fetch/imported/*.facts.parquet --cut by `order`--> blocks --merge, sort--> NAME.facts.parquet per range

An import holds the pictures of one source file, which the plan spreads over all staging shards. Without this exchange
each of those would look through each import. The ranges are equal, each of about a million facts; a staging shard reads
its own rows of the one or two files that it meets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine import Data, Info, Needs, Task
from pipeline.records.earlier import as_now
from pipeline.records.identity import first_64_bits, keyed_hash
from pipeline.records.schema import FACTS
from pipeline.stages.fetch.healing import merge_numbered
from pipeline.steps.exchange import Blocks, Exchanged, ExchangeWriter, first_of, groups_of, read_blocks
from pipeline.steps.fetch.facts import IMPORTS, STORE, STORED_BY_ORDER, Answers, FactsByOrder, named_by_key
from pipeline.steps.step import Run, step
from pipeline.storage.checked import read_batches
from pipeline.storage.location import Files
from pipeline.storage.parquet import write_parquet

__all__ = ["CutFacts", "SortFacts", "exchange_facts", "sort_facts"]

_BLOCK = pa.schema([*FACTS, pa.field("import", pa.string(), nullable=False), STORED_BY_ORDER.field("order")])
"""Facts and the import that they are of, as its files are named without their endings."""


@dataclass(frozen=True, kw_only=True)
class CutFacts(Task[Blocks]):
    """Cut some imports' facts by their URLs' `order`."""

    facts: Files
    imports: tuple[str, ...]
    """The name of each of them."""
    partitions: int
    rows_per_flush: int
    seed: int

    version = 4
    needs = Needs(memory_mb=1500)

    def work(self, out: Blocks) -> Info:
        rows = 0
        most, partitions = self.rows_per_flush, self.partitions
        with ExchangeWriter(out, _BLOCK, partitions=partitions, rows=most, by="order") as writer:
            for name, file in zip(self.imports, self.facts, strict=True):
                for batch in read_batches(file):
                    rows += batch.num_rows
                    ids = first_64_bits(b"".join(batch.column("url_id").to_pylist()))
                    columns = [
                        *as_now(batch, FACTS).columns,
                        pa.repeat(name, batch.num_rows),
                        pa.array(keyed_hash(self.seed, ids)),
                    ]
                    writer.add(pa.RecordBatch.from_arrays(columns, schema=_BLOCK))
        return {"rows": rows, "partitions": partitions}


@step("import_exchange", CutFacts, title="exchange imported facts", per="million rows")
def exchange_facts(run: Run, imported: Data[Answers], rows_per_flush: int) -> Iterator[CutFacts]:
    """One task per group of imports with about `rows_per_flush` facts together; as many partitions as that makes."""
    counts = [int(part.info["rows"]) for part in imported.parts]
    partitions = max(1, math.ceil(sum(counts) / rows_per_flush))
    for number, group in enumerate(groups_of(imported.parts, counts, rows_per_flush)):
        yield CutFacts(
            partition=f"{number:05d}",
            facts=Files(part.files.facts for part in group),
            imports=tuple(part.name for part in group),
            partitions=partitions,
            rows_per_flush=rows_per_flush,
            seed=run.seed,
        )


@dataclass(frozen=True, kw_only=True)
class SortFacts(Task[FactsByOrder]):
    """Bring the facts of a range of `order` together."""

    cut: Exchanged
    number: int
    """Of the range."""
    ranges: int

    version = 4
    needs = Needs(memory_mb=1500)

    def work(self, out: FactsByOrder) -> Info:
        table = pa.Table.from_batches((as_now(each, _BLOCK) for each in read_blocks(self.cut, self.number)), _BLOCK)
        # Of two imports with the same URL the first by name counts as the older.
        names = sorted(pc.unique(table["import"]).to_pylist())
        generation = pc.index_in(table["import"], pa.array(names, pa.string()))
        table = merge_numbered(table.append_column("generation", generation))
        tars = pc.binary_join_element_wise(IMPORTS, pc.binary_join_element_wise(table["import"], ".tar", ""), "/")
        own = pc.if_else(pc.equal(table["status"], "success"), tars, pa.scalar(None, pa.string()))
        table = table.append_column("staging_tar", own).sort_by([("order", "ascending"), ("url_id", "ascending")])
        rows = write_parquet(out.facts.local, table, STORED_BY_ORDER)
        first, after = first_of(self.number, self.ranges), first_of(self.number + 1, self.ranges)
        return {"rows": rows, "first": first, "last": after - 1}


@step(f"{STORE}/by_order", SortFacts, title="sort imported facts", per="range of order")
def sort_facts(run: Run, cut: Data[Blocks]) -> Iterator[SortFacts]:
    """One task per range of `order`; its file is named after what it holds, for `requests` to see a change."""
    ranges = int(cut.parts[0].info["partitions"]) if cut.parts else 0
    exchanged = Exchanged.of(cut)
    for number in range(ranges):
        yield named_by_key(SortFacts(partition=f"{number:05d}", cut=exchanged, number=number, ranges=ranges))
