"""salvage: a damaged staging tar -> its whole pictures in a tar, with all facts but of those that are damaged.

A download cannot be repeated exactly, so what is whole stays, failures included; what is lost is missing from the
facts and therefore requested again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.checked import Vouched, open_file, read_range
from pipeline.engine import Task, digest_in
from pipeline.errors import DamagedFileError
from pipeline.schema import FACTS
from pipeline.shard import extension_of
from pipeline.steps.facts import read_facts
from pipeline.storage import write_parquet
from pipeline.tar import TarWriter

__all__ = ["plan"]


def plan(store: Path, record: Mapping[str, Any]) -> Task:
    """The one task, in the store of facts; `record` is of the fetch task that wrote the tar. Its name is new: whoever
    relies on the old files must see that they are gone."""
    facts, tar = (next(name for name in record["outputs"] if name.endswith(kind)) for kind in (".parquet", ".tar"))
    digest = digest_in(record["outputs"][facts])
    name = f"{record['partition']}-{digest[:8]}"
    arguments = {"facts": Vouched(str(store / facts), digest), "tar": str(store / tar), "info": record["info"]}
    outputs = (f"{name}.facts.parquet", f"{name}.tar")
    return Task(partition=name, work=_work, arguments=arguments, outputs=outputs, key=name)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    """Raises DamagedFileError where the facts are damaged too."""
    facts_path, tar_path = outputs.values()
    info = arguments["info"]
    rows = read_facts(arguments["facts"], (info["first"], info["last"]), FACTS.names).to_pylist()
    with TarWriter(tar_path) as tar:
        kept = list(_kept(rows, arguments["tar"], tar))
    write_parquet(facts_path, pa.Table.from_pylist(kept, schema=FACTS), FACTS)
    success = sum(1 for row in kept if row["status"] == "success")
    return {**info, "rows": len(kept), "success": success, "lost": len(rows) - len(kept)}


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
