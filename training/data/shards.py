"""The shards of a data set: what its manifest.json or sizes.json lists, else the tars that are there.

Accepts what the pipeline writes, what img2dataset writes, and plain WebDataset tars; `rows.py` reads one shard.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

from pipeline.errors import PipelineError, one_line
from pipeline.records.removals import tombstones_of
from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import Place, place_of
from training.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "Shard", "balance_mode", "find_shards", "read_json", "reading"]

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Extensions of image members, in order of preference, as open_clip's trainer takes them."""
_REQUESTS = 16
"""Side by side, of those that take less time to answer than to reach the store."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar of a data set, as its list states it."""

    path: Place
    samples: int | None
    sha256: str | None
    parquet_sha256: str | None = None
    num_bytes: int
    e_tag: str = ""
    """Of a tar in a bucket whose list states no hash: what tells its version (ETag)."""
    removed: frozenset[bytes] = frozenset()
    """Uids of the set that are passed over: samples that were removed, and whose bytes are still there."""


def find_shards(directory: str | Place, *, skip_unfinished: bool = False) -> list[Shard]:
    """The shards of a data set, sorted by name.

    `directory` holds `shards/`, or the tars themselves. The list is `manifest.json`, else
    `sizes.json`, else whatever tars are there; `skip_unfinished` then leaves out those without tar's
    end mark, which somebody is still writing. Raises DataError where there is none, or where a
    listed tar is missing or of another size.
    """
    place = place_of(directory)
    with reading(place):
        root = _root(place)
        listed = _listed(root, skip_unfinished)
        if not listed:
            raise DataError(f"{root}: no shards here (no manifest.json, sizes.json or *.tar); set --data.path")
        places, removed = [root / name for name in sorted(listed)], tombstones_of(root)
        with ThreadPoolExecutor(_REQUESTS if isinstance(root, BucketPath) else 1) as pool:
            found = pool.map(lambda path: _looked_at(path, listed[path.name]), places)
            return [replace(shard, removed=removed) if removed else shard for shard in found]


def balance_mode(directory: str | Place) -> str | None:
    """`balance.mode` of the pipeline's run that made the set, as the config.yaml beside its shards says; None where
    nothing says it. Raises DataError where that cannot be read."""
    place = place_of(directory)
    with reading(place):
        path = _root(place) / "config.yaml"
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, yaml.YAMLError, UnicodeDecodeError):
            return None
    balance = config.get("balance") if isinstance(config, dict) else None
    mode = balance.get("mode") if isinstance(balance, dict) else None
    return mode if isinstance(mode, str) else None


def _listed(root: Place, skip_unfinished: bool) -> dict[str, _Listed]:
    """File name -> what is said of it."""
    listed: dict[str, _Listed] = {}
    if (manifest := root / "manifest.json").is_file():
        try:
            for entry in read_json(manifest).get("shards", ()):
                name = entry["name"] if entry["name"].endswith(".tar") else entry["name"] + ".tar"
                hashes = (entry.get("sha256"), entry.get("parquet_sha256"))
                listed[name] = _Listed(entry.get("samples"), *hashes, entry.get("bytes"))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{manifest}: not a manifest of shards ({one_line(error)}); copy or make it again"
            ) from error
    elif isinstance(root, BucketPath) and (root.parent / "openwit.json").is_file():
        # There it cannot be moved in one step: the manifest goes first and comes last.
        raise DataError(f"{root}: a set is being published there; run again when that is done")
    elif (counts := root / "sizes.json").is_file():
        for name, count in read_json(counts).items():
            listed[name] = _Listed(int(count))
    else:
        for path in root.glob("*.tar"):
            if not skip_unfinished or isinstance(path, BucketPath) or _has_end_mark(path):
                listed[path.name] = _Listed()
    return listed


class _Listed(NamedTuple):
    """What a list says of a tar."""

    samples: int | None = None
    sha256: str | None = None
    parquet_sha256: str | None = None
    num_bytes: int | None = None


def _root(place: Place) -> Place:
    """The directory of the tars."""
    inside = place / "shards"
    if isinstance(place, BucketPath):
        return inside if inside.is_dir() else place
    if inside.is_dir():
        # The pipeline publishes by moving a link: resolved here, a run keeps the version that it began with.
        return inside.resolve()
    if not place.is_dir():
        raise DataError(f"{place}: no such directory; make the shards first, or set --data.path")
    return place


def _looked_at(path: Place, listed: _Listed) -> Shard:
    """The tar at `path`. Raises DataError where it is missing, or of another size than the list's."""
    known = Shard(
        path=path,
        samples=listed.samples,
        sha256=listed.sha256,
        parquet_sha256=listed.parquet_sha256,
        num_bytes=listed.num_bytes or 0,
    )
    if isinstance(path, BucketPath) and listed.num_bytes is not None and listed.sha256 is not None:
        return known  # what is read of it is held against these
    try:
        if isinstance(path, BucketPath):
            about = path.version()
            num_bytes, e_tag = about.num_bytes, about.tag.e_tag
        elif path.is_file():
            num_bytes, e_tag = path.stat().st_size, ""
        else:
            raise FileNotFoundError
    except FileNotFoundError as error:
        raise DataError(f"{path}: listed but missing; copy the whole directory, or make the shards again") from error
    if listed.num_bytes not in (None, num_bytes):
        raise DataError(
            f"{path}: {num_bytes} bytes, but the manifest says {listed.num_bytes}; the copy is damaged: copy it again"
        )
    return replace(known, num_bytes=num_bytes, e_tag=e_tag)


@contextmanager
def reading(place: Place) -> Iterator[None]:
    """Turn what a store or a disk raises of `place` into DataError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{error.filename or place}: missing; make or copy it again, or set --data.path") from error
    except (OSError, PipelineError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"{place}: cannot be read ({reason}); run again to go on from the last checkpoint") from error


def _has_end_mark(tar: Path) -> bool:
    """Whether `tar` ends as tar does, with two blocks of zeros."""
    size = tar.stat().st_size
    if size < 1024 or size % 512:
        return False
    with tar.open("rb") as file:
        return not any(os.pread(file.fileno(), 1024, size - 1024))


def read_json(path: Place) -> dict[str, Any]:
    """The JSON object in `path`. Raises DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({one_line(error)}); copy or make it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object; copy or make it again")
    return cast("dict[str, Any]", value)
