"""What is asked to go: files of URLs, hosts, SHA-256 of bodies and uids, one a line, as hashes.

Lines are read as a block list's are: a word of white space and # begins a comment, and so does a line's # itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from pipeline.errors import InputError, one_line
from pipeline.records.identity import canonical_url, url_id_of
from pipeline.records.removals import Removals, host_digest
from pipeline.stages.fetch.block import canonical_host
from pipeline.stages.fetch.wire import wire_url
from pipeline.storage.lines import read_lines

__all__ = ["ASKED_BY", "read_asked"]

_COMMENT = re.compile(r"(?:^|\s)#.*", re.DOTALL)
_T = TypeVar("_T")


def _url_id(line: str) -> bytes:
    return url_id_of(canonical_url(wire_url(line)))


def _host(line: str) -> str:
    return host_digest(canonical_host(line))


def _sha256(line: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f]{64}", line) is None:
        raise ValueError("give 64 hex digits")
    return line.lower()


def _uid(line: str) -> bytes:
    if re.fullmatch(r"[0-9A-Fa-f]{32}", line) is None:
        raise ValueError("give 32 hex digits")
    return bytes.fromhex(line)


ASKED_BY = ("urls", "hosts", "sha256", "uids")
"""Options that name a file each."""


def read_asked(files: Mapping[str, str]) -> Removals:
    """What the files name, by option. Raises InputError for a line that is none of its kind, and for nothing at all."""
    found = Removals(
        url_ids=_read(files.get("urls"), _url_id, "URL"),
        hosts=_read(files.get("hosts"), _host, "host"),
        sha256=_read(files.get("sha256"), _sha256, "SHA-256"),
        uids=_read(files.get("uids"), _uid, "uid"),
    )
    if not found:
        raise InputError(f"{', '.join(files.values())}: nothing is named")
    return found


def _read(file: str | None, parse: Callable[[str], _T], kind: str) -> frozenset[_T]:
    if file is None:
        return frozenset()
    found = set()
    for number, line in enumerate(_lines(file), 1):
        entry = _COMMENT.sub("", line).strip()
        if entry:
            try:
                found.add(parse(entry))
            except ValueError as error:
                raise InputError(f"{file}:{number}: {entry[:80]!r} is no {kind} ({error})") from error
    return frozenset(found)


def _lines(file: str) -> list[str]:
    try:
        return read_lines(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({one_line(error)}); give UTF-8 text, one entry a line") from error
