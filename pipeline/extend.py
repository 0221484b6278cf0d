"""extend: more sources for a finished data set, and what that changed.

    run CONFIG --extend:  the set's sources + CONFIG's new ones --the recipe--> the set over all of them
                          plan before, plan after --changes--> work/changes: added, evicted

Nothing here selects anything. The recipe makes of both crawls what one run over both would have made, row for
row; the steps skip the files that were read before, and the store of facts (`steps/facts.py`) leaves only
the added URLs to be requested. While an extension is under way, work/before holds the plan that it started from.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.load import ConfigError, load, to_mapping
from pipeline.checked import Vouched, check
from pipeline.duck import open_duckdb, spill_beside
from pipeline.engine import Done, Task, read_record
from pipeline.queries import read_queries
from pipeline.steps.step import Step, key_of
from pipeline.storage import read_sealed, temporary_name, unwritable, write_parquet, write_sealed
from pipeline.wit import WitConfig, work_directory

__all__ = ["CHANGES", "begin", "end", "extended", "plan_changes"]

VERSION = "changes-1"
CHANGES = pa.schema(
    [
        pa.field("uid", pa.binary(16), nullable=False),
        pa.field("url_id", pa.binary(16), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
    ]
)
"""A pair that came into the plan or left it."""
_MAY_DIFFER = ("sources", "max_sources", "output", "engine")
_MEMORY_MB = 1024


def extended(config: WitConfig) -> WitConfig:
    """`config` with the sources of the data set in its output first, and its own new ones after them.

    Raises ConfigError where there is nothing to extend, an extension by other sources is under way, or the
    config or the query list is not the one that made the set.
    """
    output = Path(config.output)
    made_by = output / "config.yaml"
    if not made_by.exists():
        raise ConfigError(f"--extend: {output} holds no data set yet; run without --extend first")
    before = load(WitConfig, made_by)
    old, new = to_mapping(before), to_mapping(config)
    differ = list(_differences(old, new, ""))
    if differ:
        (key, was, now), *others = differ
        more = f" (and {', '.join(key for key, *_ in others)})" if others else ""
        raise ConfigError(
            f"--extend: {key} is {now!r}, but {output} was made with {was!r}{more}; an extension keeps the config: "
            f"put it back ({made_by} has it whole), or run without --extend to build the set anew"
        )
    if config.max_sources is not None and config.max_sources < (before.max_sources or math.inf):
        raise ConfigError(
            f"--extend: max_sources is {config.max_sources}, but {output} was made with {before.max_sources or 'all'}; "
            "an extension only adds: put it back or raise it"
        )
    listed = read_record(work_directory(output, "queries") / "done" / "all.json") or {}
    made_with = listed.get("info", {}).get("fingerprint")
    if made_with is not None and made_with != read_queries(config.queries).fingerprint:
        raise ConfigError(
            f"--extend: {config.queries} is not the query list that {output} was made with; put that one back, "
            "or run without --extend to build the set anew"
        )
    sources = tuple(dict.fromkeys((*before.sources, *config.sources)))
    under_way = read_sealed(_before(output) / "extension.json")
    if under_way is not None and tuple(under_way["sources"]) != sources:
        raise ConfigError(
            f"--extend: an extension of {output} by other sources is under way "
            f"({', '.join(under_way['sources'])}); finish it first, with these"
        )
    return dataclasses.replace(config, sources=sources)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for key, now in new.items():
        was = old.get(key)
        if not prefix and key in _MAY_DIFFER:
            continue
        if isinstance(now, Mapping) and isinstance(was, Mapping):
            yield from _differences(was, now, f"{prefix}{key}.")
        elif was != now:
            yield f"{prefix}{key}", was, now


def _before(output: Path) -> Path:
    return output / "work" / "before"


def begin(config: WitConfig) -> None:
    """Keep the present plan aside, unless an interrupted extension did so already.

    `config` is the extended one. The plan's files get a second name (a hard link, or a copy), so that they
    outlive the steps that write the new plan.
    """
    output = Path(config.output)
    directory = _before(output)
    if read_sealed(directory / "extension.json") is not None:
        return
    present = work_directory(output, "balance")
    manifest = read_sealed(present / "manifest.json") or {"tasks": []}
    outputs = {name: sha for task in manifest["tasks"] for name, sha in task["outputs"].items()}
    chosen = {name: sha for name, sha in outputs.items() if name.endswith(".chosen.parquet")}
    temporary = temporary_name(output / "before")  # where the next run would sweep it
    try:
        temporary.mkdir()
        for name in chosen:
            try:
                os.link(present / name, temporary / name)
            except OSError:
                shutil.copyfile(present / name, temporary / name)
        write_sealed(temporary / "extension.json", {"sources": list(config.sources), "chosen": chosen})
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
    except OSError as error:
        raise unwritable(directory, error) from error


def plan_changes(config: WitConfig, chosen: Sequence[Done]) -> Step | None:
    """One task: the pairs that the plan gained and lost; None where no extension by these sources is under way."""
    output = Path(config.output)
    state = read_sealed(_before(output) / "extension.json")
    if state is None or tuple(state["sources"]) != config.sources:
        return None
    present = work_directory(output, "balance")
    task = Task(
        partition="all",
        work=_changes,
        arguments={
            "before": [Vouched(str(_before(output) / name), sha) for name, sha in sorted(state["chosen"].items())],
            "after": [record.file(present, "chosen") for record in chosen],
        },
        outputs=("all.added.parquet", "all.evicted.parquet"),
        key=key_of(VERSION, chosen, sorted(state["chosen"].items())),
    )
    return Step(name="changes", title="list what was added and evicted", tasks=[task])


def end(output: Path) -> None:
    """The extension is published and its changes are listed: forget the old plan."""
    shutil.rmtree(_before(output), ignore_errors=True)


def _changes(arguments: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    added_path, evicted_path = outputs.values()
    added = _only_in(arguments["after"], arguments["before"], added_path)
    evicted = _only_in(arguments["before"], arguments["after"], evicted_path)
    return {"rows": added + evicted, "added": added, "evicted": evicted}


def _only_in(these: Sequence[Vouched], others: Sequence[Vouched], path: Path) -> int:
    """Write the pairs of `these` files whose uid is not in the `others`, in the set's order."""
    with open_duckdb(spill_beside(path), memory_mb=_MEMORY_MB) as database:
        for name, files in (("these", these), ("others", others)):
            columns = 'uid, url_id, url, caption, "order"'
            if files:
                database.from_parquet([check(file) for file in files]).project(columns).create_view(name)
            else:
                empty = ", ".join(f"NULL::{kind} AS c" for kind in ("BLOB", "BLOB", "VARCHAR", "VARCHAR", "UBIGINT"))
                database.execute(f'CREATE VIEW {name}(uid, url_id, url, caption, "order") AS SELECT {empty} LIMIT 0')
        reader = database.sql(
            'SELECT uid, url_id, url, caption FROM these ANTI JOIN others USING (uid) ORDER BY "order", uid'
        ).to_arrow_reader(65_536)
        return write_parquet(path, (batch.cast(CHANGES) for batch in reader), CHANGES)
