"""release.json: what a release is, every file of it, and those that it supersedes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.load import ConfigError
from pipeline.releasing.sums import SUMS
from pipeline.storage.atomic import read_json
from pipeline.storage.duck import open_duckdb, quote_text, read_parquet_sql, use_buckets
from pipeline.storage.place import Place

__all__ = ["FORM", "MANIFEST", "Superseded", "read_manifest", "superseded_by"]

FORM, MANIFEST = 1, "release.json"
_FIELDS: Mapping[str, type] = {
    "title": str,
    "release": str,
    "published": str,
    "made_of": str,
    "set": str,
    "samples": int,
    "columns": list,
    "missing": list,
    "supersedes": list,
    "files": list,
}


def read_manifest(place: Place) -> dict[str, Any] | None:
    """The manifest of the release in `place`; None where there is none, or one that this program cannot read."""
    found = read_json(place / MANIFEST)
    if not isinstance(found, dict) or found.get("form") != FORM:
        return None
    if not all(isinstance(found.get(name), kind) for name, kind in _FIELDS.items()):
        return None
    entries = {"name": str, "bytes": int, "sha256": str}
    for file in found["files"]:
        if not isinstance(file, dict) or not all(isinstance(file.get(name), kind) for name, kind in entries.items()):
            return None
    return found


@dataclass(frozen=True, kw_only=True)
class Superseded:
    """The release before."""

    place: Place
    release: str
    sums: str
    """SHA-256 of its SHA256SUMS, which stands for all of it."""
    history: Sequence[Mapping[str, Any]]
    """Itself and those that it supersedes, the newest first."""
    links: Sequence[str]
    """Its Parquet files."""

    @property
    def next_version(self) -> str:
        """Rows went or came, so the first number rises (Croissant 1.1, "Version")."""
        return f"{int(self.release.partition('.')[0]) + 1}.0.0"

    def write_gone(self, links: Sequence[Place], path: Path) -> None:
        """Write the uids of its rows that no file of `links` has, one a line."""
        theirs = [self.place / name for name in self.links]
        with open_duckdb(path.with_name(f"{path.name}.spill")) as database:
            use_buckets(database, [*theirs, *links])
            database.execute(
                f"COPY (SELECT uid FROM {read_parquet_sql(theirs)} AS theirs "
                f"ANTI JOIN {read_parquet_sql(list(links))} AS ours USING (uid) ORDER BY uid) "
                f"TO {quote_text(path)} (FORMAT csv, HEADER false)"
            )


def superseded_by(place: Place) -> Superseded:
    """The release in `place`, as what comes after it names it. Raises ConfigError where there is none."""
    manifest = read_manifest(place)
    if manifest is None or not (place / SUMS).is_file():
        raise ConfigError(f"supersedes: {place}: no release is there")
    sums = hashlib.sha256((place / SUMS).read_bytes()).hexdigest()
    itself = {name: manifest[name] for name in ("title", "release", "published", "set", "samples")} | {"sums": sums}
    return Superseded(
        place=place,
        release=manifest["release"],
        sums=sums,
        history=[itself, *manifest["supersedes"]],
        links=[file["name"] for file in manifest["files"] if file["name"].startswith("links/")],
    )
