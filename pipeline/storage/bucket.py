"""Files in a bucket: what `pathlib.Path` is for a directory, with the few methods that this project needs.

    BucketPath("s3://bucket/sets/one") / "work" / "lists"      plain enough to travel to any worker

An object is put whole or not at all, so nothing here has a temporary name. What may be put only where nobody else did
says so (`put_new`), or names the version that it takes the place of (`put_over`); `can_compare` tells whether the store
does that. Who asks the store, and what its errors are, is `store_client.py`'s.

Every failure is an OSError: FileNotFoundError for an object that is not there, StoreError for the rest, such as a store
that refuses or does not answer.
"""

from __future__ import annotations

import bisect
import contextlib
import fnmatch
import functools
import io
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pipeline.errors import OutputError
from pipeline.storage.store_client import TRIES, StoreError, errors, first_line, store_of, tried

__all__ = [
    "SCHEMES",
    "BucketFile",
    "BucketPath",
    "ConflictError",
    "FixedObject",
    "Tag",
    "Version",
    "is_bucket_url",
]

SCHEMES = ("s3", "gs", "az")
_URL = re.compile(rf"({'|'.join(SCHEMES)})://")
_PIECE_BYTES = 16 << 20
"""Of an object that is put or read whole."""
_MOST_COPIED_BYTES = 5 << 30
"""Amazon S3's limit (CopyObject). Shards with original pictures may pass it."""
_BUFFER_BYTES = 1 << 20
_END_BYTES = 256 << 10
"""Holds the footer of most Parquet files, and small ones whole."""

_PAGE = 1000
_RUNS = 8
"""Ranges of an object that are asked for at a time."""


class Tag(NamedTuple):
    """What tells one version of an object from another."""

    e_tag: str
    version: str | None = None
    """Of stores that compare this instead (Google's)."""

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Tag:
        return cls(about.get("e_tag") or "", about.get("version"))

    @property
    def mode(self) -> Any:
        """As the client takes it."""
        return {"e_tag": self.e_tag} | ({} if self.version is None else {"version": self.version})


class ConflictError(Exception):
    """Somebody else has put the object, or another version of it, meanwhile."""


def is_bucket_url(text: str) -> bool:
    """Whether this is a URL of a store that may be written to."""
    return _URL.match(text) is not None


class _Stat(NamedTuple):
    """What `os.stat` says of a file, as far as a store knows it."""

    st_size: int


class Version(NamedTuple):
    """What an object is, as long as nobody puts another in its place."""

    num_bytes: int
    tag: Tag
    modified: datetime

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Version:
        """As the client tells it."""
        return cls(about["size"], Tag.of(about), about["last_modified"])


@dataclass(frozen=True, order=True)
class BucketPath:
    """An object, or the objects whose names begin with it and a slash."""

    bucket: str
    """`s3://bucket`."""
    key: str
    """Without a slash at its ends; empty for the bucket itself."""

    @classmethod
    def of(cls, url: str) -> BucketPath:
        """Raises OutputError for what is no URL of a bucket, or holds a user or a password."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            kinds = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise OutputError(f"{_without_user(url)}: not the URL of a bucket; give a directory, or one of {kinds}")
        if "@" in parts.netloc:
            raise OutputError(
                f"{_without_user(url)}: no place for keys, since it is written down in many places; give them by the "
                "environment or a profile"
            )
        if parts.query or parts.fragment:
            plain = _without_user(re.split("[?#]", url)[0])  # what follows may be a signature
            raise OutputError(f"{plain}: the URL of a bucket has no ? and no #")
        key = posixpath.normpath(parts.path.strip("/")) if parts.path.strip("/") else ""
        if key.startswith(".."):
            raise OutputError(f"{url}: leads out of its bucket")
        return cls(f"{parts.scheme}://{parts.netloc}", "" if key == "." else key)

    # --- the name ---------------------------------------------------------------------------------

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    def __truediv__(self, name: str) -> BucketPath:
        return BucketPath(self.bucket, posixpath.normpath(posixpath.join(self.key, name)))

    @property
    def name(self) -> str:
        return posixpath.basename(self.key)

    @property
    def stem(self) -> str:
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> BucketPath:
        return BucketPath(self.bucket, posixpath.dirname(self.key))

    @property
    def parents(self) -> Sequence[BucketPath]:
        found = [self.parent]
        while found[-1].key:
            found.append(found[-1].parent)
        return found

    def with_name(self, name: str) -> BucketPath:
        return self.parent / name

    def resolve(self) -> BucketPath:
        return self

    def relative_to(self, other: BucketPath) -> str:
        """The rest of the key. Raises ValueError where it is not inside of `other`."""
        inside = f"{other.key}/" if other.key else ""
        if self.bucket != other.bucket or not self.key.startswith(inside):
            raise ValueError(f"{self} is not inside of {other}")
        return self.key[len(inside) :]

    # --- what is there ----------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether there is such an object, or any below it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        import obstore

        prefix = f"{self.key}/" if self.key else None
        return bool(tried(self, lambda: next(iter(obstore.list(store_of(self.bucket), prefix, chunk_size=1)), None)))

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> _Stat:
        """Raises FileNotFoundError."""
        return _Stat(self.version().num_bytes)

    def version(self) -> Version:
        """What the object is now. Raises FileNotFoundError."""
        import obstore

        return Version.of(tried(self, lambda: obstore.head(store_of(self.bucket), self.key)))

    def walk(self) -> Iterator[tuple[BucketPath, int]]:
        """Every object below, with its bytes, by name."""
        return ((path, version.num_bytes) for path, version in self.versions())

    def versions(self) -> Iterator[tuple[BucketPath, Version]]:
        """Every object below, and what it is, by name."""
        prefix, last = f"{self.key}/" if self.key else None, None
        while True:
            page = tried(self, functools.partial(_page_of_list, self.bucket, prefix, last))
            for about in page:
                yield BucketPath(self.bucket, about["path"]), Version.of(about)
            if len(page) < _PAGE:
                return
            last = page[-1]["path"]

    def glob(self, pattern: str) -> list[BucketPath]:
        """The objects of this place, and no deeper, whose name matches."""
        return [path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern)]

    def iterdir(self) -> Iterator[BucketPath]:
        """Objects and prefixes of this place."""
        prefixes, objects = self.level()
        yield from prefixes
        yield from (path for path, _ in objects)

    def level(self) -> tuple[Sequence[BucketPath], Sequence[tuple[BucketPath, Version]]]:
        """The prefixes of this place, and its objects with what they are; nothing deeper."""
        import obstore

        prefix = f"{self.key}/" if self.key else None
        found = tried(self, lambda: obstore.list_with_delimiter(store_of(self.bucket), prefix))
        objects = [(BucketPath(self.bucket, about["path"]), Version.of(about)) for about in found["objects"]]
        return [BucketPath(self.bucket, name.strip("/")) for name in found["common_prefixes"]], objects

    # --- reading ----------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        return self.read_tagged()[0]

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def read_tagged(self) -> tuple[bytes, Tag]:
        """The object and what tells its version. Raises FileNotFoundError."""
        import obstore

        def get() -> tuple[bytes, Tag]:
            found = obstore.get(store_of(self.bucket), self.key)
            return bytes(found.bytes()), Tag.of(found.meta)

        return tried(self, get)

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size), fewer where the object ends before, asked for side by side; neighbours in
        one request."""
        runs = _runs_of(ranges)
        if len(runs) < 2:
            found = [self._read_run(*run) for run in runs]
        else:
            with ThreadPoolExecutor(min(len(runs), _RUNS)) as readers:
                found = list(readers.map(lambda run: self._read_run(*run), runs))
        begins = [begin for begin, _ in runs]
        read = []
        for start, size in ranges:
            number = bisect.bisect_right(begins, start) - 1
            at = start - begins[number] if size else 0
            read.append(found[number][at : at + size] if size else b"")
        return read

    def _read_run(self, begin: int, end: int) -> bytes:
        """The client's own `get_ranges` panics where an object was cut short."""
        import obstore

        store, options = store_of(self.bucket), {"range": (begin, end)}
        try:
            return tried(self, lambda: bytes(obstore.get(store, self.key, options=options).bytes()))  # type: ignore[arg-type]
        except StoreError:
            if begin < self.stat().st_size:
                raise
            return b""  # stores refuse a range that begins behind the end

    def read_end(self, size: int) -> tuple[bytes, Version]:
        """The last `size` bytes, or all that there are, and what the object is. Raises FileNotFoundError."""
        import obstore
        from obstore import exceptions

        def get() -> tuple[bytes, Version]:
            store = store_of(self.bucket)
            try:
                found = obstore.get(store, self.key, options={"range": {"suffix": size}})
            except (exceptions.GenericError, exceptions.NotSupportedError, NotImplementedError) as error:
                about = obstore.head(store, self.key)
                if not about["size"]:  # of nothing there is no range
                    return b"", Version.of(about)
                if isinstance(error, exceptions.GenericError):
                    raise
                begin = max(about["size"] - size, 0)  # Azure has no ranges that count from the end
                found = obstore.get(store, self.key, options={"range": {"offset": begin}})
            return bytes(found.bytes()), Version.of(found.meta)

        return tried(self, get)

    def read_part(self, offset: int, size: int, tag: Tag) -> bytes:
        """`size` bytes of the version `tag`. Raises ConflictError where another has taken its place."""
        import obstore
        from obstore import exceptions

        options: Any = {"range": (offset, offset + size)} | ({"if_match": tag.e_tag} if tag.e_tag else {})
        try:
            return tried(self, lambda: bytes(obstore.get(store_of(self.bucket), self.key, options=options).bytes()))
        except exceptions.PreconditionError:
            raise ConflictError(str(self)) from None

    def open(self, mode: str = "rb") -> BucketFile:
        """The object as a file that can seek; a read that its buffer does not hold is a request."""
        if mode != "rb":
            raise ValueError(f"{self}: an object is read, or put whole")
        return BucketFile(self)

    def stream(self) -> Iterator[bytes]:
        """The object from its beginning to its end, piece by piece, each a request of its own: a cut costs a piece, and
        a slow store no time-out. All of it is of one version. Raises FileNotFoundError, StoreError."""
        end, version = self.read_end(_PIECE_BYTES)
        try:
            yield from self.pieces(version.num_bytes - len(end), version.tag)
        except ConflictError:
            raise StoreError("was replaced while it was read", str(self)) from None
        yield end

    def pieces(self, num_bytes: int, tag: Tag) -> Iterator[bytes]:
        """The first `num_bytes` of the version `tag`. Raises ConflictError where another has taken its place."""
        for offset in range(0, num_bytes, _PIECE_BYTES):
            yield self.read_part(offset, min(_PIECE_BYTES, num_bytes - offset), tag)

    # --- writing ----------------------------------------------------------------------------------

    def put(self, data: bytes | Path) -> None:
        """Put the object, over whatever is there; a file goes in parts, side by side."""
        import obstore

        store = store_of(self.bucket)

        def put() -> None:
            try:
                obstore.put(store, self.key, data, chunk_size=_PIECE_BYTES, max_concurrency=4)
            except FileNotFoundError as error:
                if "NoSuchUpload" not in str(error):
                    raise
                size = len(data) if isinstance(data, bytes) else data.stat().st_size
                if not (self.is_file() and self.stat().st_size == size):
                    raise StoreError(first_line(error), str(self)) from None
                # The answer that said so was lost, and the client asked again.

        tried(self, put)

    def put_new(self, data: bytes) -> Tag:
        """Put the object where there is none. Raises ConflictError where there is."""
        return self._put_if(data, None)

    def put_over(self, data: bytes, tag: Tag) -> Tag:
        """Put the object in the place of the version `tag`. Raises ConflictError where that is gone."""
        return self._put_if(data, tag)

    def _put_if(self, data: bytes, over: Tag | None) -> Tag:
        """Two answers do not tell whether the object was put: a refusal, which may be of a second try whose first one's
        answer was lost, and none. What is there then tells."""
        import obstore
        from obstore import exceptions

        mode: Any = "create" if over is None else over.mode
        for attempt in range(TRIES):
            try:
                with errors(self):
                    return Tag.of(obstore.put(store_of(self.bucket), self.key, data, mode=mode, use_multipart=False))
            except FileNotFoundError:  # what was to be replaced is gone
                raise ConflictError(str(self)) from None
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError, StoreError) as error:
                try:
                    found, tag = self.read_tagged()
                except FileNotFoundError:
                    if over is None and attempt < TRIES - 1:
                        continue  # refused for somebody who put at the same time, and it is there no more
                    if isinstance(error, StoreError):
                        raise
                    raise ConflictError(str(self)) from None
                if found == data:
                    return tag
                if not isinstance(error, StoreError):
                    raise ConflictError(str(self)) from None
                if over is None or tag.e_tag != over.e_tag:  # of versions not every answer tells
                    raise ConflictError(str(self)) from None
                if attempt == TRIES - 1:
                    raise
        raise ConflictError(str(self))

    def can_compare(self) -> bool:
        """Whether the store does `put_new` and `put_over`: shown by one of each that is refused. Leaves the object."""
        import obstore
        from obstore import exceptions

        self.put(os.urandom(16))
        store, refused = store_of(self.bucket), 0
        modes: tuple[Any, Any] = ("create", {"e_tag": '"00000000000000000000000000000000"', "version": "1"})
        for mode in modes:
            put = functools.partial(obstore.put, store, self.key, os.urandom(16), mode=mode, use_multipart=False)
            try:
                tried(self, put)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                refused += 1
            except (exceptions.NotSupportedError, NotImplementedError):
                pass
            except StoreError as error:
                if "501" not in str(error.strerror):
                    raise
        return refused == 2

    def copy(self, to: BucketPath) -> None:
        """Have the store copy the object, within its bucket; one that it finds too large goes through this machine."""
        import obstore

        store = store_of(self.bucket)
        try:
            tried(self, lambda: obstore.copy(store, self.key, to.key))
        except StoreError:
            if self.stat().st_size <= _MOST_COPIED_BYTES:
                raise
            tried(to, lambda: self._copy_through(to))

    def _copy_through(self, to: BucketPath) -> None:
        import obstore

        writer = obstore.open_writer(store_of(to.bucket), to.key, buffer_size=_PIECE_BYTES, max_concurrency=4)
        for piece in self.stream():
            writer.write(piece)
        writer.close()  # what is not closed never becomes an object

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object; not every store says whether there was one."""
        BucketPath.remove([self])

    @staticmethod
    def remove(paths: Sequence[BucketPath]) -> None:
        """Remove those of the objects, all of one bucket, that are there."""
        import obstore

        def delete(keys: Sequence[str]) -> None:
            tried(paths[0], lambda: obstore.delete(store_of(paths[0].bucket), keys))

        try:
            if paths:
                delete([path.key for path in paths])
        except FileNotFoundError:  # Google's and Azure's stores stop at the first that is not there
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    delete([path.key])


class FixedObject:
    """An object as it was when it was first looked at. Its end, where Parquet says what lies where, comes with its
    size; whatever else is read is of that very version."""

    def __init__(self, path: BucketPath) -> None:
        self.path = path

    @functools.cached_property
    def _looked(self) -> tuple[bytes, Version]:
        """Asked for late, since who reads ranges of it need not know the size."""
        return self.path.read_end(_END_BYTES)

    @property
    def version(self) -> Version:
        """Raises FileNotFoundError, StoreError."""
        return self._looked[1]

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes, fewer where it ends before: of the end without a request. Raises StoreError where another has
        taken its place."""
        end, version = self._looked
        size = min(size, version.num_bytes - offset)
        if size <= 0:
            return b""
        begin = version.num_bytes - len(end)
        if offset >= begin:
            return end[offset - begin : offset - begin + size]
        try:
            return self.path.read_part(offset, size, version.tag)
        except ConflictError:
            raise StoreError("was replaced while it was read; ask again", str(self.path)) from None


class BucketFile(io.RawIOBase):
    """An object opened for reading, for those who ask for a file: of what lies before its end, as much is asked for at
    a time as is worth a request."""

    def __init__(self, path: BucketPath) -> None:
        self.name = str(path)
        self.path = path
        self._object = FixedObject(path)
        self._at = 0
        self._ahead = (0, b"")
        """Where it begins, and the bytes that the last request brought."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as are asked for, unless the object ends before."""
        rest = max(self._object.version.num_bytes - self._at, 0)
        size = rest if size is None or size < 0 else min(size, rest)
        begin, held = self._ahead
        if begin <= self._at and self._at + size <= begin + len(held):
            data = held[self._at - begin : self._at - begin + size]
        else:
            found = self._object.read(self._at, max(size, _BUFFER_BYTES))
            if size < len(found):
                self._ahead = (self._at, found)
            data = found[:size]
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def seek(self, offset: int, whence: int = 0) -> int:
        base = 0 if whence == 0 else self._at if whence == 1 else self._object.version.num_bytes
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at


def _runs_of(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Beginnings and ends of what to ask for, so that each of `ranges` (offset, size) lies in one."""
    runs: list[tuple[int, int]] = []
    for start, size in sorted(each for each in ranges if each[1]):
        if runs and start <= runs[-1][1] + _BUFFER_BYTES:
            runs[-1] = runs[-1][0], max(runs[-1][1], start + size)
        else:
            runs.append((start, start + size))
    return runs


def _page_of_list(bucket: str, prefix: str | None, last: str | None) -> Sequence[Any]:
    """The next objects by name, after `last`."""
    import obstore

    return next(iter(obstore.list(store_of(bucket), prefix, offset=last, chunk_size=_PAGE)), [])


def _without_user(url: str) -> str:
    return re.sub(r"//[^/]*@", "//", url)
