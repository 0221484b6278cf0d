"""The shards of a data set, and where each sample of one lies in its tar.

    manifest.json, sizes.json or the tars --> Shard
        --> 00000.parquet with tar_offset, else the tar's headers --> ShardRows

Accepts what the pipeline writes, what img2dataset writes, and plain WebDataset tars. Rows without a caption or an
image are left out and counted.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from training.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "Shard", "ShardRows", "find_shards", "read_json", "read_rows"]

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Extensions of image members, in order of preference, as open_clip's trainer takes them."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar of a data set, as its list states it."""

    path: Path
    samples: int | None
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class ShardRows:
    """The samples of one shard; the lists are of one length."""

    offset: list[int]
    """Where each image's bytes start in the tar."""
    num_bytes: list[int]
    """Length of each image's bytes."""
    uid: list[int]
    """First 64 bits of the uid; for foreign shards a hash of shard name and key."""
    caption: list[bytes]
    """UTF-8, not empty."""
    num_without_text: int
    num_without_image: int


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
                f"{manifest}: not a manifest of shards ({_one_line(error)}); copy or make it again"
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


def read_rows(shard: Shard) -> ShardRows:
    """The samples of `shard`. Raises DataError where it is damaged, or holds fewer than its list says."""
    rows = _rows_from_parquet(shard.path)
    if rows is None:
        rows = _rows_from_tar(shard.path)
    found = len(rows.offset) + rows.num_without_text + rows.num_without_image
    if shard.samples is not None and found < shard.samples:
        raise DataError(
            f"{shard.path}: {found} samples, but {shard.samples} are listed; the shard is damaged: copy it again"
        )
    size = shard.path.stat().st_size
    if rows.offset and max(o + n for o, n in zip(rows.offset, rows.num_bytes, strict=True)) > size:
        raise DataError(f"{shard.path}: truncated, the last image ends beyond its {size} bytes; copy it again")
    return rows


def _has_end_mark(tar: Path) -> bool:
    """Whether `tar` ends as tar does, with two blocks of zeros."""
    size = tar.stat().st_size
    return size >= 1024 and size % 512 == 0 and not any(_read_at(tar, size - 1024, 1024))


def _rows_from_parquet(tar: Path) -> ShardRows | None:
    """The shard's rows from the Parquet beside it; None where it has no offsets."""
    path = tar.with_suffix(".parquet")
    if not path.is_file():
        return None
    try:
        schema = pq.read_schema(path)
        if not {"tar_offset", "num_bytes", "caption"} <= set(schema.names):
            return None
        columns = [c for c in ("key", "caption", "tar_offset", "num_bytes", "uid") if c in schema.names]
        table = pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot read the shard's metadata ({_one_line(error)}); copy it again") from error
    caption = [(text or "").strip().encode() for text in table["caption"].to_pylist()]
    offsets, sizes = table["tar_offset"].to_pylist(), table["num_bytes"].to_pylist()
    uids: list[int]
    if "uid" in columns:
        uids = [int.from_bytes(uid[:8], "big") for uid in table["uid"].to_pylist()]
    else:
        keys = table["key"].to_pylist() if "key" in columns else range(table.num_rows)
        uids = [_foreign_uid(tar, str(key)) for key in keys]
    has_image = [o is not None and bool(n) for o, n in zip(offsets, sizes, strict=True)]
    keep = [i for i, (image, text) in enumerate(zip(has_image, caption, strict=True)) if image and text]
    num_without_image = has_image.count(False)
    return ShardRows(
        offset=[offsets[i] for i in keep],
        num_bytes=[sizes[i] for i in keep],
        uid=[uids[i] for i in keep],
        caption=[caption[i] for i in keep],
        num_without_text=len(caption) - num_without_image - len(keep),
        num_without_image=num_without_image,
    )


def _rows_from_tar(tar: Path) -> ShardRows:
    """The shard's rows from the tar's own headers, for shards of other tools."""
    rows = ShardRows(offset=[], num_bytes=[], uid=[], caption=[], num_without_text=0, num_without_image=0)
    no_text = no_image = 0
    for key, members in _groups(tar):
        image = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
        text = members.get("txt")
        if image is None:
            no_image += 1
            continue
        caption = b"" if text is None else _read_at(tar, *text).strip()
        if not caption:
            no_text += 1
            continue
        rows.offset.append(image[0])
        rows.num_bytes.append(image[1])
        rows.uid.append(_foreign_uid(tar, key))
        rows.caption.append(caption)
    return ShardRows(
        offset=rows.offset,
        num_bytes=rows.num_bytes,
        uid=rows.uid,
        caption=rows.caption,
        num_without_text=no_text,
        num_without_image=no_image,
    )


def _groups(tar: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """(key, {extension: (offset, size)}) for each run of members with one key, as WebDataset groups."""
    current: str | None = None
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}"
                if key != current and current is not None:
                    yield current, members
                    members = {}
                current = key
                members[extension.lower()] = (member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{tar}: not a readable tar ({_one_line(error)}); copy it again") from error
    if current is not None:
        yield current, members


def _read_at(path: Path, offset: int, num_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(num_bytes)


def _foreign_uid(tar: Path, key: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{tar.name}\0{key}".encode("utf-8", "surrogatepass"))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({_one_line(error)}); copy or make it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object; copy or make it again")
    return cast("dict[str, Any]", value)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
