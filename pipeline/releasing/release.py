"""release: a published set as others can take it over, use it and check it.

    shards --columns--> links/*.parquet, pictures/*.tar          the catalog --> queries.parquet, card.html
    config.yaml, ledger.json, removed/   without what is private --> the same names
    facts of all that, and what people say --> README.md, croissant.json
    every file --> release.json --> SHA256SUMS --key--> SHA256SUMS.sig         the sums last: with them it is whole

It is made in OUT.tmp-release and gets its name when it is whole; in a bucket, which renames nothing, its files are
copied to OUT, SHA256SUMS last. A release that was killed goes on; one of the same things gives the same bytes.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from configs.load import fingerprint, to_mapping
from pipeline.catalog.catalog import open_catalog, sql_errors
from pipeline.engine import EngineConfig, open_engine
from pipeline.errors import DamagedFileError, InputError, OutputError
from pipeline.questions.card.render import render
from pipeline.records.schema import CAPTIONED
from pipeline.releasing.columns import Column, columns_of, undecided
from pipeline.releasing.config import ReleaseConfig
from pipeline.releasing.croissant import croissant_of, missing
from pipeline.releasing.data import PublishedSet, published_set, put_in_place, write_rows
from pipeline.releasing.facts import Facts, facts_of
from pipeline.releasing.manifest import FORM, MANIFEST, Superseded, read_manifest, superseded_by
from pipeline.releasing.readme import readme_of
from pipeline.releasing.sums import SIGNATURE, SUMS, sums_of
from pipeline.storage.atomic import (
    read_json,
    remove_tree,
    sha256_of,
    unwritable,
    write_bytes,
    write_json,
)
from pipeline.storage.keys import private_key, public_hex
from pipeline.storage.output import open_output
from pipeline.storage.parquet import write_parquet
from pipeline.storage.place import Place, files_in, place_of
from pipeline.storage.written import written
from pipeline.terminal.progress import Progress

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["Released", "release"]

_STATE = "release.begun.json"
_CODE = 1
"""Rises when the same set and options give another release."""
_FIRST = "1.0.0"
_OURS = frozenset(
    {
        *("links", "pictures", "removed", "gone", "queries.parquet", "config.yaml", "ledger.json", "card.html"),
        *("README.md", "croissant.json", MANIFEST, SUMS, SIGNATURE),
    }
)
"""What may be at the top of a release."""


@dataclass(frozen=True, kw_only=True)
class Released:
    """What lies there now."""

    samples: int
    files: int
    num_bytes: int
    release: str
    was_there: bool
    """Whether it was whole before: nothing was written."""
    missing: Sequence[str]
    """What only people know, and nobody said: names of options."""
    undecided: Sequence[str]
    """Columns of the set that stayed in since nobody decided about them."""


def release(source: Place, said: ReleaseConfig, out: Place, *, progress: Progress | None = None) -> Released:
    """Release what is published of the data set in `source` into the directory `out`.

    Raises ConfigError for a column, key or release before that is none, InputError where nothing is published,
    OutputError where `out` holds anything else than this very release, or cannot be written; LockedError,
    DamagedFileError, StoreError. `source` is only read.
    """
    progress = progress or Progress()
    plan = _planned(source, said, out)
    aside = _aside(out)
    whole = _whole(out, plan.made_of)
    if not whole:
        _refuse_others(out, aside)
        with open_output(aside, say=progress.say):
            if not (whole := _whole(out, plan.made_of)):  # another may have ended while this one waited
                try:
                    _make(plan, aside, out, progress)
                except OSError as error:
                    raise unwritable(out, error) from error
    if (aside / _STATE).is_file():  # what a run of ours made, and nothing else that has the name
        remove_tree(aside)
    manifest = read_manifest(out)
    assert manifest is not None
    return Released(
        samples=manifest["samples"],
        files=len(manifest["files"]),
        num_bytes=sum(file["bytes"] for file in manifest["files"]),
        release=manifest["release"],
        was_there=whole,
        missing=manifest["missing"],
        undecided=undecided(plan.ours.columns),
    )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is released, and what is said of it."""

    ours: PublishedSet
    said: ReleaseConfig
    columns: Sequence[Column]
    before: Superseded | None
    key: Ed25519PrivateKey | None

    @functools.cached_property
    def deltas(self) -> Sequence[Place]:
        """What `remove` wrote of what went from the set, as far as it is done."""
        found = files_in(self.ours.root / "removed", "*.json")
        return [path for path in found if (read_json(path) or {}).get("state") == "done"]

    @functools.cached_property
    def made_of(self) -> str:
        """Fingerprint of all that decides the release, but for the day on which it was begun."""
        said = to_mapping(self.said)
        for name in ("engine", "supersedes", "sign"):  # where it is done, and paths
            del said[name]
        return fingerprint(
            *("release", _CODE, self.ours.fingerprint, self.ours.root.resolve().name, said),
            [column.name for column in self.columns],
            None if self.before is None else self.before.sums,
            None if self.key is None else public_hex(self.key),
            {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.deltas},
        )


def _planned(source: Place, said: ReleaseConfig, out: Place) -> _Plan:
    """Everything that can be wrong is told here, before anything is written."""
    ours = published_set(source)
    here, there = source.resolve(), out.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise OutputError(f"{out}: lies inside the data set, or around it; choose another directory for the release")
    known = [name for name in ours.columns if name in CAPTIONED.names]
    return _Plan(
        ours=ours,
        said=said,
        columns=columns_of(known, pictures=said.pictures, asked=said.columns),
        before=None if said.supersedes is None else superseded_by(place_of(said.supersedes)),
        key=None if said.sign is None else private_key(place_of(said.sign)),
    )


def _aside(out: Place) -> Place:
    """Where it is made."""
    if not out.name:
        raise OutputError(f"{out}: name a directory of its own for the release")
    return (out.absolute() if isinstance(out, Path) else out).with_name(f"{out.name}.tmp-release")


# --- what is there ------------------------------------------------------------------------------


def _whole(out: Place, made_of: str) -> bool:
    """Whether this very release is there, whole. Raises OutputError where another one is."""
    if not (out / SUMS).is_file():
        return False
    manifest = read_manifest(out)
    if manifest is None:
        raise OutputError(f"{out}: holds {SUMS}, and no release; choose another directory")
    if manifest["made_of"] != made_of:
        raise OutputError(
            f"{out}: holds another release, {manifest['title']} {manifest['release']}, of another set or told "
            "otherwise; choose another directory, or remove that one"
        )
    return True


def _refuse_others(out: Place, aside: Place) -> None:
    """Raise OutputError where something is there that no release of ours left unfinished."""
    if not out.exists():
        return
    if isinstance(out, Path):
        if not out.is_dir() or any(out.iterdir()):
            raise OutputError(f"{out}: exists, and is no release; choose another directory")
    elif read_json(aside / _STATE) is None or not {path.name for path in out.iterdir()} <= _OURS:
        raise OutputError(f"{out}: something is there that is no release; choose another place")


# --- making it ----------------------------------------------------------------------------------


def _make(plan: _Plan, aside: Place, out: Place, progress: Progress) -> None:
    ours, said = plan.ours, plan.said
    published = _begin(aside, plan)
    with open_engine(EngineConfig(kind=said.engine), progress) as engine:
        parts = write_rows(ours, said, plan.columns, aside / "rows", engine)
    rows = {f"links/{part.files.links.name}": int(part.info["rows"]) for part in parts}
    if sum(rows.values()) != ours.samples:
        raise DamagedFileError(str(ours.root / "shards"), f"holds {sum(rows.values()):,} rows, not {ours.samples:,}")
    place = aside / "release" if isinstance(aside, Path) else out
    remove_tree(place)
    files = [file for part in parts for file in put_in_place(part, place)]
    version = said.version or (_FIRST if plan.before is None else plan.before.next_version)
    with open_catalog(ours.root) as database, sql_errors(str(ours.root)):
        facts = facts_of(ours.root, database, said, release=version, published=published, removals=len(plan.deltas))
        files += _describe(plan, facts, files, database, place)
    if not ours.is_published_still:
        raise InputError(f"{ours.root}: another version was published meanwhile; run the same command again")
    manifest = {
        "form": FORM,
        "title": facts.title,
        "release": version,
        "published": published,
        "made_of": plan.made_of,
        "set": ours.fingerprint,
        "samples": ours.samples,
        "pictures": said.pictures,
        "columns": [column.name for column in plan.columns],
        "missing": missing(facts),
        "signed_by": None if plan.key is None else public_hex(plan.key),
        "supersedes": [] if plan.before is None else plan.before.history,
        "files": [file | ({"rows": rows[file["name"]]} if file["name"] in rows else {}) for file in files],
    }
    write_json(place / MANIFEST, manifest)
    digests = {file["name"]: file["sha256"] for file in files}
    sums = sums_of(digests | {MANIFEST: hashlib.sha256((place / MANIFEST).read_bytes()).hexdigest()})
    if plan.key is not None:
        write_bytes(place / SIGNATURE, plan.key.sign(sums))
    write_bytes(place / SUMS, sums)
    if isinstance(place, Path) and isinstance(out, Path):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            out.rmdir()
        place.rename(out)


def _begin(aside: Place, plan: _Plan) -> str:
    """The day of the release: what people say, or on which it was begun. What another one left here goes."""
    state = read_json(aside / _STATE)
    if state is None or state.get("made_of") != plan.made_of:
        for name in ("rows", "release"):
            remove_tree(aside / name)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        state = {"made_of": plan.made_of, "published": plan.said.published or today}
        write_json(aside / _STATE, state)
    return str(state["published"])


def _describe(
    plan: _Plan,
    facts: Facts,
    data: Sequence[Mapping[str, Any]],
    database: duckdb.DuckDBPyConnection,
    place: Place,
) -> list[dict[str, Any]]:
    """Write all that says what the data are; croissant.json last, since it lists the others."""
    files: list[dict[str, Any]] = []

    def write(name: str, fill: Callable[[Path], object]) -> None:
        with written(place / name) as path:
            fill(path)
            files.append({"name": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)})

    def put(name: str, content: bytes) -> None:
        write(name, lambda path: path.write_bytes(content))

    queries = _queries(database)
    if queries is not None:
        write("queries.parquet", lambda path: write_parquet(path, queries, queries.schema))
    if facts.config_yaml is not None:
        put("config.yaml", facts.config_yaml.encode())
    if (ledger := plan.ours.root / "ledger.json").is_file():
        put("ledger.json", ledger.read_bytes())
    for delta in plan.deltas:
        put(f"removed/{delta.name}", delta.read_bytes())
    if (before := plan.before) is not None:
        links = [place / file["name"] for file in data if file["name"].startswith("links/")]
        write(f"gone/since-{before.release}.txt", lambda path: before.write_gone(links, path))
    put("card.html", render(facts.card).encode())
    put("README.md", readme_of(facts, plan.columns, queries=queries is not None))
    listed = sorted([*data, *files], key=lambda file: str(file["name"]))
    put("croissant.json", croissant_of(facts, plan.columns, listed, None if queries is None else queries.schema))
    return files


def _queries(database: duckdb.DuckDBPyConnection) -> pa.Table | None:
    """The query list with what each query matched and selects, as ids go; None of a set that has no list any more."""
    table = database.sql(
        """SELECT queries.*, matched, coalesce(final_counts.selected, query_counts.selected) AS selected,
                  coalesce(final_counts.contained, query_counts.contained) AS contained
           FROM queries LEFT JOIN query_counts USING (query_id) LEFT JOIN final_counts USING (query_id)
           ORDER BY query_id"""
    ).to_arrow_table()
    return table if table.num_rows else None
