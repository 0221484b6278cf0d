"""Input files by pattern, local, in a bucket or on any fsspec file system, and what identifies their content."""

from __future__ import annotations

import bz2
import glob
import gzip
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from pipeline.errors import InputError
from pipeline.storage.atomic import read_json, sha256_of, write_json
from pipeline.storage.named_objects import is_object, named_objects, open_object
from pipeline.storage.place import Place

__all__ = ["Input", "expand", "identify", "open_raw", "open_text_lines"]


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input file."""

    path: str
    num_bytes: int
    stamp: str
    """Changes whenever the content may have: modification time, or the object store's own mark."""


def expand(patterns: Sequence[str], *, what: str) -> list[Input]:
    """The files that `patterns` (paths, globs or fsspec URLs) name, sorted, each once.

    Raises InputError where a pattern names no file.
    """
    found: dict[str, Input] = {}
    for pattern in patterns:
        files = _remote(pattern) if "://" in pattern else _local(pattern)
        if not files:
            raise InputError(f"{pattern}: no such file; set the config's path of the {what}")
        found.update({file.path: file for file in files})
    return [found[path] for path in sorted(found)]


def identify(inputs: Sequence[Input], memory: Place) -> dict[str, str]:
    """Path -> content hash; a file is read again only when its size or stamp differs from `memory`'s."""
    known = read_json(memory)
    known = known if isinstance(known, dict) else {}
    result: dict[str, dict[str, str]] = {}
    for file in inputs:
        stamp = f"{file.num_bytes} {file.stamp}"
        entry = known.get(file.path)
        if not isinstance(entry, dict) or entry.get("stamp") != stamp:
            # An object store's stamp is its own content mark; reading it all back would cost more than the build.
            digest = stamp if "://" in file.path else sha256_of(Path(file.path))
            entry = {"stamp": stamp, "hash": digest}
        result[file.path] = entry
    if {**known, **result} != known:
        write_json(memory, {**known, **result})
    return {path: entry["hash"] for path, entry in result.items()}


@contextmanager
def open_raw(path: str) -> Iterator[IO[bytes]]:
    """The file's bytes as stored, seekable. Raises InputError where it cannot be opened."""
    try:
        if is_object(path):
            file: IO[bytes] = open_object(path)
        elif "://" in path:
            import fsspec

            file = fsspec.open(path, "rb").open()
        else:
            file = Path(path).open("rb")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror or error}); check the config's path") from error
    with file:
        yield file


@contextmanager
def open_text_lines(path: str) -> Iterator[Iterator[bytes]]:
    """The file's lines, unpacked where the name ends with .gz or .bz2. Raises InputError where it is broken."""
    with open_raw(path) as raw:
        unpacked: Any = raw
        if path.endswith(".gz"):
            unpacked = gzip.GzipFile(fileobj=raw)
        elif path.endswith(".bz2"):
            unpacked = bz2.BZ2File(raw)
        try:
            yield cast("Iterator[bytes]", iter(unpacked))
        except (EOFError, OSError, ValueError) as error:
            raise InputError(f"{path}: damaged or truncated ({error}); fetch the file again") from error


def _local(pattern: str) -> list[Input]:
    names = glob.glob(pattern, recursive=True) if glob.has_magic(pattern) else [pattern]
    files = [path for path in map(Path, names) if path.is_file()]
    return [Input(path=str(path), num_bytes=path.stat().st_size, stamp=str(path.stat().st_mtime_ns)) for path in files]


def _remote(pattern: str) -> list[Input]:
    if is_object(pattern):
        found = named_objects(pattern)
        return [Input(path=path, num_bytes=size, stamp=str(tag)) for path, (size, tag) in found.items()]
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(pattern)
        names = system.glob(root) if glob.has_magic(root) else [root]
        files: list[Input] = []
        for name in names:
            facts: Mapping[str, Any] = system.info(name)
            stamp = str(system.ukey(name))
            path = str(system.unstrip_protocol(name))
            files.append(Input(path=path, num_bytes=int(facts["size"] or 0), stamp=stamp))
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{pattern}: cannot be reached ({error}); check the URL and the access to it") from error
    return files
