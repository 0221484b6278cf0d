"""salvage: a damaged staging tar -> its whole pictures in a tar, with all facts but of those that are lost.

A download cannot be repeated exactly, so what is whole stays, failures included, and what is whole in the published
version is taken from there. What is lost is missing from the facts and therefore requested again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.engine import Done, Info, Task, apart
from pipeline.records.schema import FACTS
from pipeline.records.shard import extension_of
from pipeline.steps.fetch.facts import STORED, Answers, answers_of, read_facts
from pipeline.steps.fetch.pictures import Pictures, Published, by_bytes
from pipeline.storage.checked import picture_hash
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place, place_of
from pipeline.storage.tar import TarWriter

__all__ = ["Salvage", "kept_rows", "salvage"]


@dataclass(frozen=True, kw_only=True)
class Salvage(Task[Answers]):
    """Take what is whole of a fetch task's files. Its work raises DamagedFileError where the facts are damaged too."""

    facts: Location
    damaged: Location
    """The tar."""
    info: Mapping[str, Any]
    """What the fetch task said, which holds for what is left."""
    store: str = apart()
    """The directory of the store of facts."""
    before: Published = apart()
    """The version before, where some of the pictures lie alone."""

    version = 2

    def work(self, out: Answers) -> Info:
        orders = (self.info["first"], self.info["last"])
        rows = read_facts(self.facts, orders, STORED.names).to_pylist()
        with Pictures(place_of(self.store), self.before) as pictures, TarWriter(out.tar.local) as tar:
            kept = list(kept_rows(rows, pictures, tar))
        write_parquet(out.facts.local, pa.Table.from_pylist(kept, schema=FACTS), FACTS)
        success = sum(1 for row in kept if row["status"] == "success")
        return {**self.info, "rows": len(kept), "success": success, "lost": len(rows) - len(kept)}


def salvage(store: Place, record: Done, before: Published) -> Salvage:
    """The one task, in the store of facts; `record` is of the fetch task that wrote the tar. Its name is new: whoever
    relies on the old files must see that they are gone."""
    answers = answers_of(record, store)
    assert answers is not None
    name = f"{record.partition}-{answers.facts.digest[:8]}"
    return Salvage(
        partition=name, facts=answers.facts, damaged=answers.tar, info=record.info, store=str(store), before=before
    )


def kept_rows(
    rows: Sequence[dict[str, Any]], pictures: Pictures, tar: TarWriter, *, is_whole: bool = False
) -> Iterator[dict[str, Any]]:
    """The rows without those of lost pictures. One without a hash, of an earlier version, counts as lost, unless its
    tar `is_whole`: then that is held against its record, and DamagedFileError raised where it is not."""
    yield from (row for row in rows if row["status"] != "success")
    for some in by_bytes(
        [row for row in rows if row["status"] == "success" and (is_whole or row["stored_xxh3"] is not None)]
    ):
        for row, image in zip(some, pictures.find(some), strict=True):
            if image is not None:
                offset = tar.add(f"{row['url_id'].hex()}.{extension_of(image)}", image)
                yield row | {"tar_offset": offset, "stored_xxh3": picture_hash(image)}
