"""salvage: a damaged staging tar -> its whole pictures in a tar, with all facts but of those that are damaged.

A download cannot be repeated exactly, so what is whole stays, failures included; what is lost is missing from the
facts and therefore requested again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.engine import Done, Info, Task
from pipeline.errors import DamagedFileError
from pipeline.records.schema import FACTS
from pipeline.records.shard import extension_of
from pipeline.steps.fetch.facts import Answers, read_facts
from pipeline.storage.checked import open_file, read_range
from pipeline.storage.location import Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place
from pipeline.storage.tar import TarWriter

__all__ = ["Salvage", "salvage"]


@dataclass(frozen=True, kw_only=True)
class Salvage(Task[Answers]):
    """Take what is whole of a fetch task's files. Its work raises DamagedFileError where the facts are damaged too."""

    facts: Location
    damaged: Location
    """The tar."""
    info: Mapping[str, Any]
    """What the fetch task said, which holds for what is left."""

    version = 2

    def work(self, out: Answers) -> Info:
        orders = (self.info["first"], self.info["last"])
        rows = read_facts(self.facts, orders, FACTS.names).to_pylist()
        with TarWriter(out.tar.local) as tar:
            kept = list(_kept(rows, self.damaged.path, tar))
        write_parquet(out.facts.local, pa.Table.from_pylist(kept, schema=FACTS), FACTS)
        success = sum(1 for row in kept if row["status"] == "success")
        return {**self.info, "rows": len(kept), "success": success, "lost": len(rows) - len(kept)}


def salvage(store: Place, record: Done) -> Salvage:
    """The one task, in the store of facts; `record` is of the fetch task that wrote the tar. Its name is new: whoever
    relies on the old files must see that they are gone."""
    files = record.located(store)
    facts, tar = (next(files[name] for name in files if name.endswith(kind)) for kind in (".parquet", ".tar"))
    name = f"{record.partition}-{facts.digest[:8]}"
    return Salvage(partition=name, facts=facts, damaged=tar, info=record.info)


def _kept(rows: list[dict[str, Any]], damaged: str, tar: TarWriter) -> Iterator[dict[str, Any]]:
    """The rows without those of damaged pictures. One without a hash, of an earlier version, counts as damaged."""
    for row in rows:
        if row["status"] == "success":
            if row["stored_xxh3"] is None:
                continue
            try:
                with open_file(damaged) as file:
                    image = read_range(file, row["tar_offset"], row["num_bytes"], row["stored_xxh3"])
            except DamagedFileError:
                continue
            row = row | {"tar_offset": tar.add(f"{row['url_id'].hex()}.{extension_of(image)}", image)}
        yield row
