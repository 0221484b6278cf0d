"""Where every sample of a directory of shards lies: read once, saved, then memory-mapped.

    00000.parquet with tar_offset  --\\
    00000.tar headers (otherwise)  ----> SampleIndex (NumPy arrays) --> RUN/index/*.npy --> data workers

Accepts what the pipeline writes, what img2dataset writes, and plain WebDataset tars. Rows without
a caption or an image are left out and counted.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from configs.load import fingerprint
from training.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "SampleIndex", "Shard", "build_index", "find_shards", "load_index", "save_index"]

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Extensions of image members, in order of preference, as open_clip's trainer takes them."""

_ARRAYS = ("shard", "offset", "num_bytes", "uid", "caption_end", "captions")


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """N samples over the tars of one or several directories."""

    paths: tuple[str, ...]
    """The tars: directory by directory, each sorted by name."""
    tar_bytes: tuple[int, ...]
    """Sizes of the tars: one that differs later was changed."""
    sizes: tuple[int, ...]
    """Samples of each directory; those of the first come first."""
    shard: npt.NDArray[np.int32]
    """int32[N]: index into `paths`."""
    offset: npt.NDArray[np.int64]
    """int64[N]: where the image's bytes start in the tar."""
    num_bytes: npt.NDArray[np.int32]
    """int32[N]: length of the image's bytes."""
    uid: npt.NDArray[np.uint64]
    """uint64[N]: first 64 bits of the uid; for foreign shards a hash of shard name and key."""
    caption_end: npt.NDArray[np.int64]
    """int64[N]: where each caption ends in `captions`; it starts where the one before ends."""
    captions: npt.NDArray[np.uint8]
    """All captions, UTF-8, end to end."""
    num_without_text: int
    num_without_image: int
    fingerprint: str
    """Over shard names, stated hashes and identities of all samples: equal for equal data."""

    def __len__(self) -> int:
        return len(self.shard)

    def caption(self, sample: int) -> str:
        """The caption of one sample."""
        start = int(self.caption_end[sample - 1]) if sample else 0
        return self.captions[start : int(self.caption_end[sample])].tobytes().decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar of a data set, as its list states it."""

    path: Path
    samples: int | None
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class _ShardRows:
    offset: list[int]
    num_bytes: list[int]
    uid: list[int]
    caption: list[bytes]
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
            for entry in _read_json(manifest).get("shards", ()):
                name = entry["name"] if entry["name"].endswith(".tar") else entry["name"] + ".tar"
                listed[name] = Shard(path=root / name, samples=entry.get("samples"), sha256=entry.get("sha256"))
                if "bytes" in entry:
                    sizes[name] = entry["bytes"]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{manifest}: not a manifest of shards ({_one_line(error)}); copy or make it again"
            ) from error
    elif (counts := root / "sizes.json").is_file():
        for name, count in _read_json(counts).items():
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


def build_index(*directories: str | Path, skip_unfinished: bool = False) -> SampleIndex:
    """Read the index of every shard under `directories`. Raises DataError (see `find_shards`)."""
    shards: list[Shard] = []
    parts: list[_ShardRows] = []
    sizes: list[int] = []
    for directory in directories:
        found = find_shards(directory, skip_unfinished=skip_unfinished)
        rows = [_read_rows(shard) for shard in found]
        size = sum(len(part.offset) for part in rows)
        if not size:
            raise DataError(f"{directory}: no sample with both an image and a caption; nothing to train on")
        shards += found
        parts += rows
        sizes.append(size)
    captions = [caption for rows in parts for caption in rows.caption]
    uid = np.array([u for rows in parts for u in rows.uid], np.uint64)
    names = [(shard.path.name, shard.sha256, len(rows.offset)) for shard, rows in zip(shards, parts, strict=True)]
    blob = np.frombuffer(b"".join(captions), np.uint8)
    return SampleIndex(
        paths=tuple(str(shard.path) for shard in shards),
        tar_bytes=tuple(shard.path.stat().st_size for shard in shards),
        sizes=tuple(sizes),
        shard=np.repeat(np.arange(len(parts), dtype=np.int32), [len(rows.offset) for rows in parts]),
        offset=np.array([o for rows in parts for o in rows.offset], np.int64),
        num_bytes=np.array([n for rows in parts for n in rows.num_bytes], np.int32),
        uid=uid,
        caption_end=np.cumsum([len(caption) for caption in captions], dtype=np.int64),
        captions=blob,
        num_without_text=sum(rows.num_without_text for rows in parts),
        num_without_image=sum(rows.num_without_image for rows in parts),
        fingerprint=fingerprint(
            sizes, names, xxhash.xxh3_128_hexdigest(uid.tobytes()), xxhash.xxh3_128_hexdigest(blob.tobytes())
        ),
    )


def _read_rows(shard: Shard) -> _ShardRows:
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


def save_index(index: SampleIndex, directory: str | Path) -> None:
    """Write `index` to `directory` (made, or replaced whole)."""
    target = Path(directory)
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    temporary.mkdir(parents=True)
    for name in _ARRAYS:
        np.save(temporary / f"{name}.npy", getattr(index, name))
    meta = {
        "paths": index.paths,
        "tar_bytes": index.tar_bytes,
        "sizes": index.sizes,
        "num_without_text": index.num_without_text,
        "num_without_image": index.num_without_image,
        "fingerprint": index.fingerprint,
    }
    (temporary / "index.json").write_text(json.dumps(meta), encoding="utf-8")
    if target.exists():
        shutil.rmtree(target)
    temporary.rename(target)


def load_index(directory: str | Path) -> SampleIndex:
    """Open a saved index; arrays are memory-mapped, so that all workers of a machine share them."""
    root = Path(directory)
    meta = _read_json(root / "index.json")
    arrays = {name: np.load(root / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    paths, tar_bytes, sizes = (tuple(meta.pop(name)) for name in ("paths", "tar_bytes", "sizes"))
    return SampleIndex(paths=paths, tar_bytes=tar_bytes, sizes=sizes, **arrays, **meta)


def _rows_from_parquet(tar: Path) -> _ShardRows | None:
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
    return _ShardRows(
        offset=[offsets[i] for i in keep],
        num_bytes=[sizes[i] for i in keep],
        uid=[uids[i] for i in keep],
        caption=[caption[i] for i in keep],
        num_without_text=len(caption) - num_without_image - len(keep),
        num_without_image=num_without_image,
    )


def _rows_from_tar(tar: Path) -> _ShardRows:
    """The shard's rows from the tar's own headers, for shards of other tools."""
    rows = _ShardRows(offset=[], num_bytes=[], uid=[], caption=[], num_without_text=0, num_without_image=0)
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
    return _ShardRows(
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({_one_line(error)}); copy or make it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object; copy or make it again")
    return cast("dict[str, Any]", value)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
