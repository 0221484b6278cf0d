"""requests: what a staging shard's plan needs, less what is known already -> the URLs to request.

    SELECTED + the store of facts --> known (url_id -> file of facts), missing (url_id, url)

The done-record freezes the split: a run that goes on after being killed asks for the same URLs as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine import Done, Task
from pipeline.steps.facts import FactFile, facts_for
from pipeline.steps.step import Step, key_of
from pipeline.storage import read_json, write_parquet

__all__ = ["KNOWN", "MISSING", "VERSION", "plan"]

VERSION = "requests-1"
KNOWN = pa.schema([pa.field("url_id", pa.binary(16), nullable=False), pa.field("facts", pa.string(), nullable=False)])
"""URLs of the plan whose answer is there, and in which file."""
MISSING = pa.schema([pa.field("url_id", pa.binary(16), nullable=False), pa.field("url", pa.string(), nullable=False)])
"""URLs of the plan that must be requested, each once, in the plan's order."""


def plan(
    scheduled: Sequence[Done],
    directory: Path,
    own: Path,
    store: tuple[Sequence[FactFile], Path],
    *,
    settings: str,
    seed: int,
) -> Step:
    """One task per staging shard; `own` is this step's directory, `store` the facts that there are and where."""
    files, store_directory = store
    names = {file.name for file in files}
    tasks = []
    for record in scheduled:
        name, (first, last) = record.partition, (record.info["first"], record.info["last"])
        arguments = {
            "selected": str(record.path(directory, "selected")),
            "store": str(store_directory),
            "files": facts_for(files, settings=settings, seed=seed, first=first, last=last),
        }
        outputs = (f"{name}.known.parquet", f"{name}.missing.parquet")
        key = key_of(VERSION, [record], settings, _lost(own, name, names))
        tasks.append(Task(partition=name, work=_work, arguments=arguments, outputs=outputs, key=key))
    return Step(name="requests", title="look up what is known", tasks=tasks)


def _lost(own: Path, partition: str, names: set[str]) -> list[str]:
    """Files that the last split relied on and that somebody has removed since: then it must be made again."""
    record = read_json(own / "done" / f"{partition}.json") or {}
    return sorted(set(record.get("info", {}).get("files", [])) - names)


def _work(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    known_path, missing_path = outputs.values()
    selected = pq.read_table(arguments["selected"], columns=["url_id", "url"])
    urls: dict[bytes, str] = {}
    for url_id, url in zip(selected["url_id"].to_pylist(), selected["url"].to_pylist(), strict=True):
        urls.setdefault(url_id, url)
    known: dict[bytes, tuple[bool, str]] = {}
    for name in arguments["files"]:
        table = pq.read_table(Path(arguments["store"]) / name, columns=["url_id", "status"])
        for url_id, status in zip(table["url_id"].to_pylist(), table["status"].to_pylist(), strict=True):
            if url_id in urls:  # a picture outweighs a failure; then the file's name decides
                known[url_id] = max(known.get(url_id, (False, "")), (status == "success", name))
    found = [(url_id, known[url_id][1]) for url_id in urls if url_id in known]
    missing = [(url_id, url) for url_id, url in urls.items() if url_id not in known]
    _write(known_path, found, KNOWN)
    _write(missing_path, missing, MISSING)
    files = sorted({name for _, name in found})
    return {"rows": len(urls), "known": len(found), "missing": len(missing), "files": files}


def _write(path: Path, rows: Sequence[tuple[bytes, str]], schema: pa.Schema) -> None:
    columns = [pa.array([row[i] for row in rows], schema.field(i).type) for i in range(2)]
    write_parquet(path, pa.Table.from_arrays(columns, schema=schema), schema)
