"""The store of facts: what came of every URL that was ever requested for this data set.

    work/fetch/NAME.facts.parquet   one FACTS row a URL        work/fetch/NAME.tar   its pictures
    work/fetch/done/NAME.json       the record, with the settings and the range of `order`

Files are only ever added: a changed t, list, filter or an extension asks here first. A fact holds for the
settings that it was made with. Left out of their fingerprint are those that only change speed, and the block list and
the consent, by which `requests` judges every fact that a plan uses.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from configs.load import fingerprint, to_mapping
from pipeline.consent.config import ConsentConfig
from pipeline.engine import AnyTask, Data, Done, output, record_of, records_in
from pipeline.errors import DamagedFileError
from pipeline.records.schema import FACTS
from pipeline.stages.check_image.config import ImageConfig
from pipeline.stages.fetch.config import FetchConfig
from pipeline.storage.checked import read_part, read_schema, read_table
from pipeline.storage.location import Location
from pipeline.storage.place import Place, place_of

__all__ = [
    "IMPORTS",
    "STORE",
    "STORED",
    "STORED_BY_ORDER",
    "STORES",
    "Answers",
    "FactFile",
    "FactStore",
    "FactsByOrder",
    "answers_of",
    "earlier_settings",
    "named_by_key",
    "read_facts",
    "settings_of",
    "store_of",
    "stored_file",
]

STORE = "fetch"
"""Its directory under OUT/work."""
IMPORTS = "imported"
"""The directory, in the store, of pictures that were stored beside their rows (`import_shards.py`)."""
STORES = (STORE, f"{STORE}/{IMPORTS}")
"""The steps whose files stay, whatever the config says by now."""
_SPEED_ONLY = (
    *("concurrency", "per_host_concurrency", "per_host_rate", "per_host_failures"),
    *("heavy_host_urls", "heavy_host_concurrency", "heavy_host_rate", "max_crawl_delay_s", "resolvers"),
    *("max_waiting_bytes", "shard_deadline_s"),
    *("engine_python", "store"),
)
_BLOCK_LIST = ("block", "block_files")
_CONSENT = {
    "respect_x_robots_tag": ("noai", "noimageai", "noindex", "noimageindex", "none", "unavailable_after"),
    "respect_tdm_reservation": True,
}
"""Options of `fetch` in earlier versions, by which their facts' settings are told still: the defaults of then. Such an
answer was judged by what was honoured then; what else it said is in no fact."""
STORED = pa.schema([*FACTS, pa.field("staging_tar", pa.string())])
"""Facts, and the tar under work/fetch that their offsets are places in; null where there is no picture."""
STORED_BY_ORDER = pa.schema([*STORED, pa.field("order", pa.uint64(), nullable=False)])
"""Facts in the plan's order, one row a URL."""
_FACTS = "facts.parquet"
_Task = TypeVar("_Task", bound=AnyTask[Any])


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came of URLs, and the pictures, whose places in the tar the facts have."""

    facts: Location = output(_FACTS, FACTS)
    tar: Location = output("tar")


@dataclass(frozen=True, kw_only=True)
class FactsByOrder:
    """A range of the imported facts, with the tars that they point into. A part tells its `first` and `last` order."""

    facts: Location = output(_FACTS, STORED_BY_ORDER)


def answers_of(record: Done, directory: Place) -> Answers | None:
    """The files of a fetch or import task, by its record; None for a record of something else."""
    files = record.located(directory)
    facts, tar = (next((files[name] for name in files if name.endswith(end)), None) for end in (f".{_FACTS}", ".tar"))
    return None if facts is None or tar is None else Answers(facts=facts, tar=tar)


def store_of(config: FetchConfig) -> Mapping[str, Place]:
    """Where the store of facts is kept, if not in the output."""
    return {} if config.store is None else {STORE: place_of(config.store)}


def named_by_key(task: _Task) -> _Task:
    """The task under a name that holds its key, so that its files never replace those of another."""
    return dataclasses.replace(task, partition=f"{task.partition}-{task.key[:12]}")


# --- which files there are ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FactFile:
    """The facts of one finished fetch task, or a range of the imported ones (`imported.py`)."""

    name: str
    """Of the Parquet, under work/fetch."""
    file: Location
    settings: str
    seed: int
    first: int
    """The range of `order`, under `seed`, of the URLs that were asked for."""
    last: int
    retry: int = 0
    """The number of the last retry when they were asked for (`retries.py`)."""


@dataclass(frozen=True, kw_only=True)
class FactStore:
    """Every file of facts of a data set, of this plan and of earlier ones."""

    directory: Place
    files: Sequence[FactFile]

    @classmethod
    def of(cls, directory: Place) -> FactStore:
        """What the finished fetch tasks left, by name."""
        found = (_fact_file(record, directory) for record in records_in(directory))
        return cls(directory=directory, files=[file for file in found if file is not None])

    def with_imported(self, stored: Data[FactsByOrder], *, settings: str, seed: int) -> FactStore:
        """These, and the imported ones: they hold whatever the settings of `fetch` are."""
        imported = [
            FactFile(
                name=f"{stored.name.removeprefix(f'{STORE}/')}/{part.files.facts.name}",
                file=part.files.facts,
                settings=settings,
                seed=seed,
                first=part.info["first"],
                last=part.info["last"],
            )
            for part in stored.parts
        ]
        return dataclasses.replace(self, files=[*self.files, *imported])

    def may_know(self, *, settings: Collection[str], seed: int, first: int, last: int) -> tuple[FactFile, ...]:
        """The files that may know a URL whose `order` is in first..last."""
        return tuple(
            file
            for file in self.files
            if file.settings in settings and (file.seed != seed or (file.first <= last and file.last >= first))
        )

    def lacks(self, digests: Mapping[str, str]) -> tuple[str, ...]:
        """The names, sorted, of files that are not there any more, or say something else since a picture of theirs was
        removed."""
        return tuple(sorted(name for name, digest in digests.items() if self._digests.get(name) != digest))

    @functools.cached_property
    def _digests(self) -> Mapping[str, str]:
        return {file.name: file.file.digest for file in self.files}


def _fact_file(record: Done, directory: Place) -> FactFile | None:
    """None for a record of something else, and where a file is gone."""
    name = next((name for name in record.outputs if name.endswith(f".{_FACTS}")), None)
    if name is None or "settings" not in record.info:
        return None
    files = record.located(directory)
    if isinstance(directory, Path) and not all(file.place.exists() for file in files.values()):
        return None
    return FactFile(
        name=name,
        file=files[name],
        retry=record.info.get("retry", 0),
        **{field: record.info[field] for field in ("settings", "seed", "first", "last")},
    )


def stored_file(store: Place, name: str, digest: str = "") -> Location:
    """A file under the store of facts by its name there, which its record finds where the store is, or was once, in a
    bucket. Raises DamagedFileError where nothing does."""
    path = store / name
    if isinstance(path, Path) and path.exists():
        return Location(str(path), digest)
    record = record_of(path.parent, path.name.partition(".")[0])
    if record is None or path.name not in record.outputs:
        raise DamagedFileError(str(path), "nothing vouches for it")
    return record.located(path.parent)[path.name]


def settings_of(fetch: FetchConfig, image: ImageConfig, consent: Mapping[str, Any] | None = None) -> str:
    """32 hex digits over what decides an answer and the stored picture. `consent`: as `_CONSENT` has it."""
    plain: dict[str, Any] = to_mapping(fetch)
    plain |= _CONSENT if consent is None else consent
    return fingerprint({k: v for k, v in plain.items() if k not in _SPEED_ONLY + _BLOCK_LIST}, image)


def earlier_settings(fetch: FetchConfig, image: ImageConfig, consent: ConsentConfig) -> frozenset[str]:
    """Every fingerprint under which facts may stand that hold for these configs: those of `settings_of`, and those of
    earlier versions that honoured less, or other directives, than their defaults."""
    chosen = tuple(name for name in consent.x_robots_directives if name != "noml")  # no part of it, even then
    ways = itertools.product({_CONSENT["respect_x_robots_tag"], chosen, ()}, (True, False))
    found = (
        settings_of(fetch, image, {"respect_x_robots_tag": directives, "respect_tdm_reservation": reserves})
        for directives, reserves in ways
    )
    return frozenset(found)


# --- what they say --------------------------------------------------------------------------------


def read_facts(file: Location, orders: tuple[int, int], columns: Sequence[str] = tuple(STORED.names)) -> pa.Table:
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
        tar = pa.scalar(file.name.removesuffix(f".{_FACTS}") + ".tar")
        own = pc.if_else(pc.equal(table["status"], "success"), tar, pa.scalar(None, pa.string()))
        table = table.append_column(STORED.field("staging_tar"), own)
    for name in columns:  # what facts of earlier versions do not have
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, STORED.field(name).type))
    return table.select(columns).cast(pa.schema([STORED.field(name) for name in columns]))
