"""Where every sample of the data sets lies: written shard by shard, then memory-mapped.

    Shard --> ShardRows, one shard at a time --> RUN/index/FINGERPRINT/*.npy --> SampleIndex, in data workers as well

A sample takes 32 bytes and its caption, on disk; in memory only what is in use. So 10^9 samples need no more memory
than the rows of one shard. The queries that captions contain are there where `data.sampling` asks for them: 8 bytes a
sample, and 4 a query of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import xxhash

from configs.load import fingerprint
from pipeline.storage.bucket import BucketPath
from pipeline.storage.place import Place
from training.data.processes import process_context, watch_parent
from training.data.rows import ShardRows, read_rows
from training.data.shards import Shard, find_shards, read_json
from training.errors import DataError

__all__ = ["SampleIndex", "load_index", "write_index"]

_MANY_SHARDS = 64
"""Fewer are read before a pool has started."""
_MAX_PROCESSES = 16
_AHEAD = 4
"""Shards in flight for each process: bounds the memory."""
_REQUESTS = 16
"""Shards of a bucket that are read side by side."""
_DTYPES: dict[str, npt.DTypeLike] = {
    "shard": np.int32,
    "offset": np.int64,
    "num_bytes": np.int32,
    "uid": np.uint64,
    "caption_end": np.int64,
    "captions": np.uint8,
}
_MAX_QUERIES = 2**31
"""Their numbers are kept as int32."""
_QUERY_DTYPES: dict[str, npt.DTypeLike] = {"query_end": np.int64, "queries": np.int32}


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """N samples over the tars of one or several directories."""

    paths: tuple[str, ...]
    """The tars: directory by directory, each sorted by name."""
    tar_bytes: tuple[int, ...]
    """Sizes of the tars: one that differs later was changed."""
    versions: tuple[tuple[str | None, str], ...]
    """(SHA-256, e_tag) of each tar, as far as its list or the bucket states them."""
    shard_sizes: tuple[int, ...]
    """Samples of each tar, which follow each other."""
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
    """Over shard names, stated hashes and identities of all samples, and their queries where they are here: equal for
    equal data."""
    query_end: npt.NDArray[np.int64] | None = None
    """int64[N]: where the queries of each sample end in `queries`; they start where those of the one before end."""
    queries: npt.NDArray[np.int32] | None = None
    """The queries that captions contain (`query_ids`: places in the set's query list), end to end. Those of the second
    directory are numbered on from those of the first, and so on: each has a list of its own."""
    num_queries: int = 0
    """More than any of `queries`."""
    queries_end: tuple[int, ...] = ()
    """Where the numbers of each directory's queries end."""
    fields: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """[N] or [N, K] each: columns of the shards, where a method asks for them."""

    def __len__(self) -> int:
        return len(self.shard)

    @cached_property
    def shard_ends(self) -> npt.NDArray[np.int64]:
        """int64: where the samples of each tar end."""
        return np.cumsum(self.shard_sizes, dtype=np.int64)

    def of_shard(self, shard: int) -> range:
        """The samples of one tar."""
        end = int(self.shard_ends[shard])
        return range(end - self.shard_sizes[shard], end)

    def caption(self, sample: int) -> str:
        """The caption of one sample."""
        start = int(self.caption_end[sample - 1]) if sample else 0
        return self.captions[start : int(self.caption_end[sample])].tobytes().decode("utf-8", "replace")


def write_index(
    *directories: str | Place | list[Shard],
    root: str | Path,
    skip_unfinished: bool = False,
    replace: bool = True,
    with_queries: bool = False,
    fields: Sequence[str] = (),
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> SampleIndex:
    """Index every shard under `directories`, or those that are given in lists, in `root`/FINGERPRINT, and open that.

    An index that is there already is kept with `replace` false, for processes that are reading it. Many shards are
    read by several processes; `tell` hears how many of how many are done. Raises DataError (see `find_shards`, which
    explains `skip_unfinished`), also where the queries, or columns as `fields`, are wanted and a shard lacks them.
    """
    found = [
        given if isinstance(given, list) else find_shards(given, skip_unfinished=skip_unfinished)
        for given in directories
    ]
    total = sum(map(len, found))
    read = partial(read_rows, with_queries=with_queries, fields=tuple(fields))
    if with_queries or fields:  # before anything is written: what the first shard lacks, the others lack as well
        for shard in (shards[0] for shards in found if shards):
            _check_rows(shard, read(shard), with_queries, fields)
    temporary = Path(root) / f"new.tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with _Writer(temporary, with_queries, fields) as writer:
            sizes = []
            with closing(_read_all([shard for shards in found for shard in shards], read)) as rows:
                for given, shards in zip(directories, found, strict=True):
                    before = writer.count
                    writer.begin_directory()
                    for shard in shards:
                        writer.add(shard, next(rows))
                        tell(writer.num_shards, total)
                    if writer.count == before:
                        directory = shards[0].path.parent if isinstance(given, list) else given
                        raise DataError(f"{directory}: no sample with both an image and a caption; nothing to train on")
                    sizes.append(writer.count - before)
            name = writer.finish(sizes)
        target = Path(root) / name
        if replace or not (target / "index.json").is_file():
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_index(target)


def load_index(directory: str | Path) -> SampleIndex:
    """Open a saved index; arrays are memory-mapped, so that all workers of a machine share them."""
    root = Path(directory)
    meta = read_json(root / "index.json")
    names = [*_DTYPES, *(_QUERY_DTYPES if "num_queries" in meta else ())]
    arrays = {name: np.load(root / f"{name}.npy", mmap_mode="r") for name in names}
    fields = {name: np.load(root / f"field-{name}.npy", mmap_mode="r") for name in meta.pop("fields", ())}
    paths, tar_bytes, sizes = (tuple(meta.pop(name)) for name in ("paths", "tar_bytes", "sizes"))
    # An earlier version wrote neither of these.
    meta["queries_end"] = tuple(meta.get("queries_end") or [meta.get("num_queries", 0)])
    versions = tuple((sha256, e_tag) for sha256, e_tag in meta.pop("versions", [(None, "")] * len(paths)))
    shard_sizes = meta.pop("shard_sizes", None) or np.bincount(arrays["shard"], minlength=len(paths)).tolist()
    return SampleIndex(
        paths=paths,
        tar_bytes=tar_bytes,
        versions=versions,
        shard_sizes=tuple(shard_sizes),
        sizes=sizes,
        fields=fields,
        **arrays,
        **meta,
    )


def _read_all(shards: Sequence[Shard], read: Callable[[Shard], ShardRows]) -> Generator[ShardRows, None, None]:
    """The rows of each, in order; of many shards read by several processes, not far ahead of what is asked for."""
    if any(isinstance(shard.path, BucketPath) for shard in shards):
        # Waiting for a store takes longer than what is then to be done, and of that most is done outside of Python.
        with ThreadPoolExecutor(_REQUESTS) as threads:
            yield from _in_order(threads, read, shards, 2 * _REQUESTS)
        return
    processes = min(os.cpu_count() or 1, _MAX_PROCESSES)
    if len(shards) < _MANY_SHARDS or processes == 1:
        yield from map(read, shards)
        return
    pool = ProcessPoolExecutor(processes, mp_context=process_context(), initializer=watch_parent)
    try:
        yield from _in_order(pool, read, shards, _AHEAD * processes)
    except BrokenProcessPool as error:
        raise DataError("a process that reads shards died (out of memory?); run again") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: Executor, read: Callable[[Shard], ShardRows], shards: Sequence[Shard], in_flight: int
) -> Iterator[ShardRows]:
    waiting: deque[Future[ShardRows]] = deque()
    try:
        for shard in shards:
            waiting.append(pool.submit(read, shard))
            if len(waiting) == in_flight:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _check_rows(shard: Shard, rows: ShardRows, with_queries: bool, fields: Sequence[str]) -> None:
    """Raise DataError where a shard lacks the queries, or columns, that are wanted."""
    if with_queries and (rows.caption_queries is None or rows.queries is None):
        raise DataError(
            f"{shard.path}: no Parquet with query_ids beside it, by which data.sampling chooses; train on a set "
            "that the pipeline made, or set --data.sampling uniform"
        )
    for name in fields:
        if name not in rows.fields:
            raise DataError(
                f"{shard.path}: no column {name} in a Parquet beside it, which method.name asks for; take a data set "
                "that has it, beside tar_offset, num_bytes and caption, or another method"
            )


class _Writer:
    """Appends shards to the arrays of an index."""

    def __init__(self, directory: Path, with_queries: bool, fields: Sequence[str]) -> None:
        self.count = 0
        """Samples so far."""
        self.num_shards = 0
        self._directory = directory
        self._stack = ExitStack()
        self._arrays: dict[str, _Array] = {}
        self._paths: list[str] = []
        self._tar_bytes: list[int] = []
        self._versions: list[tuple[str | None, str]] = []
        self._shard_sizes: list[int] = []
        self._names: list[tuple[str, str | None, int]] = []
        self._captions_end = self._queries_end = self._num_queries = 0
        self._begun: list[int] = []
        """The number of the first query of each directory."""
        self._without_text = self._without_image = 0
        self._uids, self._captions, self._queries = (xxhash.xxh3_128() for _ in range(3))
        self._dtypes = {**_DTYPES, **(_QUERY_DTYPES if with_queries else {})}
        self._with_queries = with_queries
        self._fields = {name: xxhash.xxh3_128() for name in fields}

    def __enter__(self) -> _Writer:
        for name, dtype in self._dtypes.items():
            file = self._stack.enter_context((self._directory / f"{name}.npy").open("wb"))
            self._arrays[name] = _Array(file, np.dtype(dtype))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin_directory(self) -> None:
        """What is added from now on is of another directory, with a query list of its own."""
        self._begun.append(self._num_queries)

    def add(self, shard: Shard, rows: ShardRows) -> None:
        """Append the samples of one shard."""
        _check_rows(shard, rows, self._with_queries, tuple(self._fields))
        captions = np.frombuffer(rows.captions, np.uint8)
        ends = np.cumsum(rows.caption_bytes, dtype=np.int64) + self._captions_end
        uid = rows.uid
        added: dict[str, npt.NDArray[Any]] = {
            "shard": np.full(len(uid), len(self._paths), np.int32),
            "offset": rows.offset,
            "num_bytes": rows.num_bytes,
            "uid": uid,
            "caption_end": ends,
            "captions": captions,
            **(self._add_queries(shard, rows) if self._with_queries else {}),
        }
        for name, values in added.items():
            self._arrays[name].append(values)
        for name, digest in self._fields.items():
            self._add_field(name, shard, rows)
            digest.update(rows.fields[name].tobytes())
        self._uids.update(uid.tobytes())
        self._captions.update(captions.tobytes())
        self._captions_end += len(captions)
        self._paths.append(str(shard.path))
        self._tar_bytes.append(shard.num_bytes)
        self._versions.append((shard.sha256, shard.e_tag))
        self._shard_sizes.append(len(uid))
        self._names.append((shard.path.name, shard.sha256, len(uid)))
        self._without_text += rows.num_without_text
        self._without_image += rows.num_without_image
        self.count += len(uid)
        self.num_shards += 1

    def _add_queries(self, shard: Shard, rows: ShardRows) -> dict[str, npt.NDArray[Any]]:
        """What a shard adds to the arrays of queries."""
        counts = cast("npt.NDArray[np.int64]", rows.caption_queries)
        queries = cast("npt.NDArray[np.int32]", rows.queries)
        ends = np.cumsum(counts, dtype=np.int64) + self._queries_end
        self._queries_end += len(queries)
        first = self._begun[-1]
        end = first + int(queries.max(initial=-1)) + 1
        if end > _MAX_QUERIES:
            raise DataError(
                f"{shard.path}: query_ids up to {end - 1 - first:,}, too many for one run over several sets"
            )
        self._num_queries = max(self._num_queries, end)
        self._queries.update(counts.tobytes() + queries.tobytes())
        return {"query_end": ends, "queries": queries + np.int32(first)}

    def _add_field(self, name: str, shard: Shard, rows: ShardRows) -> None:
        values, key = rows.fields[name], f"field-{name}"
        if not len(values):  # how long its lists would be need not be told
            return
        if key not in self._arrays:
            file = self._stack.enter_context((self._directory / f"{key}.npy").open("wb"))
            self._arrays[key] = _Array(file, values.dtype, values.shape[1:])
        if not self._arrays[key].takes(values):
            raise DataError(f"{shard.path}: column {name} is of another type or length than in the shards before")
        self._arrays[key].append(values)

    def finish(self, sizes: Sequence[int]) -> str:
        """Write what remains; return the fingerprint. `sizes`: samples of each directory."""
        for array in self._arrays.values():
            array.finish()
        # Without queries the parts are those of earlier versions.
        queries = (self._queries.hexdigest(),) if self._with_queries else ()
        queries_end = [*self._begun[1:], self._num_queries]
        fields = ({name: digest.hexdigest() for name, digest in self._fields.items()},) if self._fields else ()
        found = fingerprint(sizes, self._names, self._uids.hexdigest(), self._captions.hexdigest(), *queries, *fields)
        meta = {
            "paths": self._paths,
            "tar_bytes": self._tar_bytes,
            "versions": self._versions,
            "shard_sizes": self._shard_sizes,
            "sizes": sizes,
            "num_without_text": self._without_text,
            "num_without_image": self._without_image,
            "fingerprint": found,
            **({"num_queries": self._num_queries, "queries_end": queries_end} if self._with_queries else {}),
            **({"fields": list(self._fields)} if self._fields else {}),
        }
        (self._directory / "index.json").write_text(json.dumps(meta), encoding="utf-8")
        return found


class _Array:
    """A .npy file that grows by rows."""

    def __init__(self, file: BinaryIO, dtype: np.dtype[Any], row: tuple[int, ...] = ()) -> None:
        self._file = file
        self._dtype = dtype
        self._row = row
        self._length = 0
        self._write_header()

    def takes(self, values: npt.NDArray[Any]) -> bool:
        """Whether `values` are of its type and shape."""
        return values.dtype == self._dtype and values.shape[1:] == self._row

    def append(self, values: npt.NDArray[np.generic]) -> None:
        """Add `values` at the end."""
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self._length += len(values)

    def finish(self) -> None:
        """Say in the header how many there are."""
        self._file.seek(0)
        self._write_header()
        self._file.flush()

    def _write_header(self) -> None:
        # NumPy pads the header for this: it is as long for any length of the first axis.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length, *self._row)}
        np.lib.format.write_array_header_1_0(self._file, header)
