"""The store of facts: what came of every URL that was ever requested for this data set.

    work/fetch/NAME.facts.parquet   one FACTS row a URL        work/fetch/NAME.tar   its pictures
    work/fetch/done/NAME.json       the record, with the settings and the range of `order`

Files are only ever added: a changed t, list, filter or an extension asks here first. A fact holds for the
settings that it was made with. Left out of their fingerprint are those that only change speed, the block list,
which `requests` applies to every fact that a plan uses, and `noml` among the directives of X-Robots-Tag.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from configs.load import fingerprint, to_mapping
from pipeline.checked import Vouched, read_part, read_schema, read_table
from pipeline.engine import digest_in, read_record
from pipeline.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.fetch.config import FetchConfig

__all__ = ["STORE", "STORED", "FactFile", "facts_for", "facts_in", "read_facts", "settings_of"]

STORE = "fetch"
"""Its directory under OUT/work."""
_SPEED_ONLY = (
    *("concurrency", "per_host_concurrency", "per_host_rate", "per_host_failures"),
    *("max_waiting_bytes", "shard_deadline_s"),
    "engine_python",
)
_BLOCK_LIST = ("block", "block_files")
_LATER_DIRECTIVES = ("noml",)
"""Of `respect_x_robots_tag`: not yet in its default when sets were published whose facts would be made anew otherwise.
Their pictures were looked at by the directives of their time, and stay; the header itself is in no fact."""
STORED = pa.schema([*FACTS, pa.field("staging_tar", pa.string())])
"""Facts, and the tar under work/fetch that their offsets are places in; null where there is no picture."""


@dataclass(frozen=True, kw_only=True)
class FactFile:
    """The facts of one finished fetch task, or a range of the imported ones (`imported.py`)."""

    name: str
    """Of the Parquet, under work/fetch."""
    digest: str
    settings: str
    seed: int
    first: int
    """The range of `order`, under `seed`, of the URLs that were asked for."""
    last: int
    retry: int = 0
    """The number of the last retry when they were asked for (`retries.py`)."""


def settings_of(fetch: FetchConfig, image: ImageConfig) -> str:
    """32 hex digits over what decides an answer and the stored picture."""
    plain: dict[str, Any] = to_mapping(fetch)
    directives = plain["respect_x_robots_tag"]
    plain["respect_x_robots_tag"] = [name for name in directives if name not in _LATER_DIRECTIVES]
    return fingerprint({k: v for k, v in plain.items() if k not in _SPEED_ONLY + _BLOCK_LIST}, image)


def facts_in(directory: Path) -> list[FactFile]:
    """The files of all finished fetch tasks, of this plan and of earlier ones, by name."""
    found = []
    for path in sorted((directory / "done").glob("*.json")):
        record = read_record(path)
        if record is None:
            continue
        outputs, info = record["outputs"], record["info"]
        whole = all((directory / name).exists() for name in outputs)
        facts = [name for name in outputs if name.endswith(".facts.parquet")]
        if whole and facts and "settings" in info:
            fields = {key: info[key] for key in ("settings", "seed", "first", "last")}
            digest = digest_in(outputs[facts[0]])
            found.append(FactFile(name=facts[0], digest=digest, retry=info.get("retry", 0), **fields))
    return found


def facts_for(files: Sequence[FactFile], *, settings: str, seed: int, first: int, last: int) -> list[FactFile]:
    """The files that may know a URL whose `order` is in first..last."""
    return [
        file
        for file in files
        if file.settings == settings and (file.seed != seed or (file.first <= last and file.last >= first))
    ]


def read_facts(file: Vouched, orders: tuple[int, int], columns: Sequence[str] = tuple(STORED.names)) -> pa.Table:
    """Those `columns` of STORED in a file of facts; of one that is sorted by `order` only the range `orders`."""
    held = read_schema(file).names
    first, last = (pa.scalar(order, pa.uint64()) for order in orders)
    wanted = [name for name in columns if name in held]
    if "order" in held:
        table = read_part(file, [("order", ">=", first), ("order", "<=", last)], wanted)
    else:
        table = read_table(file, wanted)
    if "stored_xxh3" in columns and "stored_xxh3" not in held:  # of an earlier version
        field = STORED.field("stored_xxh3")
        table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    if "staging_tar" in columns and "staging_tar" not in held:
        tar = pa.scalar(Path(file.path).name.removesuffix(".facts.parquet") + ".tar")
        own = pc.if_else(pc.equal(table["status"], "success"), tar, pa.scalar(None, pa.string()))
        table = table.append_column(STORED.field("staging_tar"), own)
    for name in columns:  # what facts of earlier versions do not have
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, STORED.field(name).type))
    return table.select(columns).cast(pa.schema([STORED.field(name) for name in columns]))
