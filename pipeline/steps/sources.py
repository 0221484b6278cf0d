"""sources: the files that a config names.

paths, globs, URLs, lists of them (*.paths, *.paths.gz) --> each file once, with what tells that it has changed
"""

from __future__ import annotations

import glob
import gzip
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import fsspec
import xxhash

from pipeline.errors import InputError
from pipeline.remote import is_web, open_download
from pipeline.stages.extract.files import open_binary

__all__ = ["Stamp", "find_sources", "stamp_of"]

Stamp = list[Any]
"""Size and time of change (or ETag); empty where the name alone stands for the content."""
_LIST_ENDINGS = (".paths", ".paths.gz")
_LIST_TRIES = 3


def find_sources(patterns: Sequence[str], *, most: int | None = None, seed: int = 0) -> Mapping[str, Stamp]:
    """The files that `patterns` name, sorted, each once.

    A pattern is a path, a glob, an http(s) URL, another fsspec URL or glob, or any of these of a list of files, which
    its ending tells (see `_listed`). Of more than `most` files those with the smallest keyed hash of their names are
    taken, so that a larger number only adds to them. Files behind http(s) and the URLs of a list are taken to be what
    they were: crawls do not change, and to ask after 90,000 files takes hours. Raises InputError for a pattern that
    names nothing, and for a list that cannot be read.
    """
    found: dict[str, Stamp] = {}
    for pattern in patterns:
        for name, stamp in _named(pattern).items():
            found.update(_listed(name) if name.endswith(_LIST_ENDINGS) else {name: stamp})
    chosen = sorted(found, key=lambda name: (xxhash.xxh3_64_intdigest(name.encode(), seed), name))[:most]
    return {name: found[name] for name in sorted(chosen)}


def _named(pattern: str) -> Mapping[str, Stamp]:
    if is_web(pattern):
        return {pattern: []}
    if "://" in pattern:
        try:
            system, path = fsspec.core.url_to_fs(pattern)
            files = system.glob(path, detail=True)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"{pattern}: cannot be reached ({error}); check the URL and the access to it") from error
        found = {system.unstrip_protocol(name): _remote_stamp(about) for name, about in files.items()}
    else:
        names = glob.glob(pattern, recursive=True) if glob.has_magic(pattern) else [pattern]
        found = {name: stamp_of(name) for name in names if os.path.isfile(name)}
    if not found:
        raise InputError(f"{pattern}: no such source file; correct `sources` in the config")
    return found


def stamp_of(path: str) -> Stamp:
    """The stamp of one file. Raises FileNotFoundError, unless it is behind http(s)."""
    if is_web(path):
        return []
    if "://" in path:
        system, name = fsspec.core.url_to_fs(path)
        return _remote_stamp(system.info(name))
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _remote_stamp(about: Mapping[str, Any]) -> Stamp:
    return [about.get("size"), str(about.get("ETag") or about.get("etag") or about.get("mtime") or "")]


def _listed(path: str) -> Mapping[str, Stamp]:
    """The files of a list, one a line, as Common Crawl's wat.paths.gz has them.

    A line is a URL, or a path: from the root of the server or bucket that the list lies on, or, in a list on this
    machine, from the list's directory.
    """
    # Somebody waits for the answer, so a server that is not there is told of soon.
    with open_download(path, tries=_LIST_TRIES) if is_web(path) else open_binary(path) as file:
        data = file.read()
    try:
        text = (gzip.decompress(data) if path.endswith(".gz") else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a list of files ({error}); one path or URL a line") from error
    scheme, is_url, rest = path.rpartition("://")
    root = os.path.dirname(path)
    if is_url and scheme != "file":
        root = f"{scheme}://{rest.lstrip('/').partition('/')[0]}"
    names = [name if "://" in name else os.path.join(root, name) for name in map(str.strip, text.splitlines()) if name]
    if not names:
        raise InputError(f"{path}: the list names no file")
    try:
        return {name: [] if "://" in name else stamp_of(name) for name in names}
    except OSError as error:
        raise InputError(f"{error.filename}: no such source file; correct {path}") from error
