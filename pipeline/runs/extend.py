"""extend: more sources for a finished data set, and what that changed.

    run CONFIG --extend:  the set's sources + CONFIG's new ones --the page--> the set over all of them
                          plan before, plan after --changes--> work/changes: added, evicted

Nothing here selects anything. The page makes of both crawls what one run over both would have made, row for
row; the steps skip the files that were read before, and the store of facts (`steps/fetch/facts.py`) leaves only
the added URLs to be requested. While an extension is under way, work/before holds the plan that it started from.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.load import ConfigError, load, to_mapping
from pipeline.config import WitConfig
from pipeline.engine import Data, Info, Task, output, record_of
from pipeline.errors import DamagedFileError
from pipeline.records.queries import read_queries
from pipeline.steps.balance.plan import Chosen
from pipeline.steps.step import Page, Run, Step, step
from pipeline.storage.atomic import read_sealed, remove_tree, temporary_name, unwritable, write_sealed
from pipeline.storage.bucket import BucketPath
from pipeline.storage.checked import check
from pipeline.storage.duck import open_duckdb, spill_beside
from pipeline.storage.location import Files, Location
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place, place_of
from pipeline.wit import build

__all__ = ["CHANGES", "Changes", "ListChanges", "begin", "changes_of", "end", "extended", "list_changes"]

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
    root = place_of(config.output)
    made_by = root / "config.yaml"
    if not made_by.exists():
        raise ConfigError(f"--extend: {root} holds no data set yet; run without --extend first")
    before = load(WitConfig, made_by)
    old, new = to_mapping(before), to_mapping(config)
    differ = list(_differences(old, new, ""))
    if differ:
        (key, was, now), *others = differ
        more = f" (and {', '.join(key for key, *_ in others)})" if others else ""
        raise ConfigError(
            f"--extend: {key} is {now!r}, but {root} was made with {was!r}{more}; an extension keeps the config: "
            f"put it back ({made_by} has it whole), or run without --extend to build the set anew"
        )
    if config.max_sources is not None and config.max_sources < (before.max_sources or math.inf):
        raise ConfigError(
            f"--extend: max_sources is {config.max_sources}, but {root} was made with {before.max_sources or 'all'}; "
            "an extension only adds: put it back or raise it"
        )
    listed = record_of(build(config).run.directory("queries"), "all")
    made_with = None if listed is None else listed.info.get("fingerprint")
    if made_with is not None and made_with != read_queries(config.queries).fingerprint:
        raise ConfigError(
            f"--extend: {config.queries} is not the query list that {root} was made with; put that one back, "
            "or run without --extend to build the set anew"
        )
    sources = tuple(dict.fromkeys((*before.sources, *config.sources)))
    under_way = read_sealed(_before(root) / "extension.json")
    if under_way is not None and tuple(under_way["sources"]) != sources:
        raise ConfigError(
            f"--extend: an extension of {root} by other sources is under way "
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


def _before(output: Place) -> Place:
    return output / "work" / "before"


def begin(config: WitConfig) -> None:
    """Keep the present plan aside, unless an interrupted extension did so already.

    `config` is the extended one. The plan's files get a second name (a hard link, or a copy), so that they
    outlive the steps that write the new plan.
    """
    root = place_of(config.output)
    directory = _before(root)
    if read_sealed(directory / "extension.json") is not None:
        return
    present = build(config)["balance"].data.present("chosen")
    chosen = {file.name: file.digest for file in present}
    extension = {"sources": list(config.sources), "chosen": chosen}
    if isinstance(root, BucketPath):
        _copy_aside(present, directory, extension)
        return
    assert isinstance(directory, Path)
    temporary = temporary_name(root / "before")  # where the next run would sweep it
    try:
        temporary.mkdir()
        for file in present:
            try:
                os.link(file.path, temporary / file.local.name)
            except OSError:
                shutil.copyfile(file.path, temporary / file.local.name)
        write_sealed(temporary / "extension.json", extension)
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
    except OSError as error:
        raise unwritable(directory, error) from error


def _copy_aside(present: Files, directory: Place, extension: Mapping[str, Any]) -> None:
    """In a bucket; extension.json, put last, says that all is there."""
    for file in present:
        place, copy = file.place, directory / file.name
        assert isinstance(place, BucketPath)
        assert isinstance(copy, BucketPath)
        try:
            place.copy(copy)
        except FileNotFoundError:
            raise DamagedFileError(file.path, "is not there any more") from None
    write_sealed(directory / "extension.json", extension)


def changes_of(config: WitConfig, page: Page) -> Step[Changes] | None:
    """The step that lists what the plan gained and lost; None where no extension by these sources is under way."""
    root = place_of(config.output)
    state = read_sealed(_before(root) / "extension.json")
    if state is None or tuple(state["sources"]) != config.sources:
        return None
    before = Files(Location(str(_before(root) / name), digest) for name, digest in sorted(state["chosen"].items()))
    step = list_changes(before, page["balance"].data)
    step.data.directory = page.run.directory(step.name)  # on no page: the config does not ask for it
    return step


def end(output: Place) -> None:
    """The extension is published and its changes are listed: forget the old plan."""
    remove_tree(_before(output))


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What an extension did to the plan."""

    added: Location = output("added.parquet", CHANGES)
    evicted: Location = output("evicted.parquet", CHANGES)


@dataclass(frozen=True, kw_only=True)
class ListChanges(Task[Changes]):
    """The pairs that the plan gained and lost."""

    before: Files
    after: Files

    def work(self, out: Changes) -> Info:
        added = _only_in(self.after, self.before, out.added.local)
        evicted = _only_in(self.before, self.after, out.evicted.local)
        return {"rows": added + evicted, "added": added, "evicted": evicted}


@step("changes", ListChanges, title="list what was added and evicted", per="set")
def list_changes(run: Run, before: Files, chosen: Data[Chosen]) -> Iterator[ListChanges]:
    """One task."""
    yield ListChanges(partition="all", before=before, after=chosen.files(lambda out: out.chosen))


def _only_in(these: Files, others: Files, path: Path) -> int:
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
