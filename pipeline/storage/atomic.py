"""Files that are whole or absent.

Commit protocol: write `X.tmp-...`, flush, fsync, rename, fsync the directory. Outputs first, the record
that says they are done last. In a bucket an object is put whole, and needs no other name before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from pipeline.errors import OutputError
from pipeline.storage.bucket import BucketPath
from pipeline.storage.lease import hold_of
from pipeline.storage.place import Place
from pipeline.storage.store_client import StoreError

__all__ = [
    "append_line",
    "commit",
    "read_json",
    "read_sealed",
    "remove_tree",
    "sealed",
    "sha256_of",
    "sweep",
    "temporary_name",
    "unseal",
    "unwritable",
    "write_bytes",
    "write_json",
    "write_sealed",
]


def temporary_name(path: Path) -> Path:
    """A name beside `path` for an unfinished file; `sweep` knows it."""
    return path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:12]}")


def commit(temporary: Path, final: Path) -> None:
    """Make `temporary` durable and give it its `final` name in one step."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    directory = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_bytes(path: Place, data: bytes) -> None:
    """Write a whole file atomically. Raises OutputError when the disk is full or not writable, LockedError where it is
    in an output that this process held and another has taken."""
    if isinstance(path, BucketPath):
        hold_of(path)
        try:
            path.put(data)
        except OSError as error:
            raise unwritable(path, error) from error
        return
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        commit(temporary, path)
    except OSError as error:
        if os.path.lexists(temporary):
            temporary.unlink()
        raise unwritable(path, error) from error


def write_json(path: Place, value: Any) -> None:
    """Write JSON atomically, keys sorted, one trailing newline."""
    write_bytes(path, _as_json(value))


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def read_json(path: Place) -> Any:
    """The parsed file, or None where it is absent or damaged (an unfinished file counts as absent).

    Raises StoreError where the bucket does not say whether it is there: that is not absence.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except StoreError:
        raise
    except (OSError, ValueError):
        return None


def write_sealed(path: Place, value: Mapping[str, Any]) -> None:
    """`write_json` of an object with a hash over itself, by which `read_sealed` tells a damaged one."""
    write_bytes(path, sealed(value))


def read_sealed(path: Place) -> dict[str, Any] | None:
    """The object without its hash; None where it is absent or damaged. Files of earlier versions have no hash."""
    return _unsealed(read_json(path))


def unseal(data: bytes) -> dict[str, Any] | None:
    """As `read_sealed`, of the file's bytes."""
    try:
        return _unsealed(json.loads(data))
    except ValueError:
        return None


def sealed(value: Mapping[str, Any]) -> bytes:
    """The bytes that `write_sealed` writes."""
    return _as_json({**value, "check": _seal(value)})


def _unsealed(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    stated = value.pop("check", None)
    return value if stated is None or stated == _seal(value) else None


def _seal(value: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def append_line(path: Place, line: str) -> None:
    """Append one line to a log, which in a bucket is put anew; its writer holds the output. Raises as `write_bytes`."""
    if isinstance(path, BucketPath):
        hold_of(path)
        before = path.read_bytes() if path.is_file() else b""
        path.put(before + line.encode() + b"\n")
        return
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def sha256_of(path: Path) -> str:
    """64 hex digits over the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(directory: Place) -> None:
    """Remove unfinished files that a killed run left in `directory` (not below it). A bucket has none."""
    if isinstance(directory, Path) and directory.is_dir():
        for path in directory.iterdir():
            if ".tmp-" in path.name:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def remove_tree(directory: Place) -> None:
    """Remove what there is under `directory`, if anything. Raises LockedError as `write_bytes` does."""
    if isinstance(directory, BucketPath):
        hold_of(directory)
        BucketPath.remove([path for path, _ in directory.walk()])
    else:
        shutil.rmtree(directory, ignore_errors=True)


def unwritable(path: Place, error: OSError) -> OutputError:
    """The OutputError for an operating-system error while writing `path`."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(path, BucketPath):
        if is_full:  # what is on its way to a bucket lies on this machine first
            return OutputError(
                f"{error.filename or tempfile.gettempdir()}: no space left on the disk for what goes to {path}; free "
                "some, or set TMPDIR to a larger one, and run the same command again, it goes on from here"
            )
        return OutputError(f"{error.filename or path}: {error.strerror or error}; then run the same command again")
    if is_full:
        return OutputError(
            f"{path}: no space left on the disk; free some and run the same command again, it goes on from here"
        )
    return OutputError(f"{path}: cannot write ({error.strerror}); choose another --output")
