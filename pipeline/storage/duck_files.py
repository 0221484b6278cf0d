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

from pipeline.storage.bucket import BucketPath, FixedObject, Version
from pipeline.storage.store_client import StoreError

__all__ = ["ObjectFiles"]

_MOST_OBJECTS = 256
"""Whose ends are held; what versions there were, of all."""


class ObjectFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The buckets of one scheme, for one database. Only reads."""

    cachable = False

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self.protocol = scheme
        self._versions: dict[str, Version] = {}
        self._objects: OrderedDict[str, FixedObject] = OrderedDict()

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
        known = self._versions.get(path)
        return self._object(path).version if known is None else known

    def _object(self, path: str) -> FixedObject:
        held = self._objects.get(path)  # another thread may drop it meanwhile
        if held is not None:
            return held
        held = FixedObject(_place(path))
        if self._versions.setdefault(path, held.version).tag != held.version.tag:
            raise StoreError("was replaced while it was read; ask again", path)
        self._objects[path] = held
        if len(self._objects) > _MOST_OBJECTS:
            self._objects.popitem(last=False)
        return held

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes of the object, fewer at its end. Raises OSError."""
        return self._object(path).read(offset, size)


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
