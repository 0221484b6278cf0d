"""sources: the files that a config names.

    paths, globs, URLs --> files, lists of files (*.paths, *.paths.gz) --draw--> each file once, with its stamp

The steps that read a file go by its stamp: they run again when it is another.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import io
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import xxhash

from pipeline.errors import InputError, OutputError
from pipeline.stages.extract.files import open_binary
from pipeline.storage.atomic import write_bytes
from pipeline.storage.named_objects import is_object, named_objects, stamp_of_object
from pipeline.storage.place import Place, files_in
from pipeline.web.remote import is_web, open_download

__all__ = ["Stamp", "find_sources", "named_files", "stamp_of"]

Stamp = list[Any]
"""Size and time of change (or ETag); empty where the name alone stands for the content."""
_LIST_ENDINGS = (".paths", ".paths.gz")
_LIST_TRIES = 3
_MAX_LIST_BYTES = 1 << 28
"""Packed or unpacked; Common Crawl's longest has 13 MB."""
_LOCAL = ("file://", "local://")


def find_sources(
    patterns: Sequence[str],
    *,
    most: int | None = None,
    seed: int = 0,
    lists: Place | None = None,
    max_missing: float = 0.0,
    option: str = "sources",
) -> Mapping[str, Stamp]:
    """The files that `patterns` name, sorted, each once.

    A pattern is a path, a glob, an http(s) URL, another fsspec URL or glob, or any of these of a list of files, which
    its ending tells (see `_listed`). Of a pattern that names more than `most` files those with the smallest keyed hash
    of their names are taken, so that a larger number, or another pattern, only adds to them. Files behind http(s) and
    the URLs of a list are taken to be what they were: crawls do not change, and to ask after 90,000 files takes hours.
    Lists from web servers are kept in the directory `lists`, so that a run that goes on needs no server for them.
    `option` is where the config has the patterns.
    Raises InputError for a pattern that names nothing, and for a list that cannot be read, or of whose files on this
    machine more than a share of `max_missing` is not there.
    """
    found: dict[str, Stamp] = {}
    for pattern in patterns:
        files: dict[str, Stamp] = {}
        for name, stamp in _named(pattern, option).items():
            files.update(_listed(name, lists, max_missing) if name.endswith(_LIST_ENDINGS) else {name: stamp})
        drawn = files if most is None else sorted(files, key=lambda name: (_draw(name, seed), name))[:most]
        found.update((name, files[name]) for name in drawn)
    return {name: found[name] for name in sorted(found)}


def _draw(name: str, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(name.encode(), seed)


def _named(pattern: str, option: str) -> Mapping[str, Stamp]:
    if is_web(pattern):
        if "*" in pattern.partition("?")[0]:
            raise InputError(f"{pattern}: a web server has no directory to search; name its files, or a list of them")
        return {pattern: []}
    if is_object(pattern):
        found = named_objects(pattern)
    elif "://" in pattern:
        try:
            import fsspec

            system, path = fsspec.core.url_to_fs(pattern)
            files = system.glob(path, detail=True)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"{pattern}: cannot be reached ({error}); check the URL and the access to it") from error
        found = {system.unstrip_protocol(name): _remote_stamp(about) for name, about in files.items()}
    else:
        found = {name: stamp_of(name) for name in _matching(pattern) if os.path.isfile(name)}
    if not found:
        raise InputError(f"{pattern}: no such source file; correct `{option}` in the config")
    return found


def _matching(pattern: str) -> list[str]:
    """The names on this machine, of what need not be there."""
    is_glob = glob.has_magic(pattern) and not os.path.exists(pattern)  # a file may be named like one
    return glob.glob(pattern, recursive=True) if is_glob else [pattern]


def named_files(patterns: Sequence[str], option: str) -> list[str]:
    """The paths on this machine, files and folders, and the objects in buckets that `patterns` (paths, URLs or globs)
    name, sorted, each once.

    Raises InputError for a pattern that names nothing, where `option` is where the config has it, and StoreError.
    """
    found: set[str] = set()
    for pattern in patterns:
        if is_object(pattern):
            names = list(named_objects(pattern))
        else:
            names = [name for name in _matching(pattern) if os.path.exists(name)]
        if not names:
            raise InputError(f"{pattern}: no such file; correct `{option}` in the config")
        found.update(names)
    return sorted(found)


def stamp_of(path: str) -> Stamp:
    """The stamp of one file. Raises FileNotFoundError, unless it is behind http(s)."""
    if is_web(path):
        return []
    if is_object(path):
        return stamp_of_object(path)
    if "://" in path:
        import fsspec

        system, name = fsspec.core.url_to_fs(path)
        return _remote_stamp(system.info(name))
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _remote_stamp(about: Mapping[str, Any]) -> Stamp:
    return [about.get("size"), str(about.get("ETag") or about.get("etag") or about.get("mtime") or "")]


def _listed(path: str, lists: Place | None, max_missing: float) -> Mapping[str, Stamp]:
    """The files of a list, one a line, as Common Crawl's wat.paths.gz has them.

    A line is a URL, or a path: from the root of the server or bucket that the list lies on, or, in a list on this
    machine, from the list's directory.
    """
    data = _read_list(path, lists)
    try:
        if path.endswith(".gz"):
            with gzip.open(io.BytesIO(data)) as packed:
                data = packed.read(_MAX_LIST_BYTES + 1)
        if len(data) > _MAX_LIST_BYTES:
            raise InputError(f"{path}: more than {_MAX_LIST_BYTES >> 20} MiB, too much for a list of files; cut it up")
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a list of files ({error}); one path or URL a line") from error
    lines = list(filter(None, map(str.strip, text.splitlines())))
    if not lines:
        raise InputError(f"{path}: the list names no file")
    if bad := next((line for line in lines if line.endswith(_LIST_ENDINGS)), None):
        raise InputError(f"{path}: names another list, {bad}; put that one into `sources`")
    scheme, is_url, rest = path.rpartition("://")
    if not is_url or scheme == "file":
        names = [line if "://" in line else os.path.join(os.path.dirname(path), line) for line in lines]
    else:
        root = f"{scheme}://{rest.lstrip('/').partition('/')[0]}"
        names = [line if "://" in line else f"{root}/{line.lstrip('/')}" for line in lines]
        if any(name.startswith(_LOCAL) for name in names):
            raise InputError(f"{path}: names files of this machine, which a list from elsewhere may not")
    found: dict[str, Stamp] = {}
    missing: list[OSError] = []
    for name in names:
        found[name] = []  # of a file that is not there, too: the step that reads it counts it
        try:
            if "://" not in name or name.startswith(_LOCAL):
                found[name] = stamp_of(name)
        except OSError as error:
            missing.append(error)
    if len(missing) > max_missing * len(names):
        raise InputError(f"{path}: names a file that is not there ({missing[0]})") from missing[0]
    return found


def _read_list(path: str, lists: Place | None) -> bytes:
    name = xxhash.xxh3_64_hexdigest(path.encode())
    is_kept = lists is not None and is_web(path)
    try:
        if lists is not None and is_kept:
            for copy in files_in(lists, f"{name}-*.paths"):
                kept = copy.read_bytes()
                if copy.name == _copy_name(name, kept):  # a damaged one is asked for again
                    return kept
        # Somebody waits for the answer, so a server that is not there is told of soon.
        with open_download(path, tries=_LIST_TRIES) if is_web(path) else open_binary(path) as file:
            data = file.read(_MAX_LIST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if lists is not None and is_kept:
        with contextlib.suppress(OutputError):  # it can be asked for again
            write_bytes(lists / _copy_name(name, data), data)
    return data


def _copy_name(name: str, data: bytes) -> str:
    return f"{name}-{xxhash.xxh3_64_hexdigest(data)}.paths"
