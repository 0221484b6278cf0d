"""The shards of a data set: what its manifest.json or sizes.json lists, else the tars that are there.

Accepts what the pipeline writes, what img2dataset writes, and plain WebDataset tars; `rows.py` reads one shard.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipeline.errors import one_line
from training.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "Shard", "find_shards", "read_json"]

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Extensions of image members, in order of preference, as open_clip's trainer takes them."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar of a data set, as its list states it."""

    path: Path
    samples: int | None
    sha256: str | None


def find_shards(directory: str | Path, *, skip_unfinished: bool = False) -> list[Shard]:
    """The shards of a data set, sorted by name.

    `directory` holds `shards/`, or the tars themselves. The list is `manifest.json`, else
    `sizes.json`, else whatever tars are there; `skip_unfinished` then leaves out those without tar's
    end mark, which somebody is still writing. Raises DataError where there is none, or where a
    listed tar is missing or of another size.
    """
    root = Path(directory)
    if (root / "shards").is_dir():
        # The pipeline publishes by moving a link: resolved here, a run keeps the version that it began with.
        root = (root / "shards").resolve()
    if not root.is_dir():
        raise DataError(f"{directory}: no such directory; make the shards first, or set --data.path")
    listed: dict[str, Shard] = {}
    sizes: dict[str, int] = {}
    if (manifest := root / "manifest.json").is_file():
        try:
            for entry in read_json(manifest).get("shards", ()):
                name = entry["name"] if entry["name"].endswith(".tar") else entry["name"] + ".tar"
                listed[name] = Shard(path=root / name, samples=entry.get("samples"), sha256=entry.get("sha256"))
                if "bytes" in entry:
                    sizes[name] = entry["bytes"]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{manifest}: not a manifest of shards ({one_line(error)}); copy or make it again"
            ) from error
    elif (counts := root / "sizes.json").is_file():
        for name, count in read_json(counts).items():
            listed[name] = Shard(path=root / name, samples=int(count), sha256=None)
    else:
        for path in root.glob("*.tar"):
            if not skip_unfinished or _has_end_mark(path):
                listed[path.name] = Shard(path=path, samples=None, sha256=None)
    if not listed:
        raise DataError(f"{root}: no shards here (no manifest.json, sizes.json or *.tar); set --data.path")
    for name in sorted(listed):
        path = root / name
        if not path.is_file():
            raise DataError(f"{path}: listed but missing; copy the whole directory, or make the shards again")
        if name in sizes and path.stat().st_size != sizes[name]:
            raise DataError(
                f"{path}: {path.stat().st_size} bytes, but the manifest says {sizes[name]}; "
                "the copy is damaged: copy it again"
            )
    return [listed[name] for name in sorted(listed)]


def _has_end_mark(tar: Path) -> bool:
    """Whether `tar` ends as tar does, with two blocks of zeros."""
    size = tar.stat().st_size
    if size < 1024 or size % 512:
        return False
    with tar.open("rb") as file:
        return not any(os.pread(file.fileno(), 1024, size - 1024))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({one_line(error)}); copy or make it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object; copy or make it again")
    return cast("dict[str, Any]", value)
