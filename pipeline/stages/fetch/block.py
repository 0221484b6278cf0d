"""The user's block list: hosts, URLs and bodies that are never fetched or kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from configs.load import ConfigError
from pipeline.identity import canonical_url

__all__ = ["BlockList"]

_SHA256 = re.compile(r"[0-9A-Fa-f]{64}\Z")
_COMMENT = re.compile(r"(?:^|\s)#.*", re.DOTALL)  # a # inside a word is a URL's fragment


class BlockList:
    """Entries by kind: 64 hex digits are a body's SHA-256, what holds `://` is a URL, the rest are hosts."""

    def __init__(self, entries: Iterable[str] = (), files: Sequence[str] = ()) -> None:
        """Raises ConfigError for a file that cannot be read or a URL that cannot be understood."""
        self._hosts: set[str] = set()
        self._urls: set[str] = set()
        self._hashes: set[str] = set()
        for entry in entries:
            self._add(entry, "block")
        for file in files:
            for where, entry in _read(file):
                self._add(entry, where)

    def _add(self, entry: str, where: str) -> None:
        if _SHA256.match(entry):
            self._hashes.add(entry.lower())
            return
        try:
            if "://" in entry:
                self._urls.add(canonical_url(entry))
            else:
                host = urlsplit(canonical_url(f"http://{entry.lstrip('*').lstrip('.')}/")).hostname
                self._hosts.add((host or "").rstrip("."))
        except ValueError as error:
            raise ConfigError(f"{where}: {entry!r} is no host, URL or SHA-256; correct or remove it") from error

    def match_url(self, url: str, host: str) -> str | None:
        """The entry that names canonical `url`, its `host` or a domain above it, or None."""
        if url in self._urls:
            return "URL"
        if self._hosts:
            name = host.rstrip(".")
            while name:
                if name in self._hosts:
                    return f"host {name}"
                name = name.partition(".")[2]
        return None

    def match_body(self, body: bytes) -> str | None:
        """The SHA-256 of `body` if it is listed, else None."""
        if not self._hashes:
            return None
        digest = hashlib.sha256(body).hexdigest()
        return f"sha256 {digest}" if digest in self._hashes else None


def _read(file: str) -> Iterator[tuple[str, str]]:
    try:
        with Path(file).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                entry = _COMMENT.sub("", line).strip()
                if entry:
                    yield f"{file}:{number}", entry
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"block_files: cannot read {file} ({error}); give UTF-8 text, one entry a line") from error
