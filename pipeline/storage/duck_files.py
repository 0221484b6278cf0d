"""Objects as DuckDB opens them: by range, with one request for all that is asked of a file before its rows.

DuckDB asks whether a file exists, how large it is, when it was changed, then for its end, where Parquet says what lies
where, and so again for every query. The end comes with all the rest, and is kept as long as the database is open. What
is read later is of the same version, or an error.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fsspec.spec import AbstractFileSystem

from pipeline.storage.bucket import BucketPath, ConflictError, StoreError, Version

__all__ = ["ObjectFiles"]

_END_BYTES = 256 << 10
_MOST_ENDS = 256


class ObjectFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The buckets of one scheme, for one database. Only reads."""

    cachable = False

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self.protocol = scheme
        self._versions: dict[str, Version] = {}
        self._ends: OrderedDict[str, bytes] = OrderedDict()

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Raises FileNotFoundError."""
        return {"name": path, "size": self._version(path).num_bytes, "type": "file"}

    def modified(self, path: str) -> datetime:
        """When the object was put."""
        return self._version(path).modified

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **options: Any
    ) -> Mapping[str, Any] | list[str]:
        """Every object below `path`, which a pattern begins with."""
        found = {str(each): {"name": str(each), "size": size, "type": "file"} for each, size in _place(path).walk()}
        return found if detail else sorted(found)

    def glob(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        """What a pattern fits, or the object of this very name: it may hold brackets or a star."""
        try:
            self._version(path)
        except FileNotFoundError:
            return super().glob(path, maxdepth, **options)
        return [path]

    def open(self, path: str, mode: str = "rb", **options: Any) -> _File:
        """Raises PermissionError for any other mode."""
        if mode != "rb":
            raise PermissionError(errno.EACCES, "DuckDB does not write here; give --to", path)
        return _File(self, path)

    def unstrip_protocol(self, name: str) -> str:
        return name

    def _strip_protocol(self, path: str) -> str:
        return path

    def _version(self, path: str) -> Version:
        if path not in self._versions:
            self._end(path)
        return self._versions[path]

    def _end(self, path: str) -> bytes:
        held = self._ends.get(path)  # another thread may drop it meanwhile
        if held is not None:
            return held
        end, version = _place(path).read_end(_END_BYTES)
        if self._versions.setdefault(path, version).tag != version.tag:
            raise _replaced(path)
        self._ends[path] = end
        if len(self._ends) > _MOST_ENDS:
            self._ends.popitem(last=False)
        return end

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes of the object, fewer at its end. Raises OSError."""
        version = self._version(path)
        size = min(size, version.num_bytes - offset)
        if size <= 0:
            return b""
        begin = max(version.num_bytes - _END_BYTES, 0)
        if offset >= begin:
            return self._end(path)[offset - begin : offset - begin + size]
        try:
            return _place(path).read_part(offset, size, version.tag)
        except ConflictError:
            raise _replaced(path) from None


class _File:
    """An object opened for reading."""

    def __init__(self, files: ObjectFiles, path: str) -> None:
        self._files = files
        self._path = path
        self._at = 0

    def read(self, size: int) -> bytes:
        data = self._files.read(self._path, self._at, size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, self._files.info(self._path)["size"])[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        """Nothing is held."""


def _place(path: str) -> BucketPath:
    """Raises FileNotFoundError for a path with a dot for a name: it would lead out of what DuckDB was allowed to see,
    which goes by how a path begins."""
    scheme, _, rest = path.partition("://")
    bucket, _, key = rest.partition("/")
    if not {"", ".", ".."}.isdisjoint(key.rstrip("/").split("/")):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return BucketPath(f"{scheme}://{bucket}", key.rstrip("/"))


def _replaced(path: str) -> StoreError:
    return StoreError("was replaced while it was read; ask again", path)
